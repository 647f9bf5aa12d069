//! Memory that the dumper kept back: a "lazy" migration, without the laziness.
//!
//! CRIU has such a process run before its memory is there, and fetches pages when they are touched. Here all of it is
//! fetched before the process runs: whatever happens to the other side, there is no process with holes in it.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rewake_images::PageStore;

use crate::error::{RestoreError, Result};
use crate::options::RestoreOptions;

/// Completes `store`, the memory of process `pid`.
pub(crate) fn kept_back(store: &mut PageStore, pid: u32, options: &RestoreOptions) -> Result<()> {
    let Some(first) = store.kept_back().first() else { return Ok(()) };
    let Some(source) = &options.memory_source else {
        let object = format!("memory at {:#x}", first.vaddr);
        return Err(RestoreError::unsupported(
            object,
            "the dumper kept it (lazy migration): a page server is needed",
        ));
    };
    let dir = &options.images_dir;
    let file = unnamed(dir).map_err(RestoreError::file(dir, "keep memory in"))?;
    let total = store.kept_back().iter().map(rewake_images::PageRun::bytes).sum();
    if let Some(progress) = &options.progress {
        progress.expect(total);
    }
    let mut offset = 0;
    for run in store.kept_back() {
        let mut keep = |vaddr: u64, bytes: &[u8]| {
            // The source gives what it was asked for; it is not trusted to, though.
            let inside = vaddr.checked_sub(run.vaddr).filter(|&at| at < run.bytes());
            let at = inside.ok_or(std::io::ErrorKind::InvalidData)?;
            file.write_all_at(bytes, offset + at)?;
            if let Some(progress) = &options.progress {
                progress.done(u64::try_from(bytes.len()).unwrap_or_default());
            }
            Ok(())
        };
        let fetched = source.fetch(pid, run.vaddr, run.pages, &mut keep);
        fetched.map_err(|source| RestoreError::Fetch { pid, vaddr: run.vaddr, source })?;
        offset += run.bytes();
    }
    Ok(store.supply(file)?)
}

/// A file that nobody else sees and that is gone with us. Memory of a process is better on the disk it is on anyway than
/// in another.
fn unnamed(dir: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(dir)
}
