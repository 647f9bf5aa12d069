//! What scenarios ask of descriptors.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::stat::{FileStat, Mode, fstat},
    unistd::{Whence, lseek},
};

use crate::stage::{At, Check, Failure, ensure_eq};

/// open(2) with exactly these flags.
pub(crate) fn open(path: impl AsRef<Path>, flags: i32) -> Result<OwnedFd, Failure> {
    let path = path.as_ref();
    nix::fcntl::open(path, OFlag::from_bits_retain(flags), Mode::from_bits_retain(0o600))
        .at(format_args!("open {}", path.display()))
}

/// F_GETFL.
pub(crate) fn status(fd: impl AsFd) -> Result<i32, Errno> {
    fcntl(fd, FcntlArg::F_GETFL)
}

/// One read; the bytes, or the errno.
pub(crate) fn read(fd: impl AsFd, most: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; most];
    let got = nix::unistd::read(fd, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// A field of what /proc shows of a descriptor.
pub(crate) fn info(fd: impl AsFd, name: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let field = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let field = field.ok_or_else(|| Failure::new(format!("no {name} in fdinfo")))?;
    Ok(field.trim().to_owned())
}

/// Where the file stands, `None` if it cannot seek.
pub(crate) fn position(fd: impl AsFd) -> Option<i64> {
    lseek(fd, 0, Whence::SeekCur).ok()
}

/// What can be told of a descriptor without using it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Look {
    close_on_exec: bool,
    status: i32,
    position: Option<i64>,
    kind: u32,
    device: u64,
}

/// The look of one descriptor.
pub(crate) fn look(fd: BorrowedFd<'_>) -> Result<Look, Errno> {
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    let FileStat { st_mode, st_rdev, .. } = fstat(fd)?;
    Ok(Look {
        close_on_exec: flags.contains(FdFlag::FD_CLOEXEC),
        // O_DIRECTORY says how it was opened and does nothing to an open file; CRIU opens without it.
        status: status(fd)? & !libc::O_DIRECTORY,
        position: position(fd),
        kind: st_mode & libc::S_IFMT,
        device: st_rdev,
    })
}

/// Every open descriptor, with what can be told of it.
pub(crate) fn table() -> Result<BTreeMap<RawFd, Look>, Failure> {
    let names: Vec<_> = fs::read_dir("/proc/self/fd")?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_, std::io::Error>>()?;
    let mut all = BTreeMap::new();
    for number in names.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok()) {
        match look(super::thread::borrow(number)) {
            Ok(look) => {
                all.insert(number, look);
            }
            // The one that read the directory is closed by now.
            Err(Errno::EBADF) => {}
            Err(errno) => return Err(errno).at(format_args!("look at descriptor {number}")),
        }
    }
    Ok(all)
}

/// Checks that the same descriptors are open as before, with the same look.
pub(crate) fn check_table(before: &BTreeMap<RawFd, Look>) -> Check {
    let now = table()?;
    for number in before.keys().chain(now.keys()) {
        ensure_eq!(now.get(number), before.get(number), "descriptor {number}");
    }
    Ok(())
}

/// Whether two descriptors lead to one open file.
pub(crate) fn same_open_file(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    const KCMP_FILE: u64 = 0;
    let pid = super::pid() as u64;
    let arguments = [pid, pid, KCMP_FILE, one.as_raw_fd() as u64, other.as_raw_fd() as u64, 0];
    // SAFETY: takes integers only.
    unsafe { super::raw(libc::SYS_kcmp, arguments) }.map(|order| order == 0)
}
