//! Files that were deleted while open: their contents go along.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::stat::FileStat;
use rewake_images::proto::{GhostFileEntry, Timeval};

use super::Refusal;

/// A deleted file, to be written when nothing moves.
#[derive(Debug)]
pub(crate) struct Ghost {
    pub(crate) remap_id: u32,
    pub(crate) entry: GhostFileEntry,
    /// The file, open for reading; `None` if it has no contents (a named pipe, a directory).
    pub(crate) file: Option<File>,
}

impl Ghost {
    pub(super) fn of(
        file: BorrowedFd<'_>,
        stat: &FileStat,
        remap_id: u32,
        limit: u64,
    ) -> Result<Self, Refusal> {
        let size = stat.st_size.unsigned_abs();
        let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if regular && size > limit {
            let reason = format!("the file was deleted, and its {size} bytes exceed the limit of {limit}");
            return Err(Refusal::new(reason, "raise --ghost-limit"));
        }
        if !regular && stat.st_mode & libc::S_IFMT != libc::S_IFIFO {
            return Err(Refusal::new(
                "it was deleted and is neither a file nor a named pipe",
                "close it before the dump",
            ));
        }
        let reopen = || File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let failed = |e| {
            Refusal::new(format!("the file was deleted and cannot be read: {e}"), "close it before the dump")
        };
        let contents = if regular { Some(reopen().map_err(failed)?) } else { None };
        let time =
            |sec: i64, nsec: i64| Timeval { tv_sec: sec.unsigned_abs(), tv_usec: nsec.unsigned_abs() / 1000 };
        let entry = GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            dev: u32::try_from(kernel_dev(stat.st_dev)).ok(),
            ino: Some(stat.st_ino),
            rdev: None,
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            chunks: Some(false),
            size: None,
            symlnk_target: None,
        };
        Ok(Self { remap_id, entry, file: contents })
    }
}

/// The kernel's own encoding of a device number, which the format uses here.
fn kernel_dev(dev: u64) -> u64 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    u64::from(major) << 20 | u64::from(minor)
}
