//! Giving back the room of pages that a younger checkpoint has made useless.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use rewake_images::{Checkpoint, Kind, PageStore};

use crate::error::CaptureError;

/// What was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DedupReport {
    /// Pages files of ancestors that were looked at.
    pub files: u64,
    /// Room that was freed on disk.
    pub freed_bytes: u64,
}

/// Frees the room of all pages in ancestors of the checkpoint in `dir` that it, and so whatever has it as a parent, no
/// longer needs. The ancestors can then not be restored themselves, nor be parents of others.
///
/// Sizes and pagemaps stay; freed pages read as zeros.
///
/// # Errors
/// [`CaptureError::Image`] for a checkpoint that cannot be read; [`CaptureError::Dedup`], also on a file system that cannot
/// do it.
pub fn dedup(dir: &Path) -> Result<DedupReport, CaptureError> {
    let mut report = DedupReport::default();
    for (kind, number, _) in Checkpoint::open(dir)?.images()? {
        if let (Kind::Pagemap | Kind::PagemapShmem, Some(number)) = (kind, number) {
            ancestors_of(&PageStore::open(dir, kind, number)?, &mut report)?;
        }
    }
    Ok(report)
}

fn ancestors_of(store: &PageStore, report: &mut DedupReport) -> Result<(), CaptureError> {
    let mut level = 1;
    while let Some((path, file)) = store.pages_file(level) {
        let failed = |source| CaptureError::Dedup { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(failed)?;
        let mut needed: Vec<(u64, u64)> = store
            .runs()
            .iter()
            .filter(|run| run.level == level)
            .flat_map(|run| store.stored(run))
            .map(|range| (range.start, range.end))
            .collect();
        needed.sort_unstable();
        needed.push((metadata.len(), metadata.len()));
        let writable = File::options().write(true).open(path).map_err(failed)?;
        let mut at = 0;
        for (start, end) in needed {
            punch(&writable, at, start).map_err(|errno| failed(errno.into()))?;
            at = at.max(end);
        }
        writable.sync_all().map_err(failed)?;
        let now = file.metadata().map_err(failed)?;
        report.files += 1;
        report.freed_bytes += on_disk(&metadata).saturating_sub(on_disk(&now));
        level += 1;
    }
    Ok(())
}

fn punch(file: &File, start: u64, end: u64) -> nix::Result<()> {
    if start >= end {
        return Ok(());
    }
    let offset = |bytes: u64| libc::off_t::try_from(bytes).map_err(|_| nix::errno::Errno::EFBIG);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, offset(start)?, offset(end - start)?)
}

fn on_disk(metadata: &Metadata) -> u64 {
    const BLOCK: u64 = 512; // whatever st_blksize says, stat(2)
    metadata.blocks() * BLOCK
}
