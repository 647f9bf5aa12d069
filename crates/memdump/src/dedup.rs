//! Giving back the room of pages that a younger checkpoint has made useless.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use rewake_images::pagemap::parent_dir;
use rewake_images::proto::PagemapHead;
use rewake_images::{Checkpoint, ImageReader, Kind, PageStore};

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
    let images = Checkpoint::open(dir)?.images()?;
    let memory = images.into_iter().filter_map(|(kind, number, _)| match kind {
        Kind::Pagemap | Kind::PagemapShmem => Some((kind, number?)),
        _ => None,
    });
    dedup_memory(dir, memory)
}

/// As [`dedup`], for the memory in `dir` of these kinds and numbers, which need not be a whole checkpoint.
///
/// # Errors
/// As [`dedup`].
pub fn dedup_memory(
    dir: &Path,
    memory: impl IntoIterator<Item = (Kind, u64)>,
) -> Result<DedupReport, CaptureError> {
    let mut report = DedupReport::default();
    for (kind, number) in memory {
        ancestors_of(&PageStore::open(dir, kind, number)?, kind, number, &mut report)?;
    }
    Ok(report)
}

/// Frees the room of all pages that the checkpoint in `dir` needs, its own and those of its ancestors: for one that was
/// restored and never will be again. Nothing else that has these ancestors can be restored then.
///
/// # Errors
/// As [`dedup`].
pub fn spend(dir: &Path) -> Result<DedupReport, CaptureError> {
    let mut report = DedupReport::default();
    for (kind, number, _) in Checkpoint::open(dir)?.images()? {
        if let (Kind::Pagemap | Kind::PagemapShmem, Some(number)) = (kind, number) {
            let store = PageStore::open(dir, kind, number)?;
            let levels = (0..).map_while(|level| store.pages_file(level));
            for (path, _) in levels {
                free_but(path, Vec::new(), &mut report)?;
            }
        }
    }
    Ok(report)
}

fn ancestors_of(
    store: &PageStore,
    kind: Kind,
    number: u64,
    report: &mut DedupReport,
) -> Result<(), CaptureError> {
    let mut dirs = Vec::new();
    while let Some((path, _)) = store.pages_file(dirs.len()) {
        let level = dirs.len();
        if level > 0 {
            let runs = store.runs().iter().filter(|run| run.level == level);
            let needed = runs.flat_map(|run| store.stored(run)).map(|range| (range.start, range.end));
            free_but(path, needed.collect(), report)?;
        }
        let dir = path.parent().map(Path::canonicalize);
        dirs.push(dir.transpose().ok().flatten().unwrap_or_default());
    }
    // The store goes back no further than pages are needed; what lies behind holds none that is. A link that leads nowhere,
    // or back, is the end.
    while let Some(parent) = dirs.last().and_then(|dir| parent_dir(dir).ok().flatten()) {
        if dirs.contains(&parent) {
            break;
        }
        let Some(pages) = pages_of(kind, &parent.join(kind.file_name(Some(number))))? else { break };
        free_but(&parent.join(pages), Vec::new(), report)?;
        dirs.push(parent);
    }
    Ok(())
}

/// Name of the pages file that a pagemap is about, if there is such a pagemap.
fn pages_of(kind: Kind, pagemap: &Path) -> Result<Option<String>, CaptureError> {
    if !pagemap.exists() {
        return Ok(None);
    }
    let head = ImageReader::open(kind, pagemap)?.next_message::<PagemapHead>()?;
    Ok(head.map(|(head, _)| Kind::Pages.file_name(Some(head.pages_id.into()))))
}

/// Frees all of a pages file but what is in `needed`.
fn free_but(path: &Path, mut needed: Vec<(u64, u64)>, report: &mut DedupReport) -> Result<(), CaptureError> {
    let failed = |source| CaptureError::Dedup { path: path.to_owned(), source };
    let file = File::options().write(true).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    needed.sort_unstable();
    needed.push((metadata.len(), metadata.len()));
    let mut at = 0;
    for (start, end) in needed {
        punch(&file, at, start).map_err(|errno| failed(errno.into()))?;
        at = at.max(end);
    }
    file.sync_all().map_err(failed)?;
    let now = file.metadata().map_err(failed)?;
    report.files += 1;
    report.freed_bytes += on_disk(&metadata).saturating_sub(on_disk(&now));
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
