//! Storing only what differs from an earlier checkpoint.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;
use rewake_images::PageStore;

use crate::capture::{Capture, CaptureOptions, CaptureStats};
use crate::error::CaptureError;
use crate::plan::{Chunk, PagePlan};
use crate::query::{PAGE_SIZE, PageCategories, PageRun, push_run};
use crate::remote::RemoteMemory;
use crate::sink::{PageSink, Turn};

/// The pages that are in both lists, each of them ascending.
pub fn common(runs: &[PageRun], others: impl IntoIterator<Item = (u64, u64)>) -> Vec<PageRun> {
    let mut found = Vec::new();
    let mut rest = runs;
    for (start, end) in others {
        while let Some((run, behind)) = rest.split_first() {
            let (from, to) = (run.start.max(start), run.end().min(end));
            if from < to {
                push_run(&mut found, pages(from, to));
            }
            if run.end() > end {
                break;
            }
            rest = behind;
        }
    }
    found
}

/// The pages of `runs` that are not in `others`; both ascending.
pub fn difference(runs: &[PageRun], others: &[PageRun]) -> Vec<PageRun> {
    let mut left = Vec::new();
    let mut rest = others;
    for run in runs {
        let mut at = run.start;
        while let Some((next, behind)) = rest.split_first() {
            if next.end() <= at {
                rest = behind;
                continue;
            }
            if at >= run.end() || next.start >= run.end() {
                break;
            }
            push_pages(&mut left, at, next.start);
            at = next.end().min(run.end());
        }
        push_pages(&mut left, at, run.end());
    }
    left
}

/// Memory to be captured as far as an earlier checkpoint does not have it.
///
/// Compared is every byte, so it does not matter what the parent is a checkpoint of.
#[derive(Debug, Clone, Copy)]
pub struct Increment<'a, M, F> {
    /// Named in errors.
    pub pid: Pid,
    /// What is read.
    pub memory: &'a M,
    /// Asked for pieces that `memory` refuses.
    pub forced: &'a F,
    /// What is compared with; `None` keeps everything.
    pub parent: Option<&'a PageStore>,
    /// Pages may vanish meanwhile, which is no error then.
    pub live: bool,
}

/// What became of the pages that were to be captured; each list ascends if the plan did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Incremented {
    /// What was read.
    pub stats: CaptureStats,
    /// Pages that are in the output now, one behind the other in this order.
    pub here: Vec<PageRun>,
    /// Pages that the parent has as they are.
    pub in_parent: Vec<PageRun>,
    /// Pages that were gone when it was their turn, and are in neither.
    pub lost: u64,
}

impl<M: RemoteMemory + Sync, F: RemoteMemory + Sync> Increment<'_, M, F> {
    /// Reads the pages of `plan` once, and puts those into `out` that the parent does not have as they are. Their places in
    /// the output are not those of the plan: they follow each other without gaps.
    ///
    /// Memory used is three buffers per thread and the lists that are returned.
    ///
    /// # Errors
    /// As [`crate::capture`], and [`CaptureError::Parent`].
    pub fn capture<S: PageSink + ?Sized>(
        &self,
        plan: &PagePlan,
        out: &S,
        options: &CaptureOptions,
    ) -> Result<Incremented, CaptureError> {
        self.run(plan, Some(out), options)
    }

    /// The pages of `runs`, ascending, that the parent has as they are. Only those are read that it has at all; with
    /// [`Increment::live`], one that cannot be read is not the same.
    ///
    /// # Errors
    /// As [`Increment::capture`].
    pub fn same(&self, runs: &[PageRun], options: &CaptureOptions) -> Result<Vec<PageRun>, CaptureError> {
        let Some(parent) = self.parent else { return Ok(Vec::new()) };
        let plan = PagePlan::new(common(runs, parent.runs().iter().map(|run| (run.vaddr, run.end()))));
        Ok(self.run(&plan, None::<&File>, options)?.in_parent)
    }

    fn run<S: PageSink + ?Sized>(
        &self,
        plan: &PagePlan,
        out: Option<&S>,
        options: &CaptureOptions,
    ) -> Result<Incremented, CaptureError> {
        let &Self { pid, memory, forced, parent, live } = self;
        let filter = Filter { parent, out, found: Mutex::new(Found::default()) };
        let capture = Capture { pid, memory, forced, out: &filter, live };
        let stats = capture.run(plan, options)?.stats;
        let found = filter.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Incremented { stats, here: found.here, in_parent: found.in_parent, lost: found.lost })
    }
}

/// Hands on only what the parent does not have.
#[derive(Debug)]
struct Filter<'a, S: ?Sized> {
    parent: Option<&'a PageStore>,
    out: Option<&'a S>,
    found: Mutex<Found>,
}

/// What is known of the chunks that had their turn.
#[derive(Debug, Default)]
struct Found {
    here: Vec<PageRun>,
    in_parent: Vec<PageRun>,
    lost: u64,
    /// Bytes of the output that are taken.
    taken: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Same,
    Lost,
}

/// Bytes of the parent that are held at once.
const COMPARED: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

impl<S: PageSink + ?Sized> Filter<'_, S> {
    /// What is to become of each page of `chunk`.
    fn judge(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64]) -> Result<Vec<Verdict>, CaptureError> {
        let mut verdicts = vec![Verdict::Keep; bytes.len() / PAGE_BYTES];
        if let Some(parent) = self.parent {
            let mut theirs = Vec::new();
            let mut piece_at = 0;
            for &(start, len) in &chunk.iovecs {
                for run in parent.runs_in(start, start + len) {
                    let at = piece_at + bytes_of(run.vaddr - start);
                    mark_same(parent, &run, bytes.get(at..).unwrap_or_default(), &mut theirs, |page| {
                        if let Some(verdict) = verdicts.get_mut(at / PAGE_BYTES + page) {
                            *verdict = Verdict::Same;
                        }
                    })?;
                }
                piece_at += bytes_of(len);
            }
        }
        for place in lost {
            let index = usize::try_from(place - chunk.file_offset / PAGE_SIZE).unwrap_or(usize::MAX);
            if let Some(verdict) = verdicts.get_mut(index) {
                *verdict = Verdict::Lost;
            }
        }
        Ok(verdicts)
    }
}

/// Calls `same` for each page of `run`, counted from its start, that is in `ours` as it is in the parent.
fn mark_same(
    parent: &PageStore,
    run: &rewake_images::PageRun,
    ours: &[u8],
    theirs: &mut Vec<u8>,
    mut same: impl FnMut(usize),
) -> Result<(), CaptureError> {
    theirs.resize(COMPARED, 0);
    let (mut addr, mut page) = (run.vaddr, 0);
    let ours = ours.get(..bytes_of(run.bytes())).unwrap_or(ours);
    for ours in ours.chunks(COMPARED) {
        let theirs = theirs.get_mut(..ours.len()).unwrap_or_default();
        parent.read_at(addr, theirs).map_err(|source| CaptureError::Parent { addr, source })?;
        for (our, their) in ours.chunks(PAGE_BYTES).zip(theirs.chunks(PAGE_BYTES)) {
            if our == their {
                same(page);
            }
            page += 1;
            addr += PAGE_SIZE;
        }
    }
    Ok(())
}

fn bytes_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

impl<S: PageSink + ?Sized> PageSink for Filter<'_, S> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        let verdicts = self.judge(chunk, bytes, lost)?;
        let mut kept: Vec<PageRun> = Vec::new();
        let mut in_parent: Vec<PageRun> = Vec::new();
        let mut gone = 0;
        let addrs = chunk.iovecs.iter().flat_map(|&(start, len)| (start..start + len).step_by(PAGE_BYTES));
        for (addr, verdict) in addrs.zip(&verdicts) {
            match verdict {
                Verdict::Keep => push_run(&mut kept, pages(addr, addr + PAGE_SIZE)),
                Verdict::Same => push_run(&mut in_parent, pages(addr, addr + PAGE_SIZE)),
                Verdict::Lost => gone += 1,
            }
        }
        // Where the pages go depends on how many those before them are, but not on whether they are there already.
        let file_offset = turn.in_order(|| {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            let file_offset = found.taken;
            found.taken += kept.iter().map(PageRun::len_bytes).sum::<u64>();
            found.lost += gone;
            kept.iter().for_each(|&run| push_run(&mut found.here, run));
            in_parent.into_iter().for_each(|run| push_run(&mut found.in_parent, run));
            file_offset
        })?;
        let Some(out) = self.out.filter(|_| !kept.is_empty()) else { return Ok(()) };
        let iovecs = kept.iter().map(|run| (run.start, run.len_bytes())).collect();
        let chunk = Chunk { file_offset, iovecs };
        if verdicts.iter().all(|&verdict| verdict == Verdict::Keep) {
            return out.put(&chunk, bytes, &[], turn);
        }
        let mut left = Vec::with_capacity(bytes_of(chunk.len_bytes()));
        for (page, verdict) in bytes.chunks(PAGE_BYTES).zip(&verdicts) {
            if *verdict == Verdict::Keep {
                left.extend_from_slice(page);
            }
        }
        out.put(&chunk, &left, &[], turn)
    }

    fn finish(&self) -> Result<(), CaptureError> {
        self.out.map_or(Ok(()), S::finish)
    }
}

fn pages(start: u64, end: u64) -> PageRun {
    PageRun { start, pages: (end - start) / PAGE_SIZE, categories: PageCategories::empty() }
}

fn push_pages(runs: &mut Vec<PageRun>, start: u64, end: u64) {
    if start < end {
        push_run(runs, pages(start, end));
    }
}

#[cfg(test)]
#[path = "increment_tests.rs"]
mod tests;
