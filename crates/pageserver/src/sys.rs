//! Descriptors that were inherited by number.
#![expect(unsafe_code, reason = "a number becomes a descriptor")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Takes a duplicate of the descriptor that the starter of this process left open under the number `fd`, and closes that one.
/// Call it before anything else is opened.
///
/// # Errors
/// If there is no such descriptor, or it is one of the standard streams.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    const FIRST: RawFd = 3;
    if fd < FIRST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: it is used for one call only, which fails if there is no such descriptor.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let duplicate = fcntl(borrowed, FcntlArg::F_DUPFD_CLOEXEC(FIRST))?;
    nix::unistd::close(fd)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}
