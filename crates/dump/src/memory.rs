//! Contents of memory: what is the task's own, and what is shared.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Instant;

use nix::unistd::Pid;
use rewake_images::extra::TaskExtra;
use rewake_images::pagemap::Compression;
use rewake_images::proto::PagemapEntry;
use rewake_images::{CheckpointWriter, Kind, PageStore, pe};
use rewake_memdump::{
    Area, AreaKind, AreaPages, CaptureOptions, CompressedPages, Increment, Incremented, MemoryTarget,
    ObjectMemory, PAGE_SIZE, PageHashes, PagePlan, PageRun, PagesFile, ProcMem, ProcessVm, Remembering,
    RemoteMemory, common, difference, object_runs,
};

use crate::error::{DumpError, Result};
use crate::objects::SharedObject;
use crate::options::{DumpOptions, DumpReport};

/// The checkpoint before this one.
#[derive(Debug)]
pub(crate) struct Parent {
    dir: PathBuf,
    /// The private memory of the process, opened early: the list of its pages can be long.
    private: Option<PageStore>,
}

impl Parent {
    /// The checkpoint in `dir`, for memory of `pid`; if that went `elsewhere`, there are only hashes of it here.
    pub(crate) fn open(dir: PathBuf, pid: Pid, elsewhere: bool) -> Result<Self> {
        let mut parent = Self { dir, private: None };
        if !elsewhere {
            parent.private = parent.store(Kind::Pagemap, number(pid))?;
        }
        Ok(parent)
    }

    /// Whether it has private memory of the process.
    pub(crate) fn has_private(&self) -> bool {
        self.private.is_some()
    }

    /// What it has of some memory, if it has that at all.
    fn store(&self, kind: Kind, number: u64) -> Result<Option<PageStore>> {
        if !self.dir.join(kind.file_name(Some(number))).exists() {
            tracing::info!(parent = %self.dir.display(), number, "the parent has none of this memory");
            return Ok(None);
        }
        Ok(Some(PageStore::open(&self.dir, kind, number)?))
    }
}

/// What is known of the pages that the parent has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Known<'a> {
    /// Nothing: they are compared.
    #[default]
    Nothing,
    /// Which of them may have been written, ascending, since they were the same: all of them, or only those in `same`.
    /// With `compare`, those that may have been written are compared.
    Written { written: &'a [PageRun], same: Option<&'a [PageRun]>, compare: bool },
}

/// Writes memory into a checkpoint, as far as its parent does not have it.
#[derive(Debug)]
pub(crate) struct Memory<'a> {
    pid: Pid,
    writer: &'a CheckpointWriter,
    options: CaptureOptions,
    compress: Option<Compression>,
    target: Option<&'a dyn MemoryTarget>,
    track_mem: bool,
    parent: Option<&'a Parent>,
    report: &'a mut DumpReport,
    /// Whose memory is read: the task's, or that of its copy.
    pub(crate) source: Pid,
    /// The task runs on meanwhile.
    pub(crate) live: bool,
    pub(crate) known: Known<'a>,
    /// The pages to store, if they are known already.
    pub(crate) surveyed: Option<Vec<AreaPages>>,
}

impl<'a> Memory<'a> {
    /// Memory of `pid`, which stands still.
    pub(crate) fn new(
        pid: Pid,
        writer: &'a CheckpointWriter,
        options: &'a DumpOptions,
        parent: Option<&'a Parent>,
        report: &'a mut DumpReport,
    ) -> Self {
        let capture = CaptureOptions {
            threads: options.threads,
            progress: options.progress.clone(),
            ..Default::default()
        };
        Self {
            pid,
            writer,
            options: capture,
            compress: options.compress,
            target: options.memory_target.as_deref(),
            track_mem: options.track_mem,
            parent,
            report,
            source: pid,
            live: false,
            known: Known::Nothing,
            surveyed: None,
        }
    }

    /// The pages of private memory to store, ascending; guard pages are noted in `extra`.
    fn chosen(&mut self, areas: &[Area], mut extra: Option<&mut TaskExtra>) -> Result<Vec<PageRun>> {
        let mut runs = Vec::new();
        let surveyed = match self.surveyed.take() {
            Some(surveyed) => surveyed,
            None => rewake_memdump::survey(self.source, areas).map_err(DumpError::capture(self.source))?,
        };
        for AreaPages { area, runs: of_area, guards } in surveyed {
            let Some(area) = areas.get(area) else { continue };
            self.report.pages_scanned += area.len_bytes() / PAGE_SIZE;
            if let Some(extra) = extra.as_deref_mut() {
                note_guards(area, &guards, extra);
            }
            // What is of an object is captured once, with the object.
            if !matches!(area.kind, AreaKind::AnonShared | AreaKind::FileShared) {
                of_area.into_iter().for_each(|run| push_ascending(&mut runs, run));
            }
        }
        Ok(runs)
    }

    /// The pages of private memory that are there now, ascending. The process runs meanwhile.
    pub(crate) fn there_now(&mut self, areas: &[Area]) -> Result<Vec<PageRun>> {
        let choosing = Instant::now();
        let scanned = self.report.pages_scanned;
        let runs = self.chosen(areas, None)?;
        // They are counted when it stands.
        self.report.pages_scanned = scanned;
        self.report.choosing += choosing.elapsed();
        Ok(runs)
    }

    /// Those of `runs` that are now as the parent has them. The process runs meanwhile.
    pub(crate) fn same_now(&mut self, runs: &[PageRun]) -> Result<Vec<PageRun>> {
        let Some(store) = self.parent.and_then(|parent| parent.private.as_ref()) else {
            return Ok(Vec::new());
        };
        let choosing = Instant::now();
        let forced = ProcMem::open(self.pid).map_err(DumpError::capture(self.pid))?;
        let memory = ProcessVm::new(self.pid);
        let increment =
            Increment { pid: self.pid, memory: &memory, forced: &forced, parent: Some(store), live: true };
        let same = increment.same(runs, &self.options).map_err(DumpError::capture(self.pid))?;
        self.report.choosing += choosing.elapsed();
        Ok(same)
    }

    /// Copies the memory that belongs to the task alone, and notes guard pages in `extra`.
    pub(crate) fn private(&mut self, areas: &[Area], extra: Option<&mut TaskExtra>) -> Result<()> {
        let pid = self.source;
        let failed = DumpError::capture(pid);
        let choosing = Instant::now();
        let runs = self.chosen(areas, extra)?;
        let store = self.parent.and_then(|parent| parent.private.as_ref());
        let forced = ProcMem::open(pid).map_err(failed)?;
        let memory = ProcessVm::new(pid);
        let there = self.same_there(Kind::Pagemap, number(self.pid), (pid, &memory, &forced), &runs)?;
        let (compared, same) = match (store, self.known) {
            _ if self.target.is_some() => (None, there.same.clone()),
            (Some(store), Known::Written { written, same, compare }) => {
                let theirs = match same {
                    Some(same) => common(&runs, same.iter().map(|run| (run.start, run.end()))),
                    None => common(&runs, store.runs().iter().map(|run| (run.vaddr, run.end()))),
                };
                (Some(store).filter(|_| compare), difference(&theirs, written))
            }
            (store, _) => (store, Vec::new()),
        };
        let plan = PagePlan::new(difference(&runs, &same));
        self.report.choosing += choosing.elapsed();

        let increment =
            Increment { pid, memory: &memory, forced: &forced, parent: compared, live: self.live };
        self.store(Kind::Pagemap, number(self.pid), &increment, &plan, &same, there.hashes.as_ref())?;
        Ok(())
    }

    /// Copies the pages of `plan`, as far as the parent does not have them, and writes the pagemap of these and of `same`,
    /// which the parent is known to have. Gives how many are here, and how many are in the parent.
    fn store<M: RemoteMemory + Sync, F: RemoteMemory + Sync>(
        &mut self,
        kind: Kind,
        number: u64,
        increment: &Increment<'_, M, F>,
        plan: &PagePlan,
        same: &[PageRun],
        hashes: Option<&PageHashes>,
    ) -> Result<(u64, u64)> {
        let failed = DumpError::capture(increment.pid);
        let copying = Instant::now();
        let done = match self.target {
            Some(target) => {
                let out = target.open(kind, number, same).map_err(failed)?;
                // A pre-dump is made to be a parent.
                let done = if self.track_mem || self.live {
                    let dir = self.writer.staging_dir();
                    let out = Remembering::new(&*out, dir, kind, number).map_err(failed)?;
                    let done = increment.capture(plan, &out, &self.options).map_err(failed)?;
                    out.write(hashes, same).map_err(failed)?;
                    done
                } else {
                    increment.capture(plan, &*out, &self.options).map_err(failed)?
                };
                self.report.pages_bytes += total(&done.here) * PAGE_SIZE;
                done
            }
            None => self.store_here(kind, number, increment, plan, same)?,
        };
        self.report.copying += copying.elapsed();
        let (here, in_parent) = (total(&done.here), total(same) + total(&done.in_parent));
        self.report.pages += here;
        self.report.parent_pages += in_parent;
        self.report.lost_pages += done.lost;
        Ok((here, in_parent))
    }

    /// Copies them into the checkpoint.
    fn store_here<M: RemoteMemory + Sync, F: RemoteMemory + Sync>(
        &mut self,
        kind: Kind,
        number: u64,
        increment: &Increment<'_, M, F>,
        plan: &PagePlan,
        same: &[PageRun],
    ) -> Result<Incremented> {
        let failed = DumpError::capture(increment.pid);
        let out = self.writer.pages()?;
        let (done, mut entries) = match self.compress {
            None => {
                let sink = PagesFile::new(out.file());
                let buffer_bytes = sink.buffer_bytes(self.options.buffer_bytes);
                let options = CaptureOptions { buffer_bytes, ..self.options.clone() };
                let done = increment.capture(plan, &sink, &options).map_err(failed)?;
                let entries = done.here.iter().map(|run| entry(run, pe::PRESENT)).collect();
                self.report.pages_bytes += total(&done.here) * PAGE_SIZE;
                (done, entries)
            }
            Some(how) => {
                let sink = CompressedPages::new(out.file(), how);
                let done = increment.capture(plan, &sink, &self.options).map_err(failed)?;
                self.report.pages_bytes += sink.bytes();
                (done, sink.into_entries())
            }
        };
        add_of_parent(&mut entries, same.iter().chain(&done.in_parent));
        self.writer.write_pagemap(kind, number, out.pages_id(), &entries)?;
        Ok(done)
    }

    /// The pages of `runs` that are now as they went to another place in an earlier round, as far as that is known here.
    fn same_there<M: RemoteMemory + Sync, F: RemoteMemory + Sync>(
        &self,
        kind: Kind,
        number: u64,
        source: (Pid, &M, &F),
        runs: &[PageRun],
    ) -> Result<There> {
        let (Some(target), Some(parent)) = (self.target, self.parent) else { return Ok(There::default()) };
        let failed = DumpError::capture(source.0);
        let hashes = PageHashes::open(&parent.dir, kind, number).map_err(failed)?;
        let Some(hashes) = hashes else { return Ok(There::default()) };
        if !target.has_parent(kind, number).map_err(failed)? {
            tracing::warn!(number, "the page server has no earlier memory of it: all of it is sent");
            return Ok(There::default());
        }
        let same = hashes.same(source, runs, self.live, &self.options).map_err(failed)?;
        Ok(There { hashes: Some(hashes), same })
    }

    /// Copies shared memory, each object once.
    pub(crate) fn shared(&mut self, objects: &[SharedObject]) -> Result<()> {
        for object in objects {
            let pid = self.pid;
            let name = || DumpError::proc(pid, object.inode.name.clone());
            let choosing = Instant::now();
            // Opened anew: looking for holes moves the position, and that of the descriptor is the program's.
            let file = File::open(format!("/proc/self/fd/{}", object.file.as_raw_fd())).map_err(name())?;
            let size = object.inode.size.next_multiple_of(PAGE_SIZE);
            let runs = object_runs(&file, 0..size).map_err(name())?;
            let memory = ObjectMemory::new(&file);
            let number = u64::from(object.inode.shmid);
            // Anybody may write to it, by any mapping or descriptor: only comparing tells.
            let here = self.parent.filter(|_| self.target.is_none());
            let store = here.map(|parent| parent.store(Kind::PagemapShmem, number)).transpose()?.flatten();
            let there = self.same_there(Kind::PagemapShmem, number, (pid, &memory, &memory), &runs)?;
            let increment =
                Increment { pid, memory: &memory, forced: &memory, parent: store.as_ref(), live: self.live };
            self.report.choosing += choosing.elapsed();
            let plan = PagePlan::new(difference(&runs, &there.same));
            let kind = Kind::PagemapShmem;
            let hashes = there.hashes.as_ref();
            let (here, in_parent) = self.store(kind, number, &increment, &plan, &there.same, hashes)?;
            self.report.shared_pages += here;
            self.report.shared_parent_pages += in_parent;
            self.report.pages_scanned += size / PAGE_SIZE;
            self.report.shared_pages_scanned += size / PAGE_SIZE;
        }
        Ok(())
    }
}

/// What is known here of earlier memory at another place.
#[derive(Debug, Default)]
struct There {
    hashes: Option<PageHashes>,
    /// Pages that are as they were, ascending.
    same: Vec<PageRun>,
}

/// The number of the images of a process.
fn number(pid: Pid) -> u64 {
    u64::from(pid.as_raw().unsigned_abs())
}

fn note_guards(area: &Area, guards: &[std::ops::Range<u64>], extra: &mut TaskExtra) {
    if guards.is_empty() {
        return;
    }
    let words = guards.iter().flat_map(|guard| [guard.start, guard.end]).collect();
    extra.area_mut(area.start, area.end).guards = words;
}

/// Adds what of `run` lies behind all others: the list of mappings of a running process can be torn, so that one shows up
/// in two places.
fn push_ascending(runs: &mut Vec<PageRun>, run: PageRun) {
    let start = runs.last().map_or(run.start, |last| last.end().max(run.start));
    if start < run.end() {
        runs.push(PageRun { start, pages: (run.end() - start) / PAGE_SIZE, ..run });
    }
}

fn total(runs: &[PageRun]) -> u64 {
    runs.iter().map(|run| run.pages).sum()
}

/// Adds the entries of pages that the parent has; all ascend then.
fn add_of_parent<'a>(entries: &mut Vec<PagemapEntry>, in_parent: impl IntoIterator<Item = &'a PageRun>) {
    entries.extend(in_parent.into_iter().map(|run| entry(run, pe::PARENT)));
    entries.sort_by_key(|entry| entry.vaddr);
}

/// Both counts are set: CRIU 4.1 and older know only the old one.
fn entry(run: &PageRun, flags: u32) -> PagemapEntry {
    PagemapEntry {
        vaddr: run.start,
        compat_nr_pages: u32::try_from(run.pages).unwrap_or(0),
        in_parent: None,
        flags: Some(flags),
        nr_pages: Some(run.pages),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use rewake_memdump::PageCategories;

    use super::*;

    fn run(page: u64, pages: u64) -> PageRun {
        PageRun { start: page * PAGE_SIZE, pages, categories: PageCategories::empty() }
    }

    #[test]
    fn a_torn_list_of_mappings_makes_no_page_appear_twice() {
        let mut runs = Vec::new();
        [run(1, 4), run(3, 1), run(4, 3), run(2, 5), run(9, 1)]
            .into_iter()
            .for_each(|next| push_ascending(&mut runs, next));
        assert_eq!(runs, [run(1, 4), run(5, 2), run(9, 1)]);
    }

    #[test]
    fn entries_ascend_whichever_generation_they_are_of() {
        let mut found = vec![entry(&run(1, 2), pe::PRESENT), entry(&run(5, 1), pe::PRESENT)];
        add_of_parent(&mut found, &[run(3, 2), run(7, 1)]);
        let seen: Vec<_> = found.iter().map(|e| (e.vaddr / PAGE_SIZE, e.nr_pages(), e.flags())).collect();
        assert_eq!(seen, [(1, 2, 4), (3, 2, 1), (5, 1, 4), (7, 1, 1)]);
    }
}
