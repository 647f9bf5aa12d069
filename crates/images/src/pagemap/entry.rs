//! What an entry of a pagemap says of its pages.

use crate::proto;

/// Bits of `pagemap_entry.flags`.
pub mod pe {
    /// The pages are in the parent checkpoint.
    pub const PARENT: u32 = 1;
    /// The pages may be delivered after the restore.
    pub const LAZY: u32 = 2;
    /// The pages are in this checkpoint's pages file.
    pub const PRESENT: u32 = 4;
    /// They begin there at the next multiple of the page size.
    pub const PAYLOAD_ALIGNED: u32 = 8;
}

/// Number of pages of an entry: the newer 64-bit field if it is there, else the old one.
#[must_use]
pub fn pages_of(entry: &proto::PagemapEntry) -> u64 {
    match entry.nr_pages {
        Some(pages) if pages > 0 || entry.compat_nr_pages == 0 => pages,
        _ => u64::from(entry.compat_nr_pages),
    }
}

/// Flags of an entry with both old ways of writing them understood.
#[must_use]
pub fn flags_of(entry: &proto::PagemapEntry) -> u32 {
    match (entry.in_parent(), entry.flags) {
        (true, flags) => flags.unwrap_or(0) | pe::PARENT,
        (false, Some(flags)) => flags,
        (false, None) => pe::PRESENT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_spellings_of_flags_and_counts() {
        let entry = |nr_pages, compat_nr_pages, in_parent, flags| proto::PagemapEntry {
            vaddr: 0,
            compat_nr_pages,
            in_parent,
            flags,
            nr_pages,
            ..Default::default()
        };
        assert_eq!(pages_of(&entry(Some(7), 0, None, None)), 7);
        assert_eq!(pages_of(&entry(Some(0), 3, None, None)), 3, "a writer that only knows the old field");
        assert_eq!(pages_of(&entry(None, 3, None, None)), 3);
        assert_eq!(flags_of(&entry(None, 0, None, None)), pe::PRESENT);
        assert_eq!(flags_of(&entry(None, 0, Some(true), None)), pe::PARENT);
        assert_eq!(flags_of(&entry(None, 0, None, Some(6))), 6);
    }
}
