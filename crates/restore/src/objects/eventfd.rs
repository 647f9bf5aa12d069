//! eventfd(2).

use std::os::fd::OwnedFd;

use nix::unistd::write;
use rewake_images::proto::EventfdFileEntry;

use crate::error::{RestoreError, Result};
use crate::sys;

pub(super) fn open(entry: &EventfdFileEntry) -> Result<OwnedFd> {
    let object = || format!("eventfd {}", entry.id);
    // An eventfd is always O_RDWR; the other bit of the access mode says that it counts as a semaphore.
    let semaphore = entry.flags & libc::O_WRONLY.unsigned_abs() != 0;
    let fd = sys::eventfd(semaphore).map_err(RestoreError::call("eventfd", object()))?;
    if entry.counter > 0 {
        write(&fd, &entry.counter.to_ne_bytes()).map_err(RestoreError::call("write", object()))?;
    }
    super::set_status(&fd, entry.flags, entry.id)?;
    Ok(fd)
}
