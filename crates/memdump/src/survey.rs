//! Which pages of a whole address space are to be stored.

use std::fs::File;
use std::ops::Range;

use nix::unistd::Pid;

use crate::area::Area;
use crate::choose::{Choice, choice, guard_pages, mapped_pages, may_hold_guards};
use crate::error::CaptureError;
use crate::object::object_runs;
use crate::query::{PAGE_SIZE, PageCategories, PageQuery, PageRun, push_run};
use crate::scan::PageScanner;

/// The pages of one area.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AreaPages {
    /// Which area: index into the list that was surveyed.
    pub area: usize,
    /// Pages to store, ascending.
    pub runs: Vec<PageRun>,
    /// Guard pages (MADV_GUARD_INSTALL): must be installed again, cannot be read.
    pub guards: Vec<Range<u64>>,
}

/// The pages to store of every area: element `i` belongs to `areas[i]`.
///
/// The areas should come from [`areas`](crate::areas): without flags, memory of devices is taken for a file.
///
/// Of shared memory without a file ([`Choice::Object`]) the runs are what the object holds in the part that is
/// mapped here; without the privilege to look at the object, what this task has mapped of it. Several areas, of
/// several tasks, may show the same object: the caller stores each once, told by device and inode. Content of the
/// object behind guard pages of this area is not in the runs; it can be captured from the object itself
/// ([`object_runs`], [`crate::ObjectMemory`]).
///
/// # Errors
/// [`CaptureError::Died`], [`CaptureError::Proc`] without permission, [`CaptureError::Scan`].
pub fn survey(pid: Pid, areas: &[Area]) -> Result<Vec<AreaPages>, CaptureError> {
    survey_with(&mut PageScanner::open(pid)?, pid, areas)
}

/// Takes away what is not to be stored of `pages`, which were surveyed before the flags of `areas` were known.
pub fn narrow(pages: &mut [AreaPages], areas: &[Area]) {
    for pages in pages {
        let Some(area) = areas.get(pages.area) else { continue };
        if choice(area) == Choice::Nothing {
            pages.runs.clear();
        }
        if !may_hold_guards(area) {
            pages.guards.clear();
        }
    }
}

pub(crate) fn survey_with(
    scanner: &mut PageScanner,
    pid: Pid,
    areas: &[Area],
) -> Result<Vec<AreaPages>, CaptureError> {
    let mut pages = Vec::with_capacity(areas.len());
    // One call for neighbours that are asked the same saves most of the time where areas are many and small.
    let over_gaps = scanner.skips_gaps();
    let together = |a: &Area, b: &Area| {
        let close = if over_gaps { a.end <= b.start } else { a.end == b.start };
        close && query_of(a).is_some() && query_of(a) == query_of(b)
    };
    for group in areas.chunk_by(together) {
        let first_index = pages.len();
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        match query_of(first) {
            Some(query) => {
                let found = scanner.scan_unchecked(first.start..last.end, &query)?;
                pages.extend(by_area(found, group, first_index));
            }
            None => pages.push(survey_special(scanner, pid, first_index, first)?),
        }
    }
    scanner.check_alive()?; // once for all: a process does not come back
    Ok(pages)
}

/// What to ask the page table of an area, if that is all there is to do.
fn query_of(area: &Area) -> Option<PageQuery> {
    match choice(area) {
        Choice::Pages(query) => Some(query),
        Choice::Nothing if may_hold_guards(area) => Some(guard_pages()),
        Choice::Nothing | Choice::Whole | Choice::Object => None,
    }
}

/// Areas that need more than one question, or none.
fn survey_special(
    scanner: &mut PageScanner,
    pid: Pid,
    index: usize,
    area: &Area,
) -> Result<AreaPages, CaptureError> {
    let mut pages = AreaPages { area: index, ..AreaPages::default() };
    match choice(area) {
        Choice::Whole => push_part(&mut pages.runs, area.range()),
        Choice::Object => match held_by_object(pid, area) {
            Some(held) => {
                pages.sort_in(scanner.scan_unchecked(area.range(), &guard_pages())?);
                pages.runs = without(&held, &pages.guards);
            }
            None => pages.sort_in(scanner.scan_unchecked(area.range(), &mapped_pages())?),
        },
        Choice::Nothing | Choice::Pages(_) => {}
    }
    Ok(pages)
}

/// Cuts runs that may reach over several areas, or over gaps between them, into what belongs to each area.
fn by_area(found: Vec<PageRun>, areas: &[Area], first_index: usize) -> Vec<AreaPages> {
    let mut found = found.into_iter().peekable();
    let one = |(index, area): (usize, &Area)| {
        let mut own = Vec::new();
        while let Some(run) = found.peek_mut().filter(|run| run.start < area.end) {
            let part = run.start.max(area.start)..run.end().min(area.end);
            if part.start < part.end {
                let pages = (part.end - part.start) / PAGE_SIZE;
                own.push(PageRun { start: part.start, pages, categories: run.categories });
            }
            if run.end() > area.end {
                (run.start, run.pages) = (area.end, (run.end() - area.end) / PAGE_SIZE);
                break;
            }
            found.next();
        }
        let mut pages = AreaPages { area: first_index + index, ..AreaPages::default() };
        pages.sort_in(own);
        pages
    };
    areas.iter().enumerate().map(one).collect()
}

impl AreaPages {
    /// Takes in what a scan found: guard pages here, the others there.
    pub(crate) fn sort_in(&mut self, found: Vec<PageRun>) {
        for run in found {
            if run.categories.contains(PageCategories::GUARD) {
                match self.guards.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end(),
                    _ => self.guards.push(run.start..run.end()),
                }
            } else {
                push_run(&mut self.runs, PageRun { categories: PageCategories::empty(), ..run });
            }
        }
    }
}

/// What the object behind `area` holds, as addresses of the area; `None` if we cannot know.
fn held_by_object(pid: Pid, area: &Area) -> Option<Vec<PageRun>> {
    let path = area.map_files(pid);
    let runs = File::open(&path)
        .and_then(|object| object_runs(&object, area.offset..area.offset.saturating_add(area.len_bytes())));
    match runs {
        Ok(runs) => {
            let to_addr = |run: PageRun| PageRun { start: run.start - area.offset + area.start, ..run };
            Some(runs.into_iter().map(to_addr).collect())
        }
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "shared memory is judged by what the task has mapped");
            None
        }
    }
}

/// The parts of `runs` outside `holes`; both ascending.
fn without(runs: &[PageRun], holes: &[Range<u64>]) -> Vec<PageRun> {
    let mut left = Vec::with_capacity(runs.len());
    for run in runs {
        let mut start = run.start;
        for hole in holes.iter().filter(|hole| hole.start < run.end() && run.start < hole.end) {
            push_part(&mut left, start..hole.start);
            start = start.max(hole.end);
        }
        push_part(&mut left, start..run.end());
    }
    left
}

fn push_part(runs: &mut Vec<PageRun>, part: Range<u64>) {
    if part.start < part.end {
        let pages = (part.end - part.start) / PAGE_SIZE;
        push_run(runs, PageRun { start: part.start, pages, categories: PageCategories::empty() });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::smaps::AreaReader;

    /// Areas of private memory as (gap before it, length), in pages.
    fn areas(gaps_and_lengths: &[(u64, u64)]) -> Vec<Area> {
        let mut page = 1;
        let line = |&(gap, pages): &(u64, u64)| {
            let start = page + gap;
            page = start + pages;
            format!("{:x}-{:x} rw-p 00000000 00:00 0\n", start * PAGE_SIZE, page * PAGE_SIZE)
        };
        let text: String = gaps_and_lengths.iter().map(line).collect();
        AreaReader::new(text.as_bytes()).map(Result::unwrap).collect()
    }

    fn pages_of(runs: &[PageRun]) -> Vec<u64> {
        runs.iter().flat_map(|run| (0..run.pages).map(|n| run.start / PAGE_SIZE + n)).collect()
    }

    proptest! {
        #[test]
        fn a_scan_over_many_areas_is_given_to_each(
            gaps_and_lengths in proptest::collection::vec((0_u64..3, 1_u64..6), 1..20),
            present in proptest::collection::btree_set(0_u64..130, 0..130),
        ) {
            let areas = areas(&gaps_and_lengths);
            let mut found = Vec::new();
            present.iter().for_each(|&page| push_run(&mut found, run(page..page + 1)));
            let given = by_area(found, &areas, 5);
            prop_assert_eq!(given.len(), areas.len());
            for (index, (pages, area)) in given.iter().zip(&areas).enumerate() {
                prop_assert_eq!(pages.area, index + 5);
                let own: Vec<u64> =
                    present.iter().copied().filter(|&p| area.range().contains(&(p * PAGE_SIZE))).collect();
                prop_assert_eq!(pages_of(&pages.runs), own);
            }
        }
    }

    fn run(pages: Range<u64>) -> PageRun {
        PageRun {
            start: pages.start * PAGE_SIZE,
            pages: pages.end - pages.start,
            categories: PageCategories::empty(),
        }
    }

    #[test]
    fn holes_are_cut_out() {
        let holes = [2, 5, 9].map(|page| page * PAGE_SIZE..(page + 1) * PAGE_SIZE);
        let left = without(&[run(0..4), run(5..6), run(7..10)], &holes);
        assert_eq!(left, [run(0..2), run(3..4), run(7..9)]);
        assert_eq!(without(&[run(0..4)], &[]), [run(0..4)]);
    }

    #[test]
    fn flags_that_come_later_take_pages_away() {
        let text =
            |flags: &str| format!("1000-3000 rw-p 00000000 00:05 9 /dev/mem\nVmFlags: rd wr {flags}\n");
        let guard = PageRun { categories: PageCategories::GUARD, ..run(2..3) };
        let mut before = AreaPages::default();
        before.sort_in(vec![run(1..2), guard]);
        for (flags, runs, guards) in [("mr", 1, 1), ("dp", 0, 1), ("pf io", 0, 0)] {
            let area = AreaReader::new(text(flags).as_bytes()).next().unwrap().unwrap();
            let mut pages = [before.clone()];
            narrow(&mut pages, &[area]);
            let [pages] = pages;
            assert_eq!((pages.runs.len(), pages.guards.len()), (runs, guards), "{flags}");
        }
    }

    #[test]
    fn guards_and_content_are_told_apart() {
        let guard = |pages| PageRun { categories: PageCategories::GUARD, ..run(pages) };
        let mut pages = AreaPages::default();
        pages.sort_in(vec![run(0..1), guard(1..2), guard(2..3), run(3..4)]);
        assert_eq!(pages.runs, [run(0..1), run(3..4)]);
        assert_eq!(pages.guards.first(), Some(&(PAGE_SIZE..3 * PAGE_SIZE)));
        assert_eq!(pages.guards.len(), 1);
    }
}
