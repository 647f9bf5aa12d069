//! Mappings, pages, and the chain of parents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::files::Files;
use super::finding::{Problem, Report, name_of};
use super::tree::Task;
use crate::error::ImageError;
use crate::framing::ImageReader;
use crate::kind::Kind;
use crate::pagemap::{PARENT_LINK, Places, pages_of};
use crate::{Checkpoint, PAGE_SIZE, proto};

/// Bits of `vma_entry.status`.
mod status {
    pub(super) const VSYSCALL: u32 = 1 << 2;
    pub(super) const FILE_PRIVATE: u32 = 1 << 6;
    pub(super) const FILE_SHARED: u32 = 1 << 7;
    pub(super) const ANON_SHARED: u32 = 1 << 8;
    pub(super) const SYSVIPC: u32 = 1 << 10;
}

/// Every pagemap, its pages file, and the parents it needs.
pub(super) fn check_chain(checkpoint: &Checkpoint, report: &mut Report) {
    parent_link(checkpoint.dir(), report);
    let mut owners = BTreeMap::new();
    for (kind, number, path) in checkpoint.images().unwrap_or_default() {
        let (Kind::Pagemap | Kind::PagemapShmem, Some(number)) = (kind, number) else { continue };
        let name = name_of(&path);
        if let Ok(Some((id, wanted))) = size_wanted(kind, &path) {
            let pages = Kind::Pages.file_name(Some(id.into()));
            let found = checkpoint.dir().join(&pages).metadata().ok().map(|meta| meta.len());
            if let Some(found) = found.filter(|found| *found != wanted) {
                report.add(&pages, None, Problem::Size { found, wanted });
            }
            if let Some(other) = owners.insert(id, name.clone()) {
                report.add(&name, Some(0), Problem::Duplicate { what: format!("{pages}, of {other} too,") });
            }
        }
        let opened = if kind == Kind::Pagemap { checkpoint.memory(number) } else { checkpoint.shmem(number) };
        match opened {
            // Told above, with both sizes.
            Err(ImageError::Invalid { path, .. }) if matches!(kind_of(&path), Some(Kind::Pages)) => {
                let in_parent = path.parent() != Some(checkpoint.dir());
                if in_parent {
                    let what = format!("the parent's {} is too short", name_of(&path));
                    report.contradiction(&name, None, what);
                }
            }
            Err(error) => report.error(&error),
            Ok(_) => {}
        }
    }
}

fn kind_of(path: &Path) -> Option<Kind> {
    Kind::from_file_name(path.file_name()?.to_str()?).map(|(kind, _)| kind)
}

/// The number of the pages file, and the size it must have.
fn size_wanted(kind: Kind, path: &Path) -> crate::Result<Option<(u32, u64)>> {
    let mut reader = ImageReader::open(kind, path)?;
    let Some((head, _)) = reader.next_message::<proto::PagemapHead>()? else { return Ok(None) };
    let mut places = Places::default();
    while let Some((entry, _)) = reader.next_message::<proto::PagemapEntry>()? {
        // What is wrong with an entry is told when the store is opened.
        if places.next(&entry).is_err() {
            return Ok(None);
        }
    }
    Ok(Some((head.pages_id, places.end())))
}

/// A chain is moved and copied as one directory of checkpoints, so its links lead from one to another.
fn parent_link(dir: &Path, report: &mut Report) {
    let link = dir.join(PARENT_LINK);
    if link.symlink_metadata().is_err() {
        return;
    }
    let mut problem = |target: String, why| report.add(PARENT_LINK, None, Problem::Parent { target, why });
    let text =
        std::fs::read_link(&link).or_else(|_| std::fs::read_to_string(&link).map(|t| t.trim_end().into()));
    let Ok(text) = text else { return problem(link.display().to_string(), "cannot be read") };
    let shown = text.display().to_string();
    if text.is_absolute() {
        return problem(shown, "is absolute, and so breaks when the checkpoints are moved");
    }
    let (Ok(target), Ok(home)) = (dir.join(&text).canonicalize(), dir.canonicalize()) else {
        return problem(shown, "leads nowhere");
    };
    if target == home {
        return problem(shown, "leads to the checkpoint itself");
    }
    if !home.parent().is_some_and(|home| target.starts_with(home)) {
        return problem(shown, "leads outside the directory that holds this checkpoint");
    }
    if !target.join(Kind::Inventory.file_name(None)).is_file() {
        return problem(shown, "leads to no checkpoint");
    }
    // The store follows the chain as far as pages want it; a loop further up would go unseen.
    let mut seen = BTreeSet::from([home]);
    let mut at = target;
    while seen.insert(at.clone()) {
        let link = at.join(PARENT_LINK);
        let text = std::fs::read_link(&link)
            .or_else(|_| std::fs::read_to_string(&link).map(|t| t.trim_end().into()));
        let Some(next) = text.ok().and_then(|text| at.join(text).canonicalize().ok()) else { return };
        at = next;
    }
    problem(shown, "begins a loop");
}

/// Mappings of each task, what they map, and that pages lie in them.
pub(super) fn check_mappings(checkpoint: &Checkpoint, tasks: &[Task], files: &Files, report: &mut Report) {
    let segments = segments(checkpoint);
    for task in tasks {
        let Some(mm) = &task.mm else { continue };
        let image = Kind::Mm.file_name(Some(task.pid));
        let mut floor = 0;
        for vma in &mm.vmas {
            let (start, end) = (vma.start, vma.end);
            let mut range = |why| report.add(&image, Some(0), Problem::Range { start, end, why });
            if start >= end || !start.is_multiple_of(PAGE_SIZE) || !end.is_multiple_of(PAGE_SIZE) {
                range("is no range of pages");
                continue;
            }
            if start < floor {
                range("overlaps the mapping before it");
            }
            floor = floor.max(end);
            let mapped = u32::try_from(vma.shmid).unwrap_or(u32::MAX);
            if vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 && !files.has(mapped) {
                report.dangling(&image, 0, "vmas.shmid", format!("file {}", vma.shmid));
            }
            if vma.status & status::SYSVIPC != 0 {
                if !segments.is_empty() && !segments.contains(&vma.shmid) {
                    report.dangling(&image, 0, "vmas.shmid", format!("System V segment {}", vma.shmid));
                }
            } else if vma.status & status::ANON_SHARED != 0
                && !checkpoint.exists(Kind::PagemapShmem, Some(vma.shmid))
            {
                let wanted = Kind::PagemapShmem.file_name(Some(vma.shmid));
                report.dangling(&image, 0, "vmas.shmid", wanted);
            }
        }
        pages_inside(checkpoint, task.pid, &mm.vmas, report);
    }
}

fn segments(checkpoint: &Checkpoint) -> BTreeSet<u64> {
    let images = checkpoint.images().unwrap_or_default().into_iter();
    let numbers = images.filter(|(kind, ..)| *kind == Kind::IpcnsShm).filter_map(|(_, number, _)| number);
    let entries = numbers
        .flat_map(|n| checkpoint.read_all::<proto::IpcShmEntry>(Kind::IpcnsShm, Some(n)).unwrap_or_default());
    entries.map(|entry| entry.desc.id.into()).collect()
}

fn pages_inside(checkpoint: &Checkpoint, pid: u64, vmas: &[proto::VmaEntry], report: &mut Report) {
    let Ok(Some(mut reader)) = checkpoint.entries(Kind::Pagemap, Some(pid)) else { return };
    if !matches!(reader.next_message::<proto::PagemapHead>(), Ok(Some(_))) {
        return;
    }
    let image = Kind::Pagemap.file_name(Some(pid));
    let mut index = 0;
    while let Ok(Some((entry, _))) = reader.next_message::<proto::PagemapEntry>() {
        index += 1;
        let start = entry.vaddr;
        let end = start.saturating_add(pages_of(&entry).saturating_mul(PAGE_SIZE));
        let mut at = start;
        // Neighbouring mappings may share an entry.
        while at < end {
            let mapping = vmas.iter().find(|vma| vma.start <= at && at < vma.end);
            match mapping.filter(|vma| vma.status & status::VSYSCALL == 0) {
                Some(vma) => at = vma.end,
                None => {
                    let why = "has pages that no mapping holds";
                    report.add(&image, Some(index), Problem::Range { start, end, why });
                    break;
                }
            }
        }
    }
}
