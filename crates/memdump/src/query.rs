//! What is known of a page, and questions about it.

bitflags::bitflags! {
    /// What the kernel says of a page, with the numbers of PAGEMAP_SCAN.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
    pub struct PageCategories: u64 {
        /// The page belongs to an area with asynchronous write tracking.
        const WP_ALLOWED = 1;
        /// The page was written since it was last protected.
        const WRITTEN = 1 << 1;
        /// The page is one of a file (or of shared memory), not a private copy.
        const FILE = 1 << 2;
        /// The page is in memory.
        const PRESENT = 1 << 3;
        /// The page is in swap space.
        const SWAPPED = 1 << 4;
        /// The page is the shared page of zeros.
        const ZERO = 1 << 5;
        /// The page is a part of a huge page.
        const HUGE = 1 << 6;
        /// The page was written since soft-dirty bits were last cleared.
        const SOFT_DIRTY = 1 << 7;
        /// A guard page, MADV_GUARD_INSTALL: any access faults.
        const GUARD = 1 << 8;
    }
}

/// Which pages to find and what to tell of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageQuery {
    /// Categories whose absence counts as their presence in `all_of` and `any_of`.
    pub inverted: PageCategories,
    /// Categories that a page must all have.
    pub all_of: PageCategories,
    /// Categories of which a page must have one; empty for no such condition.
    pub any_of: PageCategories,
    /// Categories told in the answer. Neighbours that differ in none of these become one run.
    pub returned: PageCategories,
}

impl PageQuery {
    /// Whether a page of these categories is asked for.
    pub fn matches(&self, categories: PageCategories) -> bool {
        let judged = categories ^ self.inverted;
        judged.contains(self.all_of) && (self.any_of.is_empty() || judged.intersects(self.any_of))
    }
}

/// Neighbouring pages of equal categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRun {
    /// Address of the first page.
    pub start: u64,
    /// How many pages.
    pub pages: u64,
    /// What they have in common, as far as the query asked.
    pub categories: PageCategories,
}

/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = rewake_images::PAGE_SIZE;

impl PageRun {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.pages.saturating_mul(PAGE_SIZE)
    }

    /// First address behind the run.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len_bytes())
    }
}

/// Adds `run`, joining it to the last one if it continues that with equal categories.
pub(crate) fn push_run(runs: &mut Vec<PageRun>, run: PageRun) {
    match runs.last_mut() {
        Some(last) if last.end() == run.start && last.categories == run.categories => last.pages += run.pages,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_judges_as_the_kernel_does() {
        let query = PageQuery {
            inverted: PageCategories::ZERO,
            all_of: PageCategories::ZERO,
            any_of: PageCategories::PRESENT | PageCategories::SWAPPED,
            returned: PageCategories::empty(),
        };
        assert!(query.matches(PageCategories::PRESENT));
        assert!(query.matches(PageCategories::SWAPPED | PageCategories::FILE));
        assert!(!query.matches(PageCategories::PRESENT | PageCategories::ZERO));
        assert!(!query.matches(PageCategories::FILE));
    }

    #[test]
    fn runs_join_only_when_alike() {
        let run = |page: u64, pages, categories| PageRun { start: page * PAGE_SIZE, pages, categories };
        let (a, b) = (PageCategories::PRESENT, PageCategories::SWAPPED);
        let mut runs = Vec::new();
        for next in [run(1, 2, a), run(3, 1, a), run(4, 1, b), run(6, 1, b)] {
            push_run(&mut runs, next);
        }
        assert_eq!(runs, [run(1, 3, a), run(4, 1, b), run(6, 1, b)]);
    }
}
