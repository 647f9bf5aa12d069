//! What to read and where to write it, as plain data.

use crate::query::{PAGE_SIZE, PageRun};

/// IOV_MAX of Linux: how many pieces one call takes.
const IOV_MAX: usize = 1024;

/// Neighbouring pages and their place in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlannedRun {
    /// Address of the first page.
    pub start: u64,
    /// How many pages, never 0.
    pub pages: u64,
    /// Where the first page goes, in bytes.
    pub file_offset: u64,
}

/// Runs of pages to store, one behind the other without gaps, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PagePlan {
    runs: Vec<PlannedRun>,
    total_pages: u64,
}

impl PagePlan {
    /// Plans to store `runs`. Runs are neither sorted nor joined, so each can become an entry of a pagemap image;
    /// empty ones are left out.
    ///
    /// # Panics
    /// If the runs together are larger than an address space, which no survey yields.
    pub fn new(runs: impl IntoIterator<Item = PageRun>) -> Self {
        let mut plan = Self::default();
        for run in runs.into_iter().filter(|run| run.pages > 0) {
            let file_offset = plan.total_bytes();
            plan.total_pages =
                plan.total_pages.checked_add(run.pages).expect("runs fit into an address space");
            assert!(plan.total_pages <= u64::MAX / PAGE_SIZE, "runs fit into an address space");
            plan.runs.push(PlannedRun { start: run.start, pages: run.pages, file_offset });
        }
        plan
    }

    /// The runs in the order of the output.
    pub fn runs(&self) -> &[PlannedRun] {
        &self.runs
    }

    /// How many pages are stored.
    pub fn total_pages(&self) -> u64 {
        self.total_pages
    }

    /// Size of the output in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_pages * PAGE_SIZE
    }

    /// Cuts the plan into pieces of at most `buffer_bytes` (rounded down to pages, at least one page). They are made
    /// one by one, so a plan for a large process takes no more memory than its runs.
    pub fn chunks(&self, buffer_bytes: usize) -> Chunks<'_> {
        let buffer_bytes = u64::try_from(buffer_bytes).expect("usize is at most 64 bits");
        Chunks { rest: &self.runs, taken_pages: 0, chunk_pages: (buffer_bytes / PAGE_SIZE).max(1) }
    }
}

impl FromIterator<PageRun> for PagePlan {
    fn from_iter<T: IntoIterator<Item = PageRun>>(runs: T) -> Self {
        Self::new(runs)
    }
}

/// Memory that is read by one call and written by one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it goes in the output, in bytes.
    pub file_offset: u64,
    /// Address and length in bytes of every piece; at least one, at most IOV_MAX, none of them empty.
    pub iovecs: Vec<(u64, u64)>,
}

impl Chunk {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.iovecs.iter().map(|&(_, len)| len).sum()
    }
}

/// The chunks of a plan, in the order of the output.
#[derive(Debug, Clone)]
pub struct Chunks<'a> {
    rest: &'a [PlannedRun],
    /// Pages of the first run in `rest` that are in earlier chunks.
    taken_pages: u64,
    chunk_pages: u64,
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let first = self.rest.first()?;
        let file_offset = first.file_offset + self.taken_pages * PAGE_SIZE;
        let mut iovecs = Vec::new();
        let mut room = self.chunk_pages;
        while let Some((run, behind)) = self.rest.split_first() {
            if room == 0 || iovecs.len() == IOV_MAX {
                break;
            }
            let left = run.pages - self.taken_pages;
            let pages = left.min(room);
            iovecs.push((run.start + self.taken_pages * PAGE_SIZE, pages * PAGE_SIZE));
            room -= pages;
            if pages == left {
                (self.rest, self.taken_pages) = (behind, 0);
            } else {
                self.taken_pages += pages;
            }
        }
        Some(Chunk { file_offset, iovecs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::PageCategories;

    fn run(page: u64, pages: u64) -> PageRun {
        PageRun { start: page * PAGE_SIZE, pages, categories: PageCategories::empty() }
    }

    #[test]
    fn a_large_run_is_cut() {
        let plan = PagePlan::new([run(10, 5)]);
        let chunks: Vec<Chunk> = plan.chunks(2 * 4096 + 1).collect();
        let of = |page: u64, pages: u64, offset: u64| Chunk {
            file_offset: offset * PAGE_SIZE,
            iovecs: vec![(page * PAGE_SIZE, pages * PAGE_SIZE)],
        };
        assert_eq!(chunks, [of(10, 2, 0), of(12, 2, 2), of(14, 1, 4)]);
    }

    #[test]
    fn a_call_takes_no_more_than_iov_max_pieces() {
        let plan: PagePlan = (0..3000).map(|n| run(n * 2, 1)).collect();
        let pieces: Vec<usize> = plan.chunks(1 << 30).map(|chunk| chunk.iovecs.len()).collect();
        assert_eq!(pieces, [1024, 1024, 952]);
    }

    #[test]
    fn nothing_makes_no_chunk() {
        assert_eq!(PagePlan::new([run(1, 0)]).chunks(0).count(), 0);
        assert_eq!(PagePlan::default().total_bytes(), 0);
    }

    proptest! {
        #[test]
        fn chunks_cover_every_page_once_in_order(
            gaps_and_lengths in proptest::collection::vec((1_u64..20, 0_u64..40), 0..2000),
            buffer in 0_usize..200_000,
        ) {
            let mut page = 0;
            let runs: Vec<PageRun> = gaps_and_lengths.iter().map(|&(gap, pages)| {
                let start = page + gap;
                page = start + pages;
                run(start, pages)
            }).collect();
            let expected: Vec<u64> =
                runs.iter().flat_map(|r| (0..r.pages).map(|n| r.start + n * PAGE_SIZE)).collect();
            let plan = PagePlan::new(runs);
            prop_assert_eq!(plan.total_pages(), u64::try_from(expected.len()).unwrap());

            let mut seen = Vec::new();
            for chunk in plan.chunks(buffer) {
                prop_assert_eq!(chunk.file_offset, u64::try_from(seen.len()).unwrap() * PAGE_SIZE);
                prop_assert!(!chunk.iovecs.is_empty() && chunk.iovecs.len() <= IOV_MAX);
                prop_assert!(chunk.len_bytes() <= u64::try_from(buffer).unwrap().max(PAGE_SIZE));
                for (addr, len) in chunk.iovecs {
                    prop_assert!(len > 0 && len % PAGE_SIZE == 0);
                    seen.extend((0..len / PAGE_SIZE).map(|n| addr + n * PAGE_SIZE));
                }
            }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn runs_lie_one_behind_the_other(lengths in proptest::collection::vec(0_u64..1 << 30, 0..50)) {
            let plan = PagePlan::new(lengths.iter().map(|&pages| run(7, pages)));
            let mut offset = 0;
            for planned in plan.runs() {
                prop_assert_eq!(planned.file_offset, offset);
                offset += planned.pages * PAGE_SIZE;
            }
            prop_assert_eq!(offset, plan.total_bytes());
        }
    }
}
