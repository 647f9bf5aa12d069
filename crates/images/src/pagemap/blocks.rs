//! Where the pages of an entry lie in the pages file: as they are, or in compressed blocks.

use crate::{PAGE_SIZE, proto};

use super::entry::{flags_of, pages_of, pe};

/// Largest block, in bytes; no dumper makes larger ones, and a reader must hold one.
pub(crate) const LARGEST_BLOCK: u64 = 4 << 20;

/// Blocks from one remembered place in the file to the next.
const STRIDE: usize = 64;

/// How the pages of an entry are stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Not in this pages file.
    Elsewhere,
    /// As they are, from this byte on.
    Plain(u64),
    Blocks(Blocks),
}

/// The compressed blocks of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    vaddr: u64,
    pages: u64,
    /// Pages of a block; the last may be shorter.
    block_pages: u64,
    /// Bytes of each block in the file.
    sizes: Vec<u32>,
    /// Where in the file every [`STRIDE`]th block begins.
    starts: Vec<u64>,
}

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) vaddr: u64,
    /// Size of what it holds.
    pub(crate) bytes: u64,
    /// Where it lies in the file.
    pub(crate) offset: u64,
    /// Its size there: 0 for zeros, `bytes` for what is not compressed.
    pub(crate) stored: u32,
}

impl Blocks {
    /// Where in the file the first block begins.
    pub(crate) fn start(&self) -> u64 {
        self.starts.first().copied().unwrap_or_default()
    }

    /// Bytes of a block that is not the last.
    #[cfg(feature = "lz4")]
    pub(crate) fn block_bytes(&self) -> u64 {
        self.block_pages * PAGE_SIZE
    }

    pub(crate) fn end(&self) -> u64 {
        self.vaddr + self.pages * PAGE_SIZE
    }

    /// The block that holds the byte at `vaddr`.
    pub(crate) fn at(&self, vaddr: u64) -> Option<Block> {
        let page =
            vaddr.checked_sub(self.vaddr).map(|bytes| bytes / PAGE_SIZE).filter(|&page| page < self.pages)?;
        let number = page / self.block_pages;
        let index = usize::try_from(number).ok()?;
        let stored = *self.sizes.get(index)?;
        let first = number * self.block_pages;
        let group = index / STRIDE;
        let before = self.sizes.get(group * STRIDE..index)?;
        Some(Block {
            vaddr: self.vaddr + first * PAGE_SIZE,
            bytes: self.block_pages.min(self.pages - first) * PAGE_SIZE,
            offset: self.starts.get(group)? + before.iter().map(|&size| u64::from(size)).sum::<u64>(),
            stored,
        })
    }
}

/// Goes through the entries of a pagemap and says where the pages of each lie.
#[derive(Debug, Default)]
pub(crate) struct Places {
    end: u64,
}

impl Places {
    /// Bytes of the pages file that the entries so far account for.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where the pages of the next entry lie; what is wrong with it otherwise.
    pub(crate) fn next(&mut self, entry: &proto::PagemapEntry) -> Result<Stored, String> {
        const TOO_MANY: &str = "more pages than any file holds";
        let flags = flags_of(entry);
        let (vaddr, pages) = (entry.vaddr, pages_of(entry));
        let sizes = &entry.compressed_size;
        let has_sizes = !sizes.is_empty();
        if flags & pe::PRESENT == 0 {
            return match has_sizes {
                true => Err(format!("pages at {vaddr:#x} are compressed, but not in the pages file")),
                false => Ok(Stored::Elsewhere),
            };
        }
        if flags & pe::PAYLOAD_ALIGNED != 0 {
            self.end = self.end.checked_next_multiple_of(PAGE_SIZE).ok_or(TOO_MANY)?;
        }
        let start = self.end;
        let plain_bytes = pages.checked_mul(PAGE_SIZE).ok_or(TOO_MANY)?;
        if !has_sizes {
            self.end = start.checked_add(plain_bytes).ok_or(TOO_MANY)?;
            return match entry.total_compressed_size.or(entry.region_pages.map(u64::from)) {
                Some(size) if size > 0 => Err(format!("compressed pages at {vaddr:#x} without sizes")),
                _ => Ok(Stored::Plain(start)),
            };
        }
        let block_pages = u64::from(entry.region_pages.filter(|&pages| pages > 0).unwrap_or(1));
        if block_pages * PAGE_SIZE > LARGEST_BLOCK {
            return Err(format!(
                "blocks of {block_pages} pages at {vaddr:#x} are larger than {LARGEST_BLOCK} bytes"
            ));
        }
        let wanted = pages.div_ceil(block_pages);
        if u64::try_from(sizes.len()) != Ok(wanted) {
            return Err(format!("{} sizes of blocks at {vaddr:#x}, where there are {wanted}", sizes.len()));
        }
        let mut starts = Vec::with_capacity(sizes.len().div_ceil(STRIDE));
        let mut left = pages;
        for (index, &stored) in sizes.iter().enumerate() {
            if index % STRIDE == 0 {
                starts.push(self.end);
            }
            let bytes = block_pages.min(left) * PAGE_SIZE;
            left = left.saturating_sub(block_pages);
            if u64::from(stored) > bytes {
                return Err(format!(
                    "block {index} at {vaddr:#x} has {stored} bytes, more than uncompressed"
                ));
            }
            self.end = self.end.checked_add(stored.into()).ok_or(TOO_MANY)?;
        }
        if let Some(total) = entry.total_compressed_size.filter(|&total| total != self.end - start) {
            return Err(format!("blocks at {vaddr:#x} have {} bytes, not {total}", self.end - start));
        }
        Ok(Stored::Blocks(Blocks { vaddr, pages, block_pages, sizes: sizes.clone(), starts }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(page: u64, pages: u64, flags: u32, sizes: &[u32], region: Option<u32>) -> proto::PagemapEntry {
        proto::PagemapEntry {
            vaddr: page * PAGE_SIZE,
            nr_pages: Some(pages),
            flags: Some(flags),
            compressed_size: sizes.to_vec(),
            region_pages: region,
            ..Default::default()
        }
    }

    #[test]
    fn plain_aligned_and_compressed_entries_follow_each_other() {
        let mut places = Places::default();
        assert_eq!(places.next(&entry(1, 2, pe::PRESENT, &[], None)), Ok(Stored::Plain(0)));
        assert_eq!(places.next(&entry(3, 2, pe::PARENT, &[], None)), Ok(Stored::Elsewhere));
        let Ok(Stored::Blocks(blocks)) = places.next(&entry(5, 5, pe::PRESENT, &[10, 0, 4096], Some(2)))
        else {
            panic!("blocks");
        };
        let at = |page: u64| {
            blocks.at(page * PAGE_SIZE + 7).map(|b| (b.vaddr / 4096, b.bytes / 4096, b.offset, b.stored))
        };
        assert_eq!(at(6), Some((5, 2, 8192, 10)));
        assert_eq!(at(7), Some((7, 2, 8202, 0)));
        assert_eq!(at(9), Some((9, 1, 8202, 4096)));
        assert_eq!(at(10), None);
        assert_eq!(at(4), None);
        let aligned = places.next(&entry(20, 1, pe::PRESENT | pe::PAYLOAD_ALIGNED, &[], None));
        assert_eq!(aligned, Ok(Stored::Plain(4 * 4096)), "behind the padding");
        assert_eq!(places.end(), 5 * 4096);
    }

    #[test]
    fn places_of_blocks_far_into_an_entry() {
        let sizes: Vec<u32> = (0..1000).collect();
        let mut places = Places::default();
        let Ok(Stored::Blocks(blocks)) = places.next(&entry(0, 1000, pe::PRESENT, &sizes, None)) else {
            panic!("blocks");
        };
        for page in 0..1000_u64 {
            let block = blocks.at(page * PAGE_SIZE).unwrap();
            assert_eq!((block.offset, u64::from(block.stored)), (page * page.saturating_sub(1) / 2, page));
        }
    }

    #[test]
    fn sizes_that_lie_are_told() {
        let wrong = [
            entry(1, 2, pe::PARENT, &[1, 1], None),
            entry(1, 2, pe::PRESENT, &[1], None),
            entry(1, 2, pe::PRESENT, &[1, 4097], None),
            entry(1, 3, pe::PRESENT, &[8192, 4097], Some(2)),
            entry(1, 2000, pe::PRESENT, &[1, 1], Some(1025)),
            entry(1, 2, pe::PRESENT, &[], Some(2)),
            proto::PagemapEntry { total_compressed_size: Some(3), ..entry(1, 2, pe::PRESENT, &[1, 1], None) },
        ];
        for entry in wrong {
            assert!(Places::default().next(&entry).is_err(), "{entry:?}");
        }
    }
}
