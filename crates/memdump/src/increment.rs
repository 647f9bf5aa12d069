//! Storing only what differs from an earlier checkpoint.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;
use rewake_images::PageStore;

use crate::capture::{Capture, CaptureOptions};
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

/// The pages of `runs` whose content in `memory` is what `parent` has at the same place.
///
/// Compared is every byte, so it does not matter what the parent is a checkpoint of. Reads each page that the parent has;
/// memory used is two buffers per thread and the list that is returned.
///
/// # Errors
/// As [`crate::capture`], and [`CaptureError::Parent`]. With `live`, pages that cannot be read count as changed.
pub fn same_as_parent<M: RemoteMemory + Sync, F: RemoteMemory + Sync>(
    memory: &M,
    forced: &F,
    pid: Pid,
    runs: &[PageRun],
    parent: &PageStore,
    live: bool,
    options: &CaptureOptions,
) -> Result<Vec<PageRun>, CaptureError> {
    let candidates = common(runs, parent.runs().iter().map(|run| (run.vaddr, run.end())));
    let comparer = Comparer { parent, same: Mutex::new(Vec::new()) };
    let plan = PagePlan::new(candidates);
    Capture { pid, memory, forced, out: &comparer, live }.run(&plan, options)?;
    let mut same = comparer.same.into_inner().unwrap_or_else(PoisonError::into_inner);
    same.sort_unstable_by_key(|run| run.start);
    let mut joined = Vec::with_capacity(same.len());
    same.into_iter().for_each(|run| push_run(&mut joined, run));
    Ok(joined)
}

/// Keeps no page, only which of them the parent has as well.
#[derive(Debug)]
struct Comparer<'a> {
    parent: &'a PageStore,
    same: Mutex<Vec<PageRun>>,
}

/// Bytes of the parent that are held at once.
const COMPARED: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

impl PageSink for Comparer<'_> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], _turn: &Turn<'_>) -> Result<(), CaptureError> {
        let mut theirs = vec![0; COMPARED];
        let mut same = Vec::new();
        let (mut place, mut ours) = (chunk.file_offset / PAGE_SIZE, bytes);
        for &(start, len) in &chunk.iovecs {
            let end = start + len;
            let mut addr = start;
            while addr < end {
                let want = usize::try_from(end - addr).unwrap_or(COMPARED).min(COMPARED);
                let theirs = theirs.get_mut(..want).unwrap_or_default();
                self.parent.read_at(addr, theirs).map_err(|source| CaptureError::Parent { addr, source })?;
                let (now, later) = ours.split_at_checked(want).unwrap_or((ours, &[]));
                ours = later;
                for (our, their) in now.chunks(PAGE_BYTES).zip(theirs.chunks(PAGE_BYTES)) {
                    if our == their && lost.binary_search(&place).is_err() {
                        push_run(&mut same, pages(addr, addr + PAGE_SIZE));
                    }
                    addr += PAGE_SIZE;
                    place += 1;
                }
            }
        }
        self.same.lock().unwrap_or_else(PoisonError::into_inner).extend(same);
        Ok(())
    }
}

/// The runs of `plan` without the pages at the places `lost`, which are ascending.
pub fn without_lost(plan: &PagePlan, lost: &[u64]) -> Vec<PageRun> {
    let mut kept = Vec::new();
    let mut rest = lost;
    for run in plan.runs() {
        let first = run.file_offset / PAGE_SIZE;
        let addr = |place: u64| run.start + (place - first) * PAGE_SIZE;
        let mut at = first;
        while let Some((&place, behind)) = rest.split_first() {
            if place >= first + run.pages {
                break;
            }
            push_pages(&mut kept, addr(at), addr(place));
            at = place + 1;
            rest = behind;
        }
        push_pages(&mut kept, addr(at), addr(first + run.pages));
    }
    kept
}

/// Takes the pages at the places `lost` (ascending) out of a pages file of `total_pages`; those behind move up.
///
/// # Errors
/// [`CaptureError::Write`].
pub fn compact(file: &File, total_pages: u64, lost: &[u64]) -> Result<(), CaptureError> {
    let Some(&first) = lost.first() else { return Ok(()) };
    let mut to = first;
    for (index, &place) in lost.iter().enumerate() {
        let end = lost.get(index + 1).copied().unwrap_or(total_pages);
        move_up(file, (place + 1)..end, to).map_err(failed(to))?;
        to += end.saturating_sub(place + 1);
    }
    file.set_len(to * PAGE_SIZE).map_err(failed(to))
}

fn failed(place: u64) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| CaptureError::Write { offset: place * PAGE_SIZE, source }
}

/// Copies pages to an earlier place.
fn move_up(file: &File, from: std::ops::Range<u64>, mut to: u64) -> io::Result<()> {
    const PAGES: u64 = 256;
    let mut buffer = Vec::new();
    let mut at = from.start;
    while at < from.end {
        let count = (from.end - at).min(PAGES);
        buffer.resize(usize::try_from(count * PAGE_SIZE).unwrap_or(PAGE_BYTES), 0);
        file.read_exact_at(&mut buffer, at * PAGE_SIZE)?;
        file.write_all_at(&buffer, to * PAGE_SIZE)?;
        (at, to) = (at + count, to + count);
    }
    Ok(())
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ascending runs of the pages in `set`.
    fn runs(set: &std::collections::BTreeSet<u64>) -> Vec<PageRun> {
        let mut runs = Vec::new();
        set.iter().for_each(|&page| push_pages(&mut runs, page * PAGE_SIZE, (page + 1) * PAGE_SIZE));
        runs
    }

    fn listed(runs: impl IntoIterator<Item = PageRun>) -> Vec<u64> {
        runs.into_iter().flat_map(|run| (0..run.pages).map(move |n| run.start / PAGE_SIZE + n)).collect()
    }

    proptest! {
        #[test]
        fn sets_of_pages_are_cut_as_sets(
            a in proptest::collection::btree_set(0_u64..60, 0..60),
            b in proptest::collection::btree_set(0_u64..60, 0..60),
        ) {
            let (ours, theirs) = (runs(&a), runs(&b));
            let both: Vec<u64> = a.intersection(&b).copied().collect();
            prop_assert_eq!(listed(common(&ours, theirs.iter().map(|run| (run.start, run.end())))), both);
            prop_assert_eq!(listed(difference(&ours, &theirs)), a.difference(&b).copied().collect::<Vec<_>>());
        }

        #[test]
        fn lost_pages_leave_no_gap(
            set in proptest::collection::btree_set(0_u64..60, 1..60),
            chosen in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let plan = PagePlan::new(runs(&set));
            let lost: Vec<u64> = (0..plan.total_pages()).filter(|&n| chosen[usize::try_from(n).unwrap()]).collect();
            let file = tempfile::tempfile().unwrap();
            for (place, page) in set.iter().enumerate() {
                file.write_all_at(&[u8::try_from(*page).unwrap(); PAGE_BYTES], place as u64 * PAGE_SIZE).unwrap();
            }
            compact(&file, plan.total_pages(), &lost).unwrap();
            let kept = listed(without_lost(&plan, &lost));
            prop_assert_eq!(file.metadata().unwrap().len(), kept.len() as u64 * PAGE_SIZE);
            for (place, page) in kept.into_iter().enumerate() {
                let mut byte = [0];
                file.read_exact_at(&mut byte, place as u64 * PAGE_SIZE).unwrap();
                prop_assert_eq!(u64::from(byte[0]), page);
            }
        }
    }
}
