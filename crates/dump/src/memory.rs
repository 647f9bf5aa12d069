//! Contents of memory: what is the task's own, and what is shared.

use std::fs::File;

use nix::unistd::Pid;
use rewake_images::extra::{AreaExtra, TaskExtra};
use rewake_images::proto::PagemapEntry;
use rewake_images::{CheckpointWriter, Kind, pe};
use rewake_memdump::{
    Area, AreaKind, AreaPages, CaptureOptions, ObjectMemory, PAGE_SIZE, PagePlan, PageRun, capture,
    capture_from, object_runs,
};

use crate::error::{DumpError, Result};
use crate::objects::SharedObject;
use crate::options::DumpReport;

/// Copies the memory that belongs to the task alone.
pub(crate) fn private(
    pid: Pid,
    areas: &[Area],
    writer: &CheckpointWriter,
    threads: usize,
    report: &mut DumpReport,
    extra: &mut TaskExtra,
) -> Result<()> {
    let failed = |source| DumpError::Capture { pid, source };
    let pages = rewake_memdump::survey(pid, areas).map_err(failed)?;
    let mut entries = Vec::new();
    let mut runs = Vec::new();
    for AreaPages { area, runs: of_area, guards } in pages {
        let Some(area) = areas.get(area) else { continue };
        report.pages_scanned += area.len_bytes() / PAGE_SIZE;
        note_guards(area, &guards, extra);
        if matches!(area.kind, AreaKind::AnonShared | AreaKind::FileShared) {
            // Of the object, which is captured once.
            continue;
        }
        entries.extend(of_area.iter().map(pagemap_entry));
        runs.extend(of_area);
    }
    let plan = PagePlan::new(runs);
    let out = writer.pages()?;
    let options = CaptureOptions { threads, ..Default::default() };
    capture(pid, &plan, out.file(), &options).map_err(failed)?;
    report.pages += plan.total_pages();
    let number = u64::from(pid.as_raw().unsigned_abs());
    writer.write_pagemap(Kind::Pagemap, number, out.pages_id(), &entries)?;
    Ok(())
}

fn note_guards(area: &Area, guards: &[std::ops::Range<u64>], extra: &mut TaskExtra) {
    if guards.is_empty() {
        return;
    }
    let words = guards.iter().flat_map(|guard| [guard.start, guard.end]).collect();
    match extra.areas.iter_mut().find(|known| known.start == area.start) {
        Some(known) => known.guards = words,
        None => extra.areas.push(AreaExtra {
            start: area.start,
            end: area.end,
            guards: words,
            ..Default::default()
        }),
    }
}

/// Copies shared memory, each object once.
pub(crate) fn shared(
    objects: &[SharedObject],
    writer: &CheckpointWriter,
    threads: usize,
    report: &mut DumpReport,
) -> Result<()> {
    for object in objects {
        // Errors name the object; there is no one process it belongs to.
        let pid = Pid::from_raw(0);
        let failed = |source| DumpError::Capture { pid, source };
        let file =
            File::from(object.file.try_clone().map_err(DumpError::proc(pid, object.inode.name.clone()))?);
        let size = object.inode.size.next_multiple_of(PAGE_SIZE);
        let runs = object_runs(&file, 0..size).map_err(DumpError::proc(pid, object.inode.name.clone()))?;
        let entries: Vec<_> = runs.iter().map(pagemap_entry).collect();
        let plan = PagePlan::new(runs);
        let out = writer.pages()?;
        let options = CaptureOptions { threads, ..Default::default() };
        let memory = ObjectMemory::new(&file);
        capture_from(&memory, pid, &plan, out.file(), &options).map_err(failed)?;
        report.pages += plan.total_pages();
        report.shared_pages += plan.total_pages();
        report.pages_scanned += size / PAGE_SIZE;
        writer.write_pagemap(Kind::PagemapShmem, object.inode.shmid.into(), out.pages_id(), &entries)?;
    }
    Ok(())
}

/// Both counts are set: CRIU 4.1 and older know only the old one.
fn pagemap_entry(run: &PageRun) -> PagemapEntry {
    PagemapEntry {
        vaddr: run.start,
        compat_nr_pages: u32::try_from(run.pages).unwrap_or(0),
        in_parent: None,
        flags: Some(pe::PRESENT),
        nr_pages: Some(run.pages),
    }
}
