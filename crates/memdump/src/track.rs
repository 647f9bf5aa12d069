//! Knowing which pages a running process has written since they were looked at last.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::area::{Area, AreaKind};
use crate::error::CaptureError;
use crate::query::{PAGE_SIZE, PageCategories, PageRun, push_run};
use crate::settle::{Settled, Settling};
use crate::sys::{self, PageRegion, ScanRequest};

/// Something that notices writes.
///
/// Whatever it loses sight of it has to report as written: that costs pages, a page it kept quiet about would be wrong in
/// the checkpoint.
pub trait DirtyTracker {
    /// The pages of `areas` that may have been written since the last call, ascending; all of an area that was not tracked.
    /// Pages that are not present need not be told.
    ///
    /// The process may run: what it writes from now on is told by the next call.
    ///
    /// # Errors
    /// [`CaptureError::Died`], [`CaptureError::Proc`].
    fn written(&mut self, areas: &[Area]) -> Result<Vec<PageRun>, CaptureError>;

    /// [`survey`](crate::survey) and [`DirtyTracker::written`] in one, of a process that stands and will not be looked at
    /// again: takes time for what was written, and hardly any for the rest. `before` are the pages of private memory that a
    /// survey told when what was written since the last look began to be seen, or later, ascending. `None` if it cannot do that.
    ///
    /// # Errors
    /// As [`DirtyTracker::written`] and [`survey`](crate::survey).
    fn settle(&mut self, areas: &[Area], before: &[PageRun]) -> Result<Option<Settled>, CaptureError> {
        let _ = (areas, before);
        Ok(None)
    }

    /// Whether the process must stand still for [`DirtyTracker::written`].
    fn must_stand(&self) -> bool {
        false
    }

    /// Whether the last [`DirtyTracker::written`] met areas that are not tracked, so that it is worth stopping the process for
    /// [`DirtyTracker::begin`].
    fn wants_to_begin(&self) -> bool;

    /// Begins to track what was not, which before the first [`DirtyTracker::written`] is everything. The process must stand
    /// still, and `areas` be its mappings as they are now: tracking a part of a mapping would split it, which the program
    /// can notice.
    fn begin(&mut self, areas: &[Area]);

    /// Looks for writes from now on where [`DirtyTracker::begin`] began. The process may run again.
    ///
    /// # Errors
    /// [`CaptureError::Died`], [`CaptureError::Proc`].
    fn arm(&mut self) -> Result<(), CaptureError>;
}

/// Tracking by write protection that the kernel resolves itself, about a microsecond for each page that is written:
/// userfaultfd with WP_ASYNC, read by PAGEMAP_SCAN. Linux 6.7.
///
/// When the descriptor is closed the kernel takes all of it back.
#[derive(Debug)]
pub struct UffdTracker {
    pid: Pid,
    uffd: OwnedFd,
    regions: Vec<PageRegion>,
    /// Areas that turned out not to be tracked, ascending; `None` as long as none is.
    unknown: Option<Vec<Range<u64>>>,
    /// Areas that are tracked since the last begin.
    begun: Vec<Range<u64>>,
}

/// Regions fetched by one call.
const REGIONS: usize = 2048;

impl UffdTracker {
    /// Tracks the memory that `uffd` belongs to, which is that of `pid`: userfaultfd(2) called by the process itself, and
    /// not yet agreed on with the kernel.
    ///
    /// # Errors
    /// EINVAL if the kernel lacks asynchronous write protection or a way to read it.
    pub fn new(pid: Pid, uffd: OwnedFd) -> Result<Self, Errno> {
        sys::uffd_api(uffd.as_fd())?;
        Ok(Self {
            pid,
            uffd,
            regions: vec![PageRegion::default(); REGIONS],
            unknown: None,
            begun: Vec::new(),
        })
    }

    /// What of `range` was written, protecting it again. Fails for an area that is not tracked, after it may have
    /// protected a part of the range: nothing is known of it then.
    fn scan(&mut self, pagemap: &File, range: Range<u64>) -> Result<Vec<PageRun>, Errno> {
        let mut runs = Vec::new();
        let mut request = ScanRequest {
            start: range.start,
            end: range.end,
            all_of: PageCategories::WRITTEN.bits(),
            // A page that was never there counts as written, and marking all of a sparse reservation takes page tables.
            any_of: (PageCategories::PRESENT | PageCategories::SWAPPED).bits(),
            returned: PageCategories::WRITTEN.bits(),
            protect: true,
            ..ScanRequest::default()
        };
        sys::scan_all(pagemap.as_fd(), &mut request, &mut self.regions, &mut runs)?;
        runs.iter_mut().for_each(|run| run.categories = PageCategories::empty());
        Ok(runs)
    }

    /// What in the page table of a private file is neither a page nor written. Where a copy was dropped the kernel leaves its
    /// mark of not being written, although what is there now is the file's page; swapped pages look like that, too.
    fn marks(&mut self, pagemap: &File, range: Range<u64>) -> Result<Vec<PageRun>, Errno> {
        let mut runs = Vec::new();
        let both = (PageCategories::WRITTEN | PageCategories::SWAPPED).bits();
        let mut request = ScanRequest {
            start: range.start,
            end: range.end,
            inverted: PageCategories::WRITTEN.bits(),
            all_of: both,
            tracked: true,
            ..ScanRequest::default()
        };
        sys::scan_all(pagemap.as_fd(), &mut request, &mut self.regions, &mut runs)?;
        runs.iter_mut().for_each(|run| run.categories = PageCategories::empty());
        Ok(runs)
    }

    /// Whether it can be tracked, and is neither tracked already nor another area than the one that was asked for.
    fn is_wanted(&self, area: &Area) -> bool {
        let known = |unknown: &Vec<Range<u64>>| {
            let at = unknown.binary_search_by_key(&area.start, |range| range.start).ok();
            at.and_then(|at| unknown.get(at)) == Some(&area.range())
        };
        is_private(area) && self.unknown.as_ref().is_none_or(known)
    }

    /// Registers areas with nothing but gaps between them, which one call can do; one that cannot be registered makes it
    /// fail for all.
    fn register(&self, areas: &[Area], begun: &mut Vec<Range<u64>>) {
        let (Some(first), Some(last)) = (areas.first(), areas.last()) else { return };
        match sys::uffd_register_wp(self.uffd.as_fd(), first.start, last.end.saturating_sub(first.start)) {
            Ok(()) => begun.extend(areas.iter().map(Area::range)),
            Err(error) if areas.len() == 1 => {
                tracing::debug!(pid = %self.pid, start = first.start, %error, "memory that cannot be tracked");
            }
            Err(_) => {
                let (before, behind) = areas.split_at(areas.len() / 2);
                self.register(before, begun);
                self.register(behind, begun);
            }
        }
    }

    /// Opened each time: one that was open before an exec would go on showing the old memory, where nothing happens.
    fn pagemap(&self) -> Result<File, CaptureError> {
        let path = PathBuf::from(format!("/proc/{}/pagemap", self.pid));
        File::open(&path).map_err(|source| CaptureError::proc(self.pid, path, source))
    }
}

/// The pages of two lists without a page in common, ascending.
pub(crate) fn joined(mut runs: Vec<PageRun>, others: Vec<PageRun>) -> Vec<PageRun> {
    if others.is_empty() {
        return runs;
    }
    runs.extend(others);
    runs.sort_unstable_by_key(|run| run.start);
    let mut joined = Vec::with_capacity(runs.len());
    runs.into_iter().for_each(|run| push_run(&mut joined, run));
    joined
}

/// Whether only the process itself writes there, and by addresses.
pub(crate) fn is_private(area: &Area) -> bool {
    matches!(area.kind, AreaKind::AnonPrivate | AreaKind::Heap | AreaKind::Stack | AreaKind::FilePrivate)
}

impl DirtyTracker for UffdTracker {
    fn written(&mut self, areas: &[Area]) -> Result<Vec<PageRun>, CaptureError> {
        let pagemap = self.pagemap()?;
        let mut unknown = Vec::new();
        let mut written = Vec::new();
        // One call an area: a call over several that fails at the second has forgotten what was written to the first.
        for area in areas {
            let whole = PageRun {
                start: area.start,
                pages: area.len_bytes() / PAGE_SIZE,
                categories: PageCategories::empty(),
            };
            if !is_private(area) {
                push_run(&mut written, whole);
                continue;
            }
            let mut looked = self.scan(&pagemap, area.range());
            if let Ok(runs) = &mut looked
                && area.kind == AreaKind::FilePrivate
            {
                looked = self.marks(&pagemap, area.range()).map(|marks| joined(std::mem::take(runs), marks));
            }
            match looked {
                Ok(runs) => runs.into_iter().for_each(|run| push_run(&mut written, run)),
                Err(Errno::ESRCH) => return Err(CaptureError::Died { pid: self.pid }),
                Err(_) => {
                    unknown.push(area.range());
                    push_run(&mut written, whole);
                }
            }
        }
        self.unknown = Some(unknown);
        Ok(written)
    }

    fn settle(&mut self, areas: &[Area], before: &[PageRun]) -> Result<Option<Settled>, CaptureError> {
        let pagemap = self.pagemap()?;
        Settling::new(self.pid, &pagemap)?.run(areas, before).map(Some)
    }

    fn wants_to_begin(&self) -> bool {
        self.unknown.as_ref().is_none_or(|unknown| !unknown.is_empty())
    }

    fn begin(&mut self, areas: &[Area]) {
        let mut begun = Vec::new();
        for group in areas.chunk_by(|a, b| self.is_wanted(a) == self.is_wanted(b)) {
            if group.first().is_some_and(|first| self.is_wanted(first)) {
                self.register(group, &mut begun);
            }
        }
        self.begun = begun;
    }

    fn arm(&mut self) -> Result<(), CaptureError> {
        let pagemap = self.pagemap()?;
        for range in std::mem::take(&mut self.begun) {
            // If it fails, the area has changed since: then it is not tracked, and the next round is told so.
            if let Err(Errno::ESRCH) = self.scan(&pagemap, range) {
                return Err(CaptureError::Died { pid: self.pid });
            }
        }
        Ok(())
    }
}
