//! Mapped areas and what is in them.

use std::os::fd::RawFd;

use nix::errno::Errno;

use super::raw;
use crate::stage::{Check, ensure, ensure_eq};

pub(crate) const PAGE: u64 = 4096;
pub(crate) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub(crate) const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
pub(crate) const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;

/// An area this program mapped. It stays mapped: what became of it is what a scenario is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) pages: u64,
}

impl Area {
    /// Maps anonymous memory somewhere.
    pub(crate) fn anonymous(pages: u64, protection: i32, flags: i32) -> Result<Self, Errno> {
        Self::map(0, pages, protection, flags, -1, 0)
    }

    /// mmap. With a fixed address it must not replace what is there.
    pub(crate) fn map(
        at: u64,
        pages: u64,
        protection: i32,
        flags: i32,
        fd: RawFd,
        offset: u64,
    ) -> Result<Self, Errno> {
        let flags = if at == 0 { flags } else { flags | libc::MAP_FIXED_NOREPLACE };
        let arguments = [at, pages * PAGE, protection as u64, flags as u64, fd as u64, offset];
        // SAFETY: a new area, replacing nothing.
        let start = unsafe { raw(libc::SYS_mmap, arguments) }?;
        Ok(Self { start, pages })
    }

    /// A second view of (part of) a shared area: mremap with an old size of zero.
    pub(crate) fn duplicate(self, first: u64, pages: u64) -> Result<Self, Errno> {
        let part = self.part(first, pages);
        let arguments = [part.start, 0, pages * PAGE, libc::MREMAP_MAYMOVE as u64, 0, 0];
        // SAFETY: makes a new area; the old one stays.
        let start = unsafe { raw(libc::SYS_mremap, arguments) }?;
        Ok(Self { start, pages })
    }

    /// The same area with another length, maybe elsewhere: mremap.
    pub(crate) fn moved(self, pages: u64) -> Result<Self, Errno> {
        let flags = libc::MREMAP_MAYMOVE as u64;
        let arguments = [self.start, self.pages * PAGE, pages * PAGE, flags, 0, 0];
        // SAFETY: an area of this program on which no Rust value lives; the caller goes on with the new one.
        let start = unsafe { raw(libc::SYS_mremap, arguments) }?;
        Ok(Self { start, pages })
    }

    pub(crate) fn part(self, first: u64, pages: u64) -> Self {
        Self { start: self.start + first * PAGE, pages }
    }

    pub(crate) fn end(self) -> u64 {
        self.start + self.pages * PAGE
    }

    pub(crate) fn protect(self, protection: i32) -> Result<(), Errno> {
        // SAFETY: an area of this program on which no Rust value lives.
        unsafe { raw(libc::SYS_mprotect, [self.start, self.pages * PAGE, protection as u64, 0, 0, 0]) }
            .map(drop)
    }

    pub(crate) fn advise(self, advice: i32) -> Result<(), Errno> {
        // SAFETY: as for protect.
        unsafe { raw(libc::SYS_madvise, [self.start, self.pages * PAGE, advice as u64, 0, 0, 0]) }.map(drop)
    }

    pub(crate) fn unmap(self) -> Result<(), Errno> {
        // SAFETY: as for protect.
        unsafe { raw(libc::SYS_munmap, [self.start, self.pages * PAGE, 0, 0, 0, 0]) }.map(drop)
    }

    pub(crate) fn lock(self, flags: u32) -> Result<(), Errno> {
        // SAFETY: changes no contents.
        unsafe { raw(libc::SYS_mlock2, [self.start, self.pages * PAGE, u64::from(flags), 0, 0, 0]) }.map(drop)
    }

    /// Whether each page is in memory.
    pub(crate) fn resident(self) -> Result<Vec<bool>, Errno> {
        let mut pages = vec![0_u8; self.pages as usize];
        let arguments = [self.start, self.pages * PAGE, pages.as_mut_ptr() as u64, 0, 0, 0];
        // SAFETY: the kernel writes one byte per page.
        unsafe { raw(libc::SYS_mincore, arguments) }?;
        Ok(pages.iter().map(|page| page & 1 != 0).collect())
    }

    pub(crate) fn read(self, page: u64, word: u64) -> u64 {
        // SAFETY: callers read inside areas they mapped readable; nothing else aliases them as Rust values.
        unsafe { std::ptr::read_volatile(self.address(page, word)) }
    }

    pub(crate) fn write(self, page: u64, word: u64, value: u64) {
        // SAFETY: as for read, with areas mapped writable.
        unsafe { std::ptr::write_volatile(self.address(page, word).cast_mut(), value) }
    }

    fn address(self, page: u64, word: u64) -> *const u64 {
        (self.start + page * PAGE + word * 8) as *const u64
    }

    /// Fills a page with words that say where they belong.
    pub(crate) fn fill(self, page: u64, seed: u64) {
        for word in 0..PAGE / 8 {
            self.write(page, word, pattern(seed, page, word));
        }
    }

    /// Checks every word of a page filled with `fill`.
    pub(crate) fn check(self, page: u64, seed: u64, what: &str) -> Check {
        for word in 0..PAGE / 8 {
            ensure_eq!(self.read(page, word), pattern(seed, page, word), "{what}: page {page} word {word}");
        }
        Ok(())
    }

    /// Checks that a page holds nothing but zeros.
    pub(crate) fn check_zero(self, page: u64, what: &str) -> Check {
        for word in 0..PAGE / 8 {
            ensure_eq!(self.read(page, word), 0, "{what}: page {page} word {word}");
        }
        Ok(())
    }

    /// Checks whether the kernel may read the first byte of a page for this program, without touching it itself.
    pub(crate) fn check_reachable(self, page: u64, reachable: bool, what: &str) -> Check {
        let (reader, writer) = nix::unistd::pipe()?;
        let address = self.start + page * PAGE;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&writer) as u64;
        // SAFETY: the kernel answers EFAULT for an address that cannot be read.
        let done = unsafe { raw(libc::SYS_write, [fd, address, 1, 0, 0, 0]) };
        drop(reader);
        ensure_eq!(done.is_ok(), reachable, "{what}: page {page} can be read ({done:?})");
        ensure!(reachable || done == Err(Errno::EFAULT), "{what}: page {page}: {done:?}");
        Ok(())
    }
}

/// A word that differs from every other of its kind.
pub(crate) fn pattern(seed: u64, page: u64, word: u64) -> u64 {
    let mut value = seed ^ page.rotate_left(32) ^ word.rotate_left(8) ^ 0x9e37_79b9_7f4a_7c15;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31) | 1
}

/// Bytes for files and pipes, made of the same words.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    (0..).flat_map(|word| pattern(seed, 0, word).to_le_bytes()).take(length).collect()
}

/// The end of the heap, exactly.
pub(crate) fn brk(at: u64) -> u64 {
    // SAFETY: zero or an address above the present end: takes nothing away from the allocator.
    unsafe { raw(libc::SYS_brk, [at, 0, 0, 0, 0, 0]) }.unwrap_or(0)
}
