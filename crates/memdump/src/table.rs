//! Reading `/proc/PID/pagemap` entry by entry, for kernels without PAGEMAP_SCAN.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use zerocopy::IntoBytes;

use crate::query::{PAGE_SIZE, PageCategories, PageQuery, PageRun, push_run};
use crate::sys;

/// Bytes of one entry.
const ENTRY_BYTES: u64 = 8;
/// Entries read at once. The chunk makes no difference in time, so it is small.
const ENTRIES: usize = 8192;

const SOFT_DIRTY: u64 = 1 << 55;
const UFFD_WP: u64 = 1 << 57;
const GUARD: u64 = 1 << 58; // Linux 6.15
const FILE: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// A page table entry that is only a mark has the last swap type; the marks are behind it. Both are visible to
/// CAP_SYS_ADMIN only.
const SWAP_TYPE: u64 = 0x1f;
const MARKER_TYPE: u64 = 0x1f;
const MARKER_SHIFT: u32 = 5;
const MARKER_GUARD: u64 = 1 << 2; // Linux 6.13, before bit 58 existed

/// Meaning of one entry. `zero_frame` is the frame of the page of zeros, if frames are visible.
///
/// # Source
/// `Documentation/admin-guide/mm/pagemap.rst`.
pub(crate) fn categories(entry: u64, zero_frame: Option<u64>) -> PageCategories {
    let mut found = PageCategories::empty();
    let present = entry & PRESENT != 0;
    found.set(PageCategories::PRESENT, present);
    found.set(PageCategories::FILE, entry & FILE != 0);
    found.set(PageCategories::SOFT_DIRTY, entry & SOFT_DIRTY != 0);
    found.set(PageCategories::WRITTEN, entry & UFFD_WP == 0);
    found.set(PageCategories::ZERO, present && zero_frame == Some(entry & FRAME));
    if entry & SWAPPED != 0 {
        let marker = entry & SWAP_TYPE == MARKER_TYPE;
        let marks = (entry & FRAME) >> MARKER_SHIFT;
        found.set(PageCategories::GUARD, entry & GUARD != 0 || marker && marks & MARKER_GUARD != 0);
        // Nothing is behind a mark: such a page was never touched, or is a guard page.
        found.set(PageCategories::SWAPPED, !marker && entry & GUARD == 0);
    }
    found
}

/// Frame of the page of zeros, `None` if frames are hidden from us (no CAP_SYS_ADMIN).
pub(crate) fn zero_frame() -> Option<u64> {
    let page_size = NonZeroUsize::new(usize::try_from(PAGE_SIZE).ok()?)?;
    let own = File::open("/proc/self/pagemap").ok()?;
    let entry = sys::with_zero_page(page_size, |addr| {
        let mut entry = 0_u64;
        own.read_exact_at(entry.as_mut_bytes(), addr / PAGE_SIZE * ENTRY_BYTES).map(|()| entry)
    });
    let entry = entry.ok()?.ok()?;
    Some(entry & FRAME).filter(|&frame| entry & PRESENT != 0 && frame != 0)
}

/// Adds the pages of `range` that `query` asks for to `runs`.
pub(crate) fn scan(
    pagemap: &File,
    range: Range<u64>,
    query: &PageQuery,
    zero_frame: Option<u64>,
    runs: &mut Vec<PageRun>,
) -> io::Result<()> {
    let mut entries = vec![0_u64; ENTRIES.min(usize::try_from(pages_in(&range)).unwrap_or(ENTRIES))];
    let mut addr = range.start;
    while addr < range.end {
        let want = usize::try_from(pages_in(&(addr..range.end))).unwrap_or(ENTRIES).min(entries.len());
        let batch = entries.get_mut(..want).expect("want is at most the length");
        let read = pagemap.read_at(batch.as_mut_bytes(), addr / PAGE_SIZE * ENTRY_BYTES)?;
        let read = read / size_of::<u64>();
        if read == 0 {
            break; // the end of what a task may map, or the task is gone, which the caller finds out
        }
        for &entry in batch.iter().take(read) {
            let found = categories(entry, zero_frame);
            if query.matches(found) {
                push_run(runs, PageRun { start: addr, pages: 1, categories: found & query.returned });
            }
            addr += PAGE_SIZE;
        }
    }
    Ok(())
}

fn pages_in(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start).div_ceil(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_mean_what_the_kernel_says() {
        let of = |entry| categories(entry, Some(7)) - PageCategories::WRITTEN;
        assert_eq!(of(0), PageCategories::empty());
        assert_eq!(of(PRESENT | 9), PageCategories::PRESENT);
        assert_eq!(of(PRESENT | 7), PageCategories::PRESENT | PageCategories::ZERO);
        assert_eq!(of(PRESENT | FILE | 9), PageCategories::PRESENT | PageCategories::FILE);
        assert_eq!(of(SWAPPED | 5 << 5 | 1), PageCategories::SWAPPED);
        assert_eq!(of(PRESENT | SOFT_DIRTY), PageCategories::PRESENT | PageCategories::SOFT_DIRTY);
        assert!(!categories(PRESENT | UFFD_WP, None).contains(PageCategories::WRITTEN));
    }

    #[test]
    fn guard_pages_are_not_swapped() {
        let of = |entry| categories(entry, None) - PageCategories::WRITTEN;
        assert_eq!(of(0x4400_0000_0000_009f), PageCategories::GUARD, "as Linux 6.18 shows it");
        assert_eq!(of(SWAPPED | GUARD), PageCategories::GUARD, "and to those who see no frames");
        assert_eq!(of(SWAPPED | 0x9f), PageCategories::GUARD, "as Linux 6.13 shows it");
    }

    #[test]
    fn a_page_never_touched_but_marked_for_tracking_is_not_swapped() {
        assert_eq!(categories(SWAPPED | UFFD_WP | 0x3f, None), PageCategories::empty());
    }
}
