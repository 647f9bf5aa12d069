//! Memory alone, copied while the process runs: the parent of a dump that then has less to copy.

use std::time::Instant;

use rewake_images::CheckpointWriter;

use crate::error::{DumpError, Result};
use crate::memory::{Known, Memory, Parent};
use crate::objects::{Search, shared_of_running};
use crate::options::{DumpOptions, DumpReport};
use crate::preflight::{self, Running};
use crate::survey::finished;
use crate::tracking::Tracking;
use crate::write;

/// Writes the memory of a running process to a directory that can be the parent of the next pre-dump or dump.
///
/// The process is never stopped, so what is written fits no single moment. That is repaired later: whoever uses this as a
/// parent compares it with the memory of the process, page by page. Pages that vanish meanwhile are left out.
///
/// # Errors
/// As [`crate::dump`]: also what only the dump will trip over is told now.
pub fn pre_dump(options: &DumpOptions) -> Result<DumpReport> {
    pre_dump_with(options, None)
}

/// As [`pre_dump`], with what `tracking` knows of writes since the parent was made.
pub(crate) fn pre_dump_with(
    options: &DumpOptions,
    mut tracking: Option<&mut Tracking>,
) -> Result<DumpReport> {
    let begun = Instant::now();
    let pid = options.pid;
    let unmarked = |areas| match &tracking {
        Some(tracking) => tracking.unmarked(areas),
        None => areas,
    };
    let areas = || rewake_memdump::areas(pid).map_err(DumpError::capture(pid));
    let looked = preflight::look(options, Search::Quick, areas, unmarked)?;
    let Running { areas, .. } = looked.unobstructed()?;
    let mut writer = CheckpointWriter::create(&options.images_dir)?;
    let parent = options.parent.as_ref().map(|link| writer.set_parent(link)).transpose()?;
    let elsewhere = options.memory_target.is_some();
    let parent = parent.map(|dir| Parent::open(dir, pid, elsewhere)).transpose()?;
    let mut report = DumpReport { mappings: areas.len(), ..Default::default() };
    // Before any page is chosen: what is written from here on, the next round is told.
    let written = match &mut tracking {
        Some(tracking) => tracking.look(&areas, &mut report)?,
        None => None,
    };
    let mut memory = Memory::new(pid, &writer, options, parent.as_ref(), &mut report);
    memory.live = true;
    if let Some(written) = &written {
        memory.known = Known::Written { written, same: None, compare: false };
    }
    memory.private(&areas, None)?;
    memory.shared(&shared_of_running(pid, &areas))?;
    options.memory_is_complete()?;
    writer.commit(&write::pre_dump_inventory(options))?;
    report.total = begun.elapsed();
    finished(options, &report)?;
    Ok(report)
}
