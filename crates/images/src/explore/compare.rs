//! Comparing memory page by page.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use serde::Serialize;

use super::mems::hex;
use crate::PAGE_SIZE;
use crate::error::{ImageError, Result};
use crate::pagemap::{PageRun, PageStore};

/// How pages differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PageChange {
    /// Both checkpoints have them, with other bytes.
    Changed,
    /// Only the second has them.
    Added,
    /// Only the first has them.
    Removed,
}

/// Pages that follow each other and differ alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PageRange {
    /// The first.
    #[serde(serialize_with = "hex")]
    pub start: u64,
    /// How many.
    pub pages: u64,
    /// How they differ.
    pub change: PageChange,
}

/// All pages that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PageChanges {
    /// How many changed.
    pub changed: u64,
    /// How many came.
    pub added: u64,
    /// How many went.
    pub removed: u64,
    /// Where.
    pub ranges: Vec<PageRange>,
}

impl PageChanges {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn add(&mut self, start: u64, pages: u64, change: PageChange) {
        *match change {
            PageChange::Changed => &mut self.changed,
            PageChange::Added => &mut self.added,
            PageChange::Removed => &mut self.removed,
        } += pages;
        match self.ranges.last_mut() {
            Some(last) if last.change == change && last.start + last.pages * PAGE_SIZE == start => {
                last.pages += pages;
            }
            _ => self.ranges.push(PageRange { start, pages, change }),
        }
    }
}

/// Compares the pages of two stores, either of which may not be there.
pub(super) fn compare(a: Option<&PageStore>, b: Option<&PageStore>) -> Result<PageChanges> {
    let mut changes = PageChanges::default();
    let (mut left, mut right) = (Cursor::new(a), Cursor::new(b));
    let mut at = 0;
    while let Some((start, end)) = left.next_range(at).into_iter().chain(right.next_range(at)).min() {
        let (x, y) = (left.run_at(start), right.run_at(start));
        // Up to where neither side begins or ends something.
        let other = [&left, &right]
            .into_iter()
            .filter_map(|c| c.next_range(start))
            .map(|(s, e)| if s > start { s } else { e });
        let end = other.fold(end, u64::min);
        let pages = (end - start) / PAGE_SIZE;
        match (a.zip(x), b.zip(y)) {
            (Some((a, x)), Some((b, y))) => {
                if !same_place(a, &x, b, &y, start)? {
                    compare_bytes(a, b, start, end, &mut changes)?;
                }
            }
            (Some(_), None) => changes.add(start, pages, PageChange::Removed),
            (None, Some(_)) => changes.add(start, pages, PageChange::Added),
            (None, None) => {}
        }
        at = end;
        left.forward(at);
        right.forward(at);
    }
    Ok(changes)
}

/// Walks over the runs of a store.
struct Cursor<'s> {
    runs: &'s [PageRun],
}

impl<'s> Cursor<'s> {
    fn new(store: Option<&'s PageStore>) -> Self {
        Self { runs: store.map(PageStore::runs).unwrap_or_default() }
    }

    fn forward(&mut self, at: u64) {
        while let Some((first, rest)) = self.runs.split_first() {
            if first.end() > at {
                break;
            }
            self.runs = rest;
        }
    }

    /// What is left of the run at `at`, or the next.
    fn next_range(&self, at: u64) -> Option<(u64, u64)> {
        self.runs.first().map(|run| (run.vaddr.max(at), run.end()))
    }

    fn run_at(&self, at: u64) -> Option<PageRun> {
        self.runs.first().copied().filter(|run| run.vaddr <= at)
    }
}

/// Whether both take the page at `vaddr` from the same place of the same file: an ancestor of both, or one of the other.
fn same_place(a: &PageStore, x: &PageRun, b: &PageStore, y: &PageRun, vaddr: u64) -> Result<bool> {
    // The blocks of an entry lie at one place, and hold one page for an address.
    let place =
        |run: &PageRun| if run.compressed { run.file_offset } else { run.file_offset + (vaddr - run.vaddr) };
    if place(x) != place(y) {
        return Ok(false);
    }
    let identity = |store: &PageStore, run: &PageRun| {
        let Some((path, file)) = store.pages_file(run.level) else { return Ok(None) };
        let meta = File::metadata(file).map_err(ImageError::io(path, "stat"))?;
        Ok::<_, ImageError>(Some((meta.dev(), meta.ino())))
    };
    Ok(identity(a, x)? == identity(b, y)?)
}

fn compare_bytes(
    a: &PageStore,
    b: &PageStore,
    start: u64,
    end: u64,
    changes: &mut PageChanges,
) -> Result<()> {
    const CHUNK: u64 = 256 << 10;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let page = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
    let mut at = start;
    while at < end {
        let len = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
        left.resize(len, 0);
        right.resize(len, 0);
        a.read_at(at, &mut left)?;
        b.read_at(at, &mut right)?;
        if left != right {
            for (vaddr, (x, y)) in (at..).step_by(page).zip(left.chunks(page).zip(right.chunks(page))) {
                if x != y {
                    changes.add(vaddr, 1, PageChange::Changed);
                }
            }
        }
        at += len as u64;
    }
    Ok(())
}
