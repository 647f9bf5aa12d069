//! What a process that now stands has to be asked, when its pages were listed before and its writes seen since.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::area::{Area, AreaKind};
use crate::choose::{Choice, choice};
use crate::error::CaptureError;
use crate::increment::{common, difference};
use crate::query::{PAGE_SIZE, PageCategories, PageQuery, PageRun, push_run};
use crate::scan::PageScanner;
use crate::survey::{AreaPages, survey_with};
use crate::sys::{self, PageRegion, ScanRequest};
use crate::track::joined;

/// Pages to store of a process that stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Settled {
    /// As [`crate::survey`] tells them.
    pub pages: Vec<AreaPages>,
    /// Those of them that may have been written since the last look, ascending.
    pub written: Vec<PageRun>,
}

/// From this size on an area is asked for what was written only, which the kernel tells five times as fast.
const LARGE_BYTES: u64 = 4 << 20;
/// What one page table covers.
const TABLE_BYTES: u64 = 2 << 20;
/// Written pages closer than this are asked about in one call: it takes as long as to look at so many pages.
const CLOSE_BYTES: u64 = 64 * PAGE_SIZE;
/// Regions fetched by one call.
const REGIONS: usize = 2048;

/// Looks at areas of a process that is tracked with asynchronous write protection.
#[derive(Debug)]
pub(crate) struct Settling<'a> {
    pid: Pid,
    pagemap: &'a File,
    scanner: PageScanner,
    regions: Vec<PageRegion>,
    fast: bool,
}

impl<'a> Settling<'a> {
    pub(crate) fn new(pid: Pid, pagemap: &'a File) -> Result<Self, CaptureError> {
        let scanner = PageScanner::with_pagemap_scan(pid)?;
        let regions = vec![PageRegion::default(); REGIONS];
        Ok(Self { pid, pagemap, scanner, regions, fast: fast_scan_is_exact() })
    }

    /// `before` are pages that a survey found when the writes that are asked for now began to be seen, ascending.
    pub(crate) fn run(mut self, areas: &[Area], before: &[PageRun]) -> Result<Settled, CaptureError> {
        let mut settled = Settled::default();
        for (index, area) in areas.iter().enumerate() {
            let anonymous = matches!(area.kind, AreaKind::AnonPrivate | AreaKind::Heap | AreaKind::Stack);
            let looked = match choice(area) {
                Choice::Pages(_) if anonymous && self.fast && area.len_bytes() >= LARGE_BYTES => {
                    self.large(area, before)
                }
                Choice::Pages(query) => self.small(area, query),
                _ => Ok(None),
            };
            let (written, pages) = match looked? {
                Some(looked) => looked,
                None => {
                    // Not tracked: all of it counts as written.
                    let mut whole = survey_with(&mut self.scanner, self.pid, std::slice::from_ref(area))?;
                    let pages = whole.pop().unwrap_or_default();
                    (pages.runs.clone(), pages)
                }
            };
            written.into_iter().for_each(|run| push_run(&mut settled.written, run));
            settled.pages.push(AreaPages { area: index, ..pages });
        }
        self.scanner.check_alive()?;
        Ok(settled)
    }

    /// Asks for all pages to store and which of them were written; `None` if the area is not tracked.
    fn small(
        &mut self,
        area: &Area,
        query: PageQuery,
    ) -> Result<Option<(Vec<PageRun>, AreaPages)>, CaptureError> {
        // Where a copy of a page of a file was dropped, the kernel leaves its mark of not being written, which looks as a
        // swapped page does.
        let mut changed = PageCategories::WRITTEN;
        changed.set(PageCategories::SWAPPED, area.kind == AreaKind::FilePrivate);
        let query = PageQuery { returned: query.returned | changed, ..query };
        let Some(found) = self.scan(area.range(), &query)? else { return Ok(None) };
        let written = found.iter().filter(|run| {
            run.categories.intersects(changed) && !run.categories.contains(PageCategories::GUARD)
        });
        let mut plain = Vec::new();
        written.for_each(|run| push_run(&mut plain, PageRun { categories: PageCategories::empty(), ..*run }));
        let mut pages = AreaPages::default();
        pages.sort_in(found);
        Ok(Some((plain, pages)))
    }

    /// Asks for written pages only, and takes the others for what they were before.
    fn large(
        &mut self,
        area: &Area,
        before: &[PageRun],
    ) -> Result<Option<(Vec<PageRun>, AreaPages)>, CaptureError> {
        let written = PageQuery {
            all_of: PageCategories::WRITTEN,
            returned: PageCategories::WRITTEN,
            ..PageQuery::default()
        };
        let Some(touched) = self.scan(area.range(), &written)? else { return Ok(None) };
        let touched: Vec<PageRun> =
            touched.into_iter().map(|run| PageRun { categories: PageCategories::empty(), ..run }).collect();
        // Among them are pages that are not there, and guard pages.
        let mut pages = AreaPages::default();
        let Choice::Pages(query) = choice(area) else { return Ok(None) };
        for close in touched.chunk_by(|a, b| b.start - a.end() <= CLOSE_BYTES) {
            let (Some(first), Some(last)) = (close.first(), close.last()) else { continue };
            let found = self.scanner.scan_unchecked(first.start..last.end(), &query)?;
            for run in found {
                let parts =
                    common(std::slice::from_ref(&run), close.iter().map(|run| (run.start, run.end())));
                pages.sort_in(
                    parts.into_iter().map(|part| PageRun { categories: run.categories, ..part }).collect(),
                );
            }
        }
        let written = pages.runs.clone();
        let first = before.partition_point(|run| run.end() <= area.start);
        let known = common(before.get(first..).unwrap_or_default(), [(area.start, area.end)]);
        let still = self.still_there(difference(&known, &touched))?;
        pages.runs = joined(std::mem::take(&mut pages.runs), still);
        Ok(Some((written, pages)))
    }

    /// What of `runs` has a page table. The scan for written pages tells those that were dropped, but passes over tables that
    /// are gone with all their pages; one page of each table says which it is.
    fn still_there(&mut self, runs: Vec<PageRun>) -> Result<Vec<PageRun>, CaptureError> {
        let there =
            PageQuery { any_of: PageCategories::PRESENT | PageCategories::SWAPPED, ..PageQuery::default() };
        let mut still = Vec::with_capacity(runs.len());
        let mut known: Option<(u64, bool)> = None;
        for run in runs {
            let mut at = run.start;
            while at < run.end() {
                let table = at / TABLE_BYTES;
                let end = run.end().min((table + 1) * TABLE_BYTES);
                let exists = match known {
                    Some((last, exists)) if last == table => exists,
                    _ => !self.scanner.scan_unchecked(at..at + PAGE_SIZE, &there)?.is_empty(),
                };
                known = Some((table, exists));
                if exists {
                    let pages = (end - at) / PAGE_SIZE;
                    push_run(&mut still, PageRun { start: at, pages, categories: PageCategories::empty() });
                }
                at = end;
            }
        }
        Ok(still)
    }

    /// As [`PageScanner::scan`], of an area that must be tracked; `None` if it is not.
    fn scan(&mut self, range: Range<u64>, query: &PageQuery) -> Result<Option<Vec<PageRun>>, CaptureError> {
        let mut runs = Vec::new();
        let mut request = ScanRequest {
            start: range.start,
            end: range.end,
            inverted: query.inverted.bits(),
            all_of: query.all_of.bits(),
            any_of: query.any_of.bits(),
            returned: query.returned.bits(),
            tracked: true,
            protect: false,
        };
        match sys::scan_all(self.pagemap.as_fd(), &mut request, &mut self.regions, &mut runs) {
            Ok(()) => Ok(Some(runs)),
            Err(Errno::ESRCH) => Err(CaptureError::Died { pid: self.pid }),
            Err(_) => Ok(None),
        }
    }
}

/// Whether the scan for written pages alone can be believed of entries that are no pages. Kernels before 6.15 look at a bit
/// of them that means something else (fs/proc/task_mmu.c, `pagemap_scan_pmd_entry`); a guard page shows which kernel it is.
fn fast_scan_is_exact() -> bool {
    static EXACT: OnceLock<bool> = OnceLock::new();
    *EXACT.get_or_init(|| {
        let probe = || -> std::io::Result<bool> {
            let pagemap = File::open("/proc/self/pagemap")?;
            let written = PageCategories::WRITTEN.bits();
            Ok(sys::with_tracked_guard_page(|addr| {
                let request = ScanRequest {
                    start: addr,
                    end: addr + PAGE_SIZE,
                    all_of: written,
                    returned: written,
                    tracked: true,
                    ..ScanRequest::default()
                };
                let mut regions = [PageRegion::default(); 1];
                sys::pagemap_scan(pagemap.as_fd(), &request, &mut regions)
                    .is_ok_and(|(filled, _)| filled == 1)
            })?)
        };
        probe().unwrap_or_else(|error| {
            tracing::debug!(%error, "written pages are asked for together with all others");
            false
        })
    })
}
