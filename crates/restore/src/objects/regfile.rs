//! Files that open again by their path.

use std::num::NonZeroUsize;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::thread;

use nix::unistd::{Whence, lseek};
use rewake_images::proto::RegFileEntry;

use crate::error::{RestoreError, Result};

/// What `pos` is for a file that cannot seek.
const NO_POSITION: u64 = u64::MAX;

/// Opens files that are there by their names, by several threads if they are many; all get numbers from `floor` on then.
pub(super) fn open_all(files: &[&RegFileEntry], floor: RawFd) -> Result<Vec<OwnedFd>> {
    const WORTH_THREADS: usize = 64;
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if threads == 1 || files.len() < WORTH_THREADS {
        return files.iter().map(|reg| open(reg, None, false)).collect();
    }
    let share = |files: &[&RegFileEntry]| -> Result<Vec<OwnedFd>> {
        files.iter().map(|reg| super::raised(open(reg, None, false)?, floor)).collect()
    };
    thread::scope(|scope| {
        let shares = files.chunks(files.len().div_ceil(threads));
        let opening: Vec<_> = shares.map(|files| scope.spawn(move || share(files))).collect();
        let mut opened = Vec::with_capacity(files.len());
        for share in opening {
            opened.extend(share.join().expect("opening does not panic")?);
        }
        Ok(opened)
    })
}

/// Opens a file where it was; `ghost` is where a deleted one is for the moment.
pub(super) fn open(reg: &RegFileEntry, ghost: Option<PathBuf>, only_stood_in: bool) -> Result<OwnedFd> {
    if reg.ext == Some(true) {
        return Err(RestoreError::unsupported(format!("external file {}", reg.name), "not built yet"));
    }
    let path = ghost.unwrap_or_else(|| PathBuf::from(&reg.name));
    let flags = if only_stood_in { reg.flags | libc::O_PATH.unsigned_abs() } else { reg.flags };
    let file = super::open_with(&path, flags)?;
    let path_only = flags & libc::O_PATH.unsigned_abs() != 0;
    if let (Ok(position), false) =
        (i64::try_from(reg.pos), path_only || reg.pos == NO_POSITION || reg.pos == 0)
    {
        lseek(&file, position, Whence::SeekSet)
            .map_err(|errno| RestoreError::file(&path, "seek in")(errno.into()))?;
    }
    if path_only {
        return Ok(file.into());
    }
    Ok(file.into())
}
