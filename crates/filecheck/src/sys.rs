//! The one system call that nix has no wrapper for.
#![expect(unsafe_code, reason = "a raw system call")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

use crate::cookie::Verity;

/// Longest digest of any algorithm (SHA-512).
const MAX_DIGEST: usize = 64;

/// `struct fsverity_digest` of the kernel with room for the digest.
#[repr(C)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; MAX_DIGEST],
}

/// `_IOWR('f', 134, struct fsverity_digest)`: the size is that of the struct without the digest.
const FS_IOC_MEASURE_VERITY: libc::c_ulong = 0xc004_6686;

/// Asks the kernel for the fs-verity digest of an open file, `None` for a file without and for a file system that has
/// none.
///
/// # Errors
///
/// Whatever else the kernel answers.
pub fn measure_verity(file: &File) -> io::Result<Option<Verity>> {
    let room = u16::try_from(MAX_DIGEST).expect("64 fits");
    let mut measured = Measured { algorithm: 0, size: room, digest: [0; MAX_DIGEST] };
    // SAFETY: the pointer is to a writable struct, with room behind its header for as many bytes as `size` says.
    let ret = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY, &raw mut measured) };
    match Errno::result(ret) {
        Ok(_) => {
            let digest = measured.digest.get(..usize::from(measured.size)).unwrap_or_default().to_vec();
            Ok(Some(Verity { algorithm: measured.algorithm, digest }))
        }
        // Not enabled for the file; not known to its file system; a file system that stacks on one without.
        Err(Errno::ENODATA | Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
