//! Files that open again by their path.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::unistd::{Whence, lseek};
use rewake_filecheck::Opening;
use rewake_images::proto::RegFileEntry;

use crate::error::{RestoreError, Result};

/// What `pos` is for a file that cannot seek.
const NO_POSITION: u64 = u64::MAX;

/// How a file is opened that has its name.
pub(crate) fn opening(reg: &RegFileEntry) -> Opening {
    Opening { flags: super::open_flags(reg.flags), position: position(reg).unwrap_or(0) }
}

/// Where it was read or written next, `None` if it has no such place.
fn position(reg: &RegFileEntry) -> Option<i64> {
    let path_only = reg.flags & libc::O_PATH.unsigned_abs() != 0;
    i64::try_from(reg.pos).ok().filter(|_| !path_only && reg.pos != NO_POSITION)
}

/// Opens a file where it was; `ghost` is where a deleted one is for the moment.
pub(super) fn open(reg: &RegFileEntry, ghost: Option<PathBuf>, only_stood_in: bool) -> Result<OwnedFd> {
    if reg.ext == Some(true) {
        return Err(RestoreError::unsupported(format!("external file {}", reg.name), "not built yet"));
    }
    let path = ghost.unwrap_or_else(|| PathBuf::from(&reg.name));
    let flags = if only_stood_in { reg.flags | libc::O_PATH.unsigned_abs() } else { reg.flags };
    let file = super::open_with(&path, flags)?;
    if let Some(position) = position(reg).filter(|at| *at != 0 && !only_stood_in) {
        lseek(&file, position, Whence::SeekSet)
            .map_err(|errno| RestoreError::file(&path, "seek in")(errno.into()))?;
    }
    Ok(file.into())
}
