//! Asking the kernel which pages a range really has.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::CaptureError;
use crate::query::{PAGE_SIZE, PageCategories, PageQuery, PageRun, push_run};
use crate::sys::{self, PageRegion, ScanRequest};
use crate::table;

/// Regions fetched by one call: 48 KiB, so that even a large address space costs few calls.
const REGIONS: usize = 2048;

/// Finds pages of one process, by PAGEMAP_SCAN where the kernel has it.
#[derive(Debug)]
pub struct PageScanner {
    pid: Pid,
    pagemap: File,
    way: Way,
    regions: Vec<PageRegion>,
}

/// How pages are found.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// PAGEMAP_SCAN; `guards` if it knows guard pages (Linux 6.15). Without, they look like swapped pages.
    Scan { guards: bool },
    /// Reading the table.
    Table { zero_frame: Option<u64> },
}

impl PageScanner {
    /// Looks at the pages of `pid` in the best way the kernel offers.
    ///
    /// # Errors
    /// [`CaptureError::Died`]; [`CaptureError::Proc`] without permission.
    pub fn open(pid: Pid) -> Result<Self, CaptureError> {
        match Self::with_pagemap_scan(pid) {
            Err(CaptureError::NoPagemapScan { source }) => {
                tracing::debug!(%pid, %source, "no PAGEMAP_SCAN: reading the whole page table");
                Self::with_table(pid)
            }
            other => other,
        }
    }

    /// Looks at the pages of `pid` by PAGEMAP_SCAN only.
    ///
    /// # Errors
    /// As [`PageScanner::open`], and [`CaptureError::NoPagemapScan`] before Linux 6.7.
    pub fn with_pagemap_scan(pid: Pid) -> Result<Self, CaptureError> {
        let pagemap = open_pagemap(pid)?;
        let probe = |any_of: PageCategories| {
            let request = ScanRequest { any_of: any_of.bits(), ..ScanRequest::default() };
            sys::pagemap_scan(pagemap.as_fd(), &request, &mut [])
        };
        let guards = match probe(PageCategories::GUARD) {
            Ok(_) => true,
            Err(_) => match probe(PageCategories::PRESENT) {
                Ok(_) => false,
                Err(Errno::ESRCH) => return Err(CaptureError::Died { pid }),
                Err(source) => return Err(CaptureError::NoPagemapScan { source }),
            },
        };
        let regions = vec![PageRegion::default(); REGIONS];
        Ok(Self { pid, pagemap, way: Way::Scan { guards }, regions })
    }

    /// Looks at the pages of `pid` by reading the page table entry by entry, which works on every kernel but takes
    /// time for every page of address space, used or not. [`PageCategories::HUGE`] and
    /// [`PageCategories::WP_ALLOWED`] are never found, [`PageCategories::ZERO`] only with CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// As [`PageScanner::open`].
    pub fn with_table(pid: Pid) -> Result<Self, CaptureError> {
        let pagemap = open_pagemap(pid)?;
        Ok(Self { pid, pagemap, way: Way::Table { zero_frame: table::zero_frame() }, regions: Vec::new() })
    }

    /// The pages of `range` that `query` asks for, ascending. The range may span holes and several areas.
    ///
    /// # Errors
    /// [`CaptureError::Died`], [`CaptureError::Scan`].
    pub fn scan(&mut self, range: Range<u64>, query: &PageQuery) -> Result<Vec<PageRun>, CaptureError> {
        let runs = self.scan_unchecked(range, query)?;
        self.check_alive()?;
        Ok(runs)
    }

    /// As [`PageScanner::scan`], but of a process that has just ended it finds fewer pages or none, without an error.
    pub(crate) fn scan_unchecked(
        &mut self,
        range: Range<u64>,
        query: &PageQuery,
    ) -> Result<Vec<PageRun>, CaptureError> {
        let mut runs = Vec::new();
        let done = match self.way {
            Way::Table { zero_frame } => {
                table::scan(&self.pagemap, range.clone(), query, zero_frame, &mut runs)
            }
            Way::Scan { guards: true } => self.walk(range.clone(), query, &mut runs),
            Way::Scan { guards: false } if mentions_guards(query) => {
                self.walk_and_tell_guards(range.clone(), query, &mut runs)
            }
            Way::Scan { guards: false } => self.walk(range.clone(), query, &mut runs),
        };
        match done {
            Ok(()) => Ok(runs),
            Err(source) if crate::error::is_gone(&source) => Err(CaptureError::Died { pid: self.pid }),
            Err(source) => Err(CaptureError::Scan { pid: self.pid, range, source }),
        }
    }

    /// Whether a range without areas costs nothing to scan.
    pub(crate) fn skips_gaps(&self) -> bool {
        matches!(self.way, Way::Scan { .. })
    }

    /// Fails if the process is gone. PAGEMAP_SCAN does not tell: it goes on in an address space that is being emptied.
    /// Reading the table does: there is nothing to read then, not even of address 0.
    pub(crate) fn check_alive(&self) -> Result<(), CaptureError> {
        match self.pagemap.read_at(&mut [0; 8], 0) {
            Ok(0) => Err(CaptureError::Died { pid: self.pid }),
            Ok(_) => Ok(()),
            Err(source) => Err(CaptureError::Scan { pid: self.pid, range: 0..PAGE_SIZE, source }),
        }
    }

    fn walk(&mut self, range: Range<u64>, query: &PageQuery, runs: &mut Vec<PageRun>) -> io::Result<()> {
        let mut request = ScanRequest {
            start: range.start,
            end: range.end,
            inverted: query.inverted.bits(),
            all_of: query.all_of.bits(),
            any_of: query.any_of.bits(),
            returned: query.returned.bits(),
            ..ScanRequest::default()
        };
        Ok(sys::scan_all(self.pagemap.as_fd(), &mut request, &mut self.regions, runs)?)
    }

    /// Linux 6.13 and 6.14 have guard pages but show them as swapped: looks those up in the table.
    fn walk_and_tell_guards(
        &mut self,
        range: Range<u64>,
        query: &PageQuery,
        runs: &mut Vec<PageRun>,
    ) -> io::Result<()> {
        let Some(wider) = seen_without_guards(query) else {
            return table::scan(&self.pagemap, range, query, table::zero_frame(), runs);
        };
        let mut shown = Vec::new();
        self.walk(range, &wider, &mut shown)?;
        for run in shown {
            if run.categories.contains(PageCategories::SWAPPED) {
                table::scan(&self.pagemap, run.start..run.end(), query, None, runs)?;
            } else {
                let categories = run.categories & query.returned;
                push_run(runs, PageRun { categories, ..run });
            }
        }
        Ok(())
    }
}

fn mentions_guards(query: &PageQuery) -> bool {
    (query.inverted | query.all_of | query.any_of | query.returned).contains(PageCategories::GUARD)
}

/// The query that finds at least the pages of `query` on a kernel that takes guard pages for swapped ones; `None` if
/// that cannot be asked because the absence of one of the two counts.
fn seen_without_guards(query: &PageQuery) -> Option<PageQuery> {
    if query.inverted.intersects(PageCategories::GUARD | PageCategories::SWAPPED) {
        return None;
    }
    let swap = |set: PageCategories| match set.contains(PageCategories::GUARD) {
        true => (set - PageCategories::GUARD) | PageCategories::SWAPPED,
        false => set,
    };
    let returned = (query.returned - PageCategories::GUARD) | PageCategories::SWAPPED;
    Some(PageQuery { all_of: swap(query.all_of), any_of: swap(query.any_of), returned, ..*query })
}

fn open_pagemap(pid: Pid) -> Result<File, CaptureError> {
    let path = PathBuf::from(format!("/proc/{pid}/pagemap"));
    File::open(&path).map_err(|source| CaptureError::proc(pid, path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_pages_are_looked_for_among_the_swapped() {
        let guards = PageQuery {
            any_of: PageCategories::GUARD,
            returned: PageCategories::GUARD,
            ..PageQuery::default()
        };
        let wider = seen_without_guards(&guards).unwrap();
        assert_eq!((wider.any_of, wider.returned), (PageCategories::SWAPPED, PageCategories::SWAPPED));
        let not_swapped = PageQuery { inverted: PageCategories::SWAPPED, ..guards };
        assert_eq!(seen_without_guards(&not_swapped), None);
    }
}
