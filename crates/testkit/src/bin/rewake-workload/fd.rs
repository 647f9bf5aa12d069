//! What scenarios ask of descriptors.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// The result of a system call that must not fail.
#[track_caller]
pub(crate) fn must(ret: libc::c_int) -> libc::c_int {
    assert!(ret >= 0, "{}", io::Error::last_os_error());
    ret
}

/// A descriptor that a system call just made.
#[track_caller]
pub(crate) fn made(ret: libc::c_int) -> OwnedFd {
    unsafe { OwnedFd::from_raw_fd(must(ret)) }
}

/// The errno of a call that should fail, 0 if it did not.
pub(crate) fn errno_of(ret: isize) -> i32 {
    if ret < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

/// open(2) with exactly these flags.
#[track_caller]
pub(crate) fn open(path: impl AsRef<Path>, flags: libc::c_int) -> OwnedFd {
    let path = std::ffi::CString::new(path.as_ref().as_os_str().as_encoded_bytes()).unwrap();
    made(unsafe { libc::open(path.as_ptr(), flags, 0o600) })
}

/// A second open file description of the same object.
#[track_caller]
pub(crate) fn reopen(fd: &impl AsRawFd, flags: libc::c_int) -> OwnedFd {
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()), flags)
}

/// F_GETFL.
pub(crate) fn status(fd: &impl AsRawFd) -> libc::c_int {
    must(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })
}

/// One read; the bytes, or the errno.
pub(crate) fn read(fd: &impl AsRawFd, most: usize) -> Result<Vec<u8>, i32> {
    let mut bytes = vec![0; most];
    let got = unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), most) };
    let got = usize::try_from(got).map_err(|_| errno_of(got))?;
    bytes.truncate(got);
    Ok(bytes)
}

/// One write; how many bytes went, or the errno.
pub(crate) fn write(fd: &impl AsRawFd, bytes: &[u8]) -> Result<usize, i32> {
    let put = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(put).map_err(|_| errno_of(put))
}

/// Where the file stands, `None` if it cannot seek.
pub(crate) fn position(fd: &impl AsRawFd) -> Option<i64> {
    let at = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_CUR) };
    (at >= 0).then_some(at)
}

/// Device, inode, links and length.
#[track_caller]
pub(crate) fn stat(fd: &impl AsRawFd) -> libc::stat {
    let mut stat = unsafe { std::mem::zeroed() };
    must(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) });
    stat
}

/// What can be told of a descriptor without using it: F_GETFD, F_GETFL, position, type of file.
type Look = (libc::c_int, libc::c_int, Option<i64>, libc::mode_t);

/// Every descriptor that is open, with what can be told of it.
pub(crate) fn table() -> BTreeMap<RawFd, Look> {
    let names: Vec<_> = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let numbers = names.iter().map(|name| name.to_str().unwrap().parse::<RawFd>().unwrap());
    // The descriptor that read the directory is closed by now.
    let open = numbers.filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0);
    open.map(|fd| {
        let cloexec = must(unsafe { libc::fcntl(fd, libc::F_GETFD) });
        (fd, (cloexec, status(&fd), position(&fd), stat(&fd).st_mode & libc::S_IFMT))
    })
    .collect()
}
