//! Pages that lie together.

use crate::PAGE_SIZE;

/// Consecutive pages that lie consecutively in one pages file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Address of the first page; for shared memory the offset in the object.
    pub vaddr: u64,
    /// Number of pages.
    pub pages: u64,
    /// Which checkpoint of the chain holds them: 0 is the one opened, 1 its parent.
    pub level: usize,
    /// Where they start in that checkpoint's pages file; if they are compressed, where the entry they are of starts.
    pub file_offset: u64,
    /// Flags of the entry they come from ([`super::pe`]).
    pub flags: u32,
    /// They are stored in compressed blocks.
    pub compressed: bool,
}

impl PageRun {
    /// Address behind the last page.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vaddr + self.bytes()
    }

    /// Size in bytes, as memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// The part of it inside `start..end`, `None` if there is none.
    #[must_use]
    pub fn clip(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.vaddr.max(start), self.end().min(end));
        let skipped = if self.compressed { 0 } else { from - self.vaddr };
        (from < to).then(|| Self {
            vaddr: from,
            pages: (to - from) / PAGE_SIZE,
            file_offset: self.file_offset + skipped,
            ..*self
        })
    }

    /// It in pieces of at most so many pages, to be held one by one.
    pub fn pieces(self, pages: u64) -> impl Iterator<Item = Self> {
        let starts = (0..self.pages).step_by(usize::try_from(pages.max(1)).unwrap_or(usize::MAX));
        starts.filter_map(move |first| {
            let from = self.vaddr + first * PAGE_SIZE;
            self.clip(from, from.saturating_add(pages.max(1).saturating_mul(PAGE_SIZE)))
        })
    }

    /// Whether `next` goes on where this one ends, in memory and in the file.
    pub(super) fn continues(&self, next: &Self) -> bool {
        let in_file = if self.compressed { self.file_offset } else { self.file_offset + self.bytes() };
        let place = (self.end(), in_file, self.level, self.flags, self.compressed);
        place == (next.vaddr, next.file_offset, next.level, next.flags, next.compressed)
    }
}
