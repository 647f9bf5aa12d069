//! Memory alone, copied while the process runs: the parent of a dump that then has less to copy.

use std::time::Instant;

use nix::unistd::Pid;
use rewake_images::CheckpointWriter;
use rewake_memdump::{Area, DirtyTracker, PageRun, VmFlags};
use rewake_tracee::{Release, ThreadGroup};

use crate::error::{DumpError, Result};
use crate::memory::Memory;
use crate::options::{DumpOptions, DumpReport};
use crate::preflight::preflight_with;
use crate::survey::finished;
use crate::write;

/// Areas without the mark that our own tracking leaves on them.
pub(crate) fn without_our_mark(mut areas: Vec<Area>, tracked: bool) -> Vec<Area> {
    if tracked {
        areas.iter_mut().for_each(|area| area.vm_flags.remove(VmFlags::UFFD_WP));
    }
    areas
}

/// Writes the private memory of a running process to a directory that can be the parent of the next pre-dump or dump.
///
/// The process is never stopped, so what is written fits no single moment. That is repaired later: whoever uses this as a
/// parent compares it with the memory of the process, page by page. Pages that vanish meanwhile are left out.
///
/// # Errors
/// As [`crate::dump`]: also what only the dump will trip over is told now.
pub fn pre_dump(options: &DumpOptions) -> Result<DumpReport> {
    pre_dump_with(options, None, true)
}

/// As [`pre_dump`], with what `tracker` says of writes since the parent was made; with `compare`, that is not asked.
pub(crate) fn pre_dump_with(
    options: &DumpOptions,
    tracker: Option<&mut (dyn DirtyTracker + '_)>,
    compare: bool,
) -> Result<DumpReport> {
    let begun = Instant::now();
    let pid = options.pid;
    let failed = DumpError::capture(pid);
    let ours = tracker.is_some();
    let areas = || rewake_memdump::areas(pid).map(|areas| without_our_mark(areas, ours)).map_err(failed);
    let (obstacles, areas) = preflight_with(pid, areas)?;
    if !obstacles.is_empty() {
        return Err(DumpError::Obstacles { obstacles });
    }
    let mut writer = CheckpointWriter::create(&options.images_dir)?;
    let parent = options.parent.as_ref().map(|link| writer.set_parent(link)).transpose()?;
    let mut report = DumpReport { mappings: areas.len(), ..Default::default() };
    // Before any page is chosen: what is written from here on, the next round is told.
    let written = match tracker {
        Some(tracker) => Some(written(pid, tracker, &areas, &mut report)?),
        None => None,
    };
    let mut memory = Memory::new(pid, &writer, options, parent.as_deref(), &mut report);
    memory.live = true;
    memory.written = written.as_deref().filter(|_| !compare);
    memory.private(&areas, None)?;
    options.go_on()?;
    writer.commit(&write::pre_dump_inventory())?;
    report.total = begun.elapsed();
    finished(options, &report)?;
    Ok(report)
}

/// What was written since the last round. For areas that are new, the process is stopped as long as it takes to begin to
/// track them.
fn written(
    pid: Pid,
    tracker: &mut dyn DirtyTracker,
    areas: &[Area],
    report: &mut DumpReport,
) -> Result<Vec<PageRun>> {
    let failed = DumpError::capture(pid);
    let written = tracker.written(areas).map_err(failed)?;
    if tracker.wants_to_begin() {
        let freezing = Instant::now();
        let group = ThreadGroup::seize(pid).map_err(DumpError::tracee(pid))?;
        report.freezing = freezing.elapsed();
        let frozen = Instant::now();
        // Dropped on an error, the group goes on.
        tracker.begin(&rewake_memdump::maps(pid).map_err(failed)?);
        group.release(Release::Resume).map_err(DumpError::tracee(pid))?;
        report.frozen = frozen.elapsed();
        tracker.arm().map_err(failed)?;
    }
    Ok(written)
}
