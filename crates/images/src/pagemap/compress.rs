//! Compressed pages: blocks of LZ4, each of one page or of a region of several.

use std::num::NonZeroU32;

use crate::{PAGE_SIZE, proto};

use super::blocks::LARGEST_BLOCK;
use super::entry::pe;

/// How pages are cut into blocks, each of which is compressed for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A page is a block: any page can be read alone.
    PerPage,
    /// So many pages are a block, which makes it smaller.
    Region(NonZeroU32),
}

impl Compression {
    /// Blocks of `bytes`; `None` if that is no number of pages, or larger than the format allows (4 MiB).
    #[must_use]
    pub fn region(bytes: u64) -> Option<Self> {
        let whole = bytes.is_multiple_of(PAGE_SIZE) && bytes <= LARGEST_BLOCK;
        let pages = u32::try_from(bytes / PAGE_SIZE).ok().and_then(NonZeroU32::new)?;
        whole.then_some(Self::Region(pages))
    }

    /// Says in the inventory that pages are compressed. Only readers of image version 3 know that.
    pub fn note(self, inventory: &mut proto::InventoryEntry) {
        const V12: u32 = 3;
        inventory.img_version = V12;
        (inventory.compress, inventory.compress_region_size) = match self {
            Self::PerPage => (Some(1), None),
            Self::Region(_) => (Some(2), Some(self.block_bytes())),
        };
    }

    /// Says in the inventory that pages are stored as they are.
    pub(super) fn forget(inventory: &mut proto::InventoryEntry) {
        const V11: u32 = 2;
        const PRE_DUMP: u32 = 0;
        inventory.img_version = if inventory.pre_dump_mode.is_some() { PRE_DUMP } else { V11 };
        (inventory.compress, inventory.compress_region_size) = (None, None);
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> u32 {
        const PAGE: u32 = 4096;
        const _: () = assert!(PAGE as u64 == PAGE_SIZE);
        match self {
            Self::PerPage => PAGE,
            Self::Region(pages) => pages.get() * PAGE,
        }
    }

    /// Appends `pages`, whole pages from `vaddr` on, to `payload`; gives their entry.
    ///
    /// A block of zeros takes no room, and one that does not get smaller is stored as it is.
    pub fn compress(self, vaddr: u64, pages: &[u8], payload: &mut Vec<u8>) -> proto::PagemapEntry {
        let block_bytes = usize::try_from(self.block_bytes()).unwrap_or(usize::MAX);
        let before = payload.len();
        let sizes: Vec<u32> = pages.chunks(block_bytes).map(|block| append(block, payload)).collect();
        let count = u64::try_from(pages.len()).unwrap_or(u64::MAX) / PAGE_SIZE;
        proto::PagemapEntry {
            vaddr,
            compat_nr_pages: u32::try_from(count).unwrap_or(0),
            flags: Some(pe::PRESENT),
            nr_pages: Some(count),
            compressed_size: sizes,
            total_compressed_size: u64::try_from(payload.len() - before).ok(),
            region_pages: match self {
                Self::PerPage => None,
                Self::Region(pages) => Some(pages.get()),
            },
            ..Default::default()
        }
    }
}

/// Appends one block; gives its size.
fn append(block: &[u8], payload: &mut Vec<u8>) -> u32 {
    let size = |bytes: usize| u32::try_from(bytes).expect("a block is at most 4 MiB");
    if block.iter().all(|&byte| byte == 0) {
        return 0;
    }
    let start = payload.len();
    payload.resize(start + lz4_flex::block::get_maximum_output_size(block.len()), 0);
    let room = payload.get_mut(start..).unwrap_or_default();
    match lz4_flex::block::compress_into(block, room) {
        Ok(stored) if stored < block.len() => {
            payload.truncate(start + stored);
            size(stored)
        }
        _ => {
            payload.truncate(start);
            payload.extend_from_slice(block);
            size(block.len())
        }
    }
}

/// Fills `out` with what a block holds.
pub(super) fn decompress(stored: &[u8], out: &mut [u8]) -> Result<(), String> {
    match lz4_flex::block::decompress_into(stored, out) {
        Ok(bytes) if bytes == out.len() => Ok(()),
        Ok(bytes) => Err(format!("a block of {bytes} bytes, not {}", out.len())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inventory_of_a_pre_dump_stays_one() {
        for (version, pre_dump_mode) in [(0, Some(2)), (2, None)] {
            let plain = proto::InventoryEntry { img_version: version, pre_dump_mode, ..Default::default() };
            let mut changed = plain.clone();
            Compression::region(1 << 18).unwrap().note(&mut changed);
            assert_eq!(
                (changed.img_version, changed.compress, changed.compress_region_size),
                (3, Some(2), Some(1 << 18))
            );
            Compression::PerPage.note(&mut changed);
            assert_eq!((changed.compress, changed.compress_region_size), (Some(1), None));
            Compression::forget(&mut changed);
            assert_eq!(changed, plain);
        }
    }
}
