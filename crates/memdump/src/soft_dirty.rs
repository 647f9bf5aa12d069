//! Soft-dirty bits, for kernels that cannot track writes by userfaultfd.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::unistd::Pid;
use zerocopy::IntoBytes;

use crate::area::Area;
use crate::error::CaptureError;
use crate::query::{PAGE_SIZE, PageCategories, PageQuery, PageRun, push_run};
use crate::track::{DirtyTracker, is_private};
use crate::{sys, table};

/// Tracking by the soft-dirty bit of page table entries: `/proc/PID/clear_refs` and bit 55 of `/proc/PID/pagemap`.
///
/// New and moved mappings need no care: the kernel shows all of their pages as written. Reading the bits and clearing them
/// are two steps, so the process must stand still for [`DirtyTracker::written`], and nobody else may clear them meanwhile.
#[derive(Debug)]
pub struct SoftDirtyTracker {
    bits: Box<dyn Bits>,
}

/// Where soft-dirty bits are read and cleared.
trait Bits: std::fmt::Debug {
    /// Opened each time, as after an exec the old file would go on showing the old memory.
    fn pagemap(&self) -> Result<File, CaptureError>;

    fn clear(&mut self) -> Result<(), CaptureError>;

    fn pid(&self) -> Pid;
}

impl SoftDirtyTracker {
    /// Tracks the memory of `pid` from now on, which must stand still; `None` if the kernel has no soft-dirty bits.
    ///
    /// # Errors
    /// [`CaptureError::Died`], [`CaptureError::Proc`].
    pub fn begin_with(pid: Pid) -> Result<Option<Self>, CaptureError> {
        if !works() {
            return Ok(None);
        }
        Self::over(Box::new(OfProcess(pid))).map(Some)
    }

    fn over(mut bits: Box<dyn Bits>) -> Result<Self, CaptureError> {
        bits.clear()?;
        Ok(Self { bits })
    }
}

impl DirtyTracker for SoftDirtyTracker {
    fn must_stand(&self) -> bool {
        true
    }

    fn written(&mut self, areas: &[Area]) -> Result<Vec<PageRun>, CaptureError> {
        let pagemap = self.bits.pagemap()?;
        let pid = self.bits.pid();
        let query = PageQuery {
            all_of: PageCategories::SOFT_DIRTY,
            any_of: PageCategories::PRESENT | PageCategories::SWAPPED,
            ..PageQuery::default()
        };
        let mut written = Vec::new();
        for area in areas {
            if is_private(area) {
                let scanned = table::scan(&pagemap, area.range(), &query, None, &mut written);
                scanned.map_err(|source| CaptureError::Scan { pid, range: area.range(), source })?;
            } else {
                push_run(&mut written, whole(area));
            }
        }
        // The table of a process that is gone is empty, and not an error to read.
        match pagemap.read_at(&mut [0; 8], 0) {
            Ok(0) => return Err(CaptureError::Died { pid }),
            Ok(_) => {}
            Err(source) => return Err(CaptureError::Scan { pid, range: 0..PAGE_SIZE, source }),
        }
        self.bits.clear()?;
        Ok(written)
    }

    fn wants_to_begin(&self) -> bool {
        false
    }

    fn begin(&mut self, _areas: &[Area]) {}

    fn arm(&mut self) -> Result<(), CaptureError> {
        Ok(())
    }
}

pub(crate) fn whole(area: &Area) -> PageRun {
    let pages = area.len_bytes() / PAGE_SIZE;
    PageRun { start: area.start, pages, categories: PageCategories::empty() }
}

#[derive(Debug)]
struct OfProcess(Pid);

impl Bits for OfProcess {
    fn pagemap(&self) -> Result<File, CaptureError> {
        let path = PathBuf::from(format!("/proc/{}/pagemap", self.0));
        File::open(&path).map_err(|source| CaptureError::proc(self.0, path, source))
    }

    fn clear(&mut self) -> Result<(), CaptureError> {
        let path = PathBuf::from(format!("/proc/{}/clear_refs", self.0));
        clear(&path).map_err(|source| CaptureError::proc(self.0, path, source))
    }

    fn pid(&self) -> Pid {
        self.0
    }
}

/// Clears the soft-dirty bits of a process, and of its mappings.
fn clear(clear_refs: &std::path::Path) -> io::Result<()> {
    const SOFT_DIRTY: &[u8] = b"4"; // proc_pid_clear_refs(5)
    File::options().write(true).open(clear_refs)?.write_all(SOFT_DIRTY)
}

/// Whether the kernel has the bits, tried on a page of our own: a kernel without them takes the clearing, and does nothing.
fn works() -> bool {
    let probe = || -> io::Result<bool> {
        let page_size = NonZeroUsize::new(usize::try_from(PAGE_SIZE).unwrap_or_default());
        let page_size = page_size.ok_or(io::ErrorKind::Unsupported)?;
        let pagemap = File::open("/proc/self/pagemap")?;
        let is_dirty = |addr: u64| -> io::Result<bool> {
            let mut entry = 0_u64;
            pagemap.read_exact_at(entry.as_mut_bytes(), addr / PAGE_SIZE * 8)?;
            Ok(table::categories(entry, None).contains(PageCategories::SOFT_DIRTY))
        };
        sys::with_own_page(page_size, |addr, write| {
            write();
            clear("/proc/self/clear_refs".as_ref())?;
            let cleared = !is_dirty(addr)?;
            write();
            Ok(cleared && is_dirty(addr)?)
        })?
    };
    probe().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::smaps::AreaReader;

    const SOFT_DIRTY: u64 = 1 << 55;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;

    /// A page table written down in advance.
    #[derive(Debug, Clone)]
    struct Recorded {
        table: Arc<File>,
        clears: Arc<Mutex<u32>>,
    }

    impl Recorded {
        fn new() -> Self {
            let table = tempfile::tempfile().unwrap();
            table.set_len(1 << 20).unwrap();
            Self { table: Arc::new(table), clears: Arc::default() }
        }

        fn set(&self, page: u64, entry: u64) {
            self.table.write_all_at(entry.as_bytes(), page * 8).unwrap();
        }
    }

    impl Bits for Recorded {
        fn pagemap(&self) -> Result<File, CaptureError> {
            Ok(self.table.try_clone().unwrap())
        }

        /// As the kernel does it: the bit goes, of entries of mappings that are new as well.
        fn clear(&mut self) -> Result<(), CaptureError> {
            let mut entries = vec![0_u64; 1 << 10];
            self.table.read_exact_at(entries.as_mut_bytes(), 0).unwrap();
            entries.iter_mut().for_each(|entry| *entry &= !SOFT_DIRTY);
            self.table.write_all_at(entries.as_bytes(), 0).unwrap();
            *self.clears.lock().unwrap() += 1;
            Ok(())
        }

        fn pid(&self) -> Pid {
            Pid::this()
        }
    }

    /// Mappings as (first page, pages, permissions).
    fn areas(of: &[(u64, u64, &str)]) -> Vec<Area> {
        let line = |&(start, pages, perms): &(u64, u64, &str)| {
            let end = start + pages;
            format!("{:x}-{:x} {perms} 00000000 00:00 0\n", start * PAGE_SIZE, end * PAGE_SIZE)
        };
        let text: String = of.iter().map(line).collect();
        AreaReader::new(text.as_bytes()).map(Result::unwrap).collect()
    }

    fn numbers(runs: &[PageRun]) -> Vec<u64> {
        runs.iter().flat_map(|run| (0..run.pages).map(|n| run.start / PAGE_SIZE + n)).collect()
    }

    #[test]
    fn what_was_written_since_is_told_once() {
        let bits = Recorded::new();
        (10..14).for_each(|page| bits.set(page, PRESENT | SOFT_DIRTY | page));
        let mut tracker = SoftDirtyTracker::over(Box::new(bits.clone())).unwrap();
        assert!(tracker.must_stand() && !tracker.wants_to_begin());
        let list = areas(&[(10, 4, "rw-p")]);
        assert!(tracker.written(&list).unwrap().is_empty(), "cleared at the start");
        bits.set(11, PRESENT | SOFT_DIRTY | 11);
        bits.set(13, SWAPPED | SOFT_DIRTY | 7 << 5);
        assert_eq!(numbers(&tracker.written(&list).unwrap()), [11, 13]);
        assert!(tracker.written(&list).unwrap().is_empty());
        assert_eq!(*bits.clears.lock().unwrap(), 4, "each look begins anew");
    }

    /// Of a new mapping, and of one that took the place of another, the kernel shows every page as written, also those that
    /// are not there; of one that was moved it marks the entries.
    #[test]
    fn new_and_moved_mappings_are_all_written() {
        let bits = Recorded::new();
        let mut tracker = SoftDirtyTracker::over(Box::new(bits.clone())).unwrap();
        (20..26).for_each(|page| bits.set(page, SOFT_DIRTY));
        bits.set(22, PRESENT | SOFT_DIRTY | 5);
        bits.set(30, PRESENT | SOFT_DIRTY | 6);
        bits.set(31, PRESENT | 7);
        let list = areas(&[(20, 6, "rw-p"), (30, 2, "rw-p")]);
        assert_eq!(numbers(&tracker.written(&list).unwrap()), [22, 30], "what is not there has no content");
    }

    #[test]
    fn shared_memory_is_never_trusted() {
        let bits = Recorded::new();
        let mut tracker = SoftDirtyTracker::over(Box::new(bits)).unwrap();
        let list = areas(&[(5, 2, "rw-p"), (8, 3, "rw-s")]);
        assert_eq!(numbers(&tracker.written(&list).unwrap()), [8, 9, 10]);
    }

    #[test]
    fn a_process_that_is_gone_is_told() {
        let bits = Recorded::new();
        let mut tracker = SoftDirtyTracker::over(Box::new(bits.clone())).unwrap();
        bits.table.set_len(0).unwrap();
        let error = tracker.written(&areas(&[(5, 2, "rw-p")])).unwrap_err();
        assert!(matches!(error, CaptureError::Died { .. }), "{error:?}");
    }

    /// Whichever kernel this is: one that has the bits shows one for a page that was just written.
    #[test]
    fn the_probe_is_right_about_this_kernel() {
        let tracker = SoftDirtyTracker::begin_with(Pid::this()).unwrap();
        let text = String::from("just written");
        let page = u64::try_from(text.as_ptr().addr()).unwrap() / PAGE_SIZE;
        let mut entry = 0_u64;
        File::open("/proc/self/pagemap").unwrap().read_exact_at(entry.as_mut_bytes(), page * 8).unwrap();
        assert!(entry & PRESENT != 0);
        assert_eq!(tracker.is_some(), entry & SOFT_DIRTY != 0);
    }
}
