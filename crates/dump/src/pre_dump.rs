//! Memory alone, copied while the process runs: the parent of a dump that then has less to copy.

use std::time::Instant;

use rewake_images::CheckpointWriter;

use crate::error::{DumpError, Result};
use crate::memory::Memory;
use crate::options::{DumpOptions, DumpReport};
use crate::preflight::preflight_with;
use crate::write;

/// Writes the private memory of a running process to a directory that can be the parent of the next pre-dump or dump.
///
/// The process is never stopped, so what is written fits no single moment. That is repaired later: whoever uses this as a
/// parent compares it with the memory of the process, page by page. Pages that vanish meanwhile are left out.
///
/// # Errors
/// As [`crate::dump`]: also what only the dump will trip over is told now.
pub fn pre_dump(options: &DumpOptions) -> Result<DumpReport> {
    let begun = Instant::now();
    let pid = options.pid;
    let areas = || rewake_memdump::areas(pid).map_err(|source| DumpError::Capture { pid, source });
    let (obstacles, areas) = preflight_with(pid, areas)?;
    if !obstacles.is_empty() {
        return Err(DumpError::Obstacles { obstacles });
    }
    let mut writer = CheckpointWriter::create(&options.images_dir)?;
    let parent = options.parent.as_ref().map(|link| writer.set_parent(link)).transpose()?;
    let mut report = DumpReport { mappings: areas.len(), ..Default::default() };
    let mut memory = Memory::new(pid, &writer, options.threads, parent.as_deref(), &mut report);
    memory.live = true;
    memory.private(&areas, None)?;
    writer.commit(&write::pre_dump_inventory())?;
    report.total = begun.elapsed();
    Ok(report)
}
