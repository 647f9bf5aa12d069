//! Huge pages for a file in memory.
#![expect(unsafe_code, reason = "raw system calls")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// What one entry of the page table above the lowest covers.
pub(crate) const HUGE_BYTES: usize = 2 << 20;
const RESERVED: NonZeroUsize = NonZeroUsize::new(2 * HUGE_BYTES).expect("it is not zero");
const HUGE: NonZeroUsize = NonZeroUsize::new(HUGE_BYTES).expect("it is not zero");

/// Makes one page of the [`HUGE_BYTES`] of `file` from `offset`, a multiple of them, on; the content stays as it is. There
/// must be a page already. madvise(2), MADV_COLLAPSE; Linux 6.1, whatever the file system's `huge=` says.
pub(crate) fn make_huge(file: &File, offset: u64) -> Result<(), Errno> {
    const MADV_COLLAPSE: libc::c_int = 25;
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EFBIG)?;
    // The call wants the file mapped, at an address that is a multiple, too. Nobody can touch what is mapped here, so a file
    // that is cut meanwhile harms nobody.
    let (prot, none) = (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let reserved = unsafe { mmap_anonymous(None, RESERVED, prot, none) }?;
    let aligned = reserved.addr().get().next_multiple_of(HUGE_BYTES);
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
    // SAFETY: the address is in the first half of what was just reserved, which is twice as long.
    let mapped = unsafe { mmap(NonZeroUsize::new(aligned), HUGE, prot, flags, file.as_fd(), offset) };
    let made = mapped.and_then(|mapped| {
        // SAFETY: a mapping of that length, just made; the advice does not change what is in it.
        Errno::result(unsafe { libc::madvise(mapped.as_ptr(), HUGE_BYTES, MADV_COLLAPSE) }).map(drop)
    });
    // SAFETY: exactly the reservation made above, whatever lies in it now; no reference into it ever existed.
    unsafe { munmap(reserved, RESERVED.get()) }?;
    made
}
