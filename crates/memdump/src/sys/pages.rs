//! Page tables, and userfaultfd.
#![expect(unsafe_code, reason = "raw system calls")]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::query::{PAGE_SIZE, PageCategories, PageRun, push_run};

/// `struct page_region` of the kernel: pages of equal categories.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct PageRegion {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

const _: () = assert!(size_of::<PageRegion>() == 24);

/// `struct pm_scan_arg` of the kernel, without the pointer to the regions.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ScanRequest {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) inverted: u64,
    pub(crate) all_of: u64,
    pub(crate) any_of: u64,
    pub(crate) returned: u64,
    /// Fail for memory that is not tracked asynchronously.
    pub(crate) tracked: bool,
    /// Protect what is found again; only for memory that is tracked.
    pub(crate) protect: bool,
}

#[repr(C)]
#[derive(Debug)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: *mut PageRegion,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const SCAN_ARG_BYTES: u64 = 96;
const _: () = assert!(size_of::<ScanArg>() == 96);

/// Scans page tables; returns how many of `regions` were filled and where the walk says it ended. PAGEMAP_SCAN,
/// Linux 6.7, `Documentation/admin-guide/mm/pagemap.rst`. Write protection is only
/// changed if asked for.
pub(crate) fn pagemap_scan(
    pagemap: BorrowedFd<'_>,
    request: &ScanRequest,
    regions: &mut [PageRegion],
) -> Result<(usize, u64), Errno> {
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610; // _IOWR('f', 16, struct pm_scan_arg)
    const PM_SCAN_WP_MATCHING: u64 = 1;
    const PM_SCAN_CHECK_WPASYNC: u64 = 2;
    let mut arg = ScanArg {
        size: SCAN_ARG_BYTES,
        flags: match (request.protect, request.tracked) {
            (true, _) => PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
            (false, true) => PM_SCAN_CHECK_WPASYNC,
            (false, false) => 0,
        },
        start: request.start,
        end: request.end,
        walk_end: 0,
        // The kernel wants no pointer where there is no length.
        vec: if regions.is_empty() { std::ptr::null_mut() } else { regions.as_mut_ptr() },
        vec_len: u64::try_from(regions.len()).expect("usize is 64 bits"),
        max_pages: 0,
        category_inverted: request.inverted,
        category_mask: request.all_of,
        category_anyof_mask: request.any_of,
        return_mask: request.returned,
    };
    // SAFETY: the pointer is to a writable struct of the size it names; the regions it points to are writable, plain
    // numbers, vec_len of them, and borrowed by us until the call returns.
    let filled = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
    let filled = Errno::result(filled)?;
    Ok((usize::try_from(filled).expect("Errno::result took the negative ones"), arg.walk_end))
}

/// As [`pagemap_scan`], however many calls it takes; `request.start` is moved on.
pub(crate) fn scan_all(
    pagemap: BorrowedFd<'_>,
    request: &mut ScanRequest,
    regions: &mut [PageRegion],
    runs: &mut Vec<PageRun>,
) -> Result<(), Errno> {
    while request.start < request.end {
        let (filled, walk_end) = pagemap_scan(pagemap, request, regions)?;
        let found = regions.get(..filled).unwrap_or(regions);
        for region in found {
            let pages = region.end.saturating_sub(region.start) / PAGE_SIZE;
            let categories = PageCategories::from_bits_truncate(region.categories);
            push_run(runs, PageRun { start: region.start, pages, categories });
        }
        if filled < regions.len() {
            break; // there was room left, so the walk reached the end
        }
        // The kernel may leave walk_end at the last point where it paused although it returned regions behind
        // that; starting there would return them twice.
        request.start = walk_end.max(found.last().map_or(walk_end, |last| last.end));
    }
    Ok(())
}

/// Agrees with the kernel on asynchronous write protection. ioctl_userfaultfd(2), UFFDIO_API; Linux 6.7.
pub(crate) fn uffd_api(uffd: BorrowedFd<'_>) -> Result<(), Errno> {
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFD_API: u64 = 0xaa;
    const PAGEFAULT_FLAG_WP: u64 = 1;
    const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
    const WP_UNPOPULATED: u64 = 1 << 13;
    const WP_ASYNC: u64 = 1 << 15;
    // struct uffdio_api: api, features, ioctls.
    let mut args = [UFFD_API, PAGEFAULT_FLAG_WP | WP_HUGETLBFS_SHMEM | WP_UNPOPULATED | WP_ASYNC, 0];
    // SAFETY: the pointer is to three writable words, which is struct uffdio_api.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, args.as_mut_ptr()) }).map(drop)
}

/// Makes a range of the memory behind `uffd` known as one to be write-protected. ioctl_userfaultfd(2), UFFDIO_REGISTER.
pub(crate) fn uffd_register_wp(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
    const REGISTER_MODE_WP: u64 = 2;
    // struct uffdio_register: start, len, mode, ioctls.
    let mut args = [start, len, REGISTER_MODE_WP, 0];
    // SAFETY: the pointer is to four writable words, which is struct uffdio_register.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, args.as_mut_ptr()) }).map(drop)
}

/// Maps one page of our own, reads it so that the kernel puts the shared page of zeros there, and shows its address
/// to `look`.
pub(crate) fn with_zero_page<T>(page_size: NonZeroUsize, look: impl FnOnce(u64) -> T) -> Result<T, Errno> {
    let (prot, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS);
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let page = unsafe { mmap_anonymous(None, page_size, prot, flags) }?;
    // SAFETY: the page was just mapped readable, and any byte is a valid u8.
    unsafe { page.cast::<u8>().as_ptr().read_volatile() };
    let seen = look(u64::try_from(page.addr().get()).expect("usize is 64 bits"));
    // SAFETY: exactly the mapping made above; no reference into it is left.
    unsafe { munmap(page, page_size.get()) }?;
    Ok(seen)
}

/// Maps one page of our own and shows its address to `look`, with a way to write to it.
pub(crate) fn with_own_page<T>(
    page_size: NonZeroUsize,
    look: impl FnOnce(u64, &dyn Fn()) -> T,
) -> Result<T, Errno> {
    let (prot, flags) =
        (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS);
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let page = unsafe { mmap_anonymous(None, page_size, prot, flags) }?;
    let write = || {
        // SAFETY: the page is mapped writable until `look` returns, and nobody holds a reference into it.
        unsafe { page.cast::<u8>().as_ptr().write_volatile(1) };
    };
    let seen = look(u64::try_from(page.addr().get()).expect("usize is 64 bits"), &write);
    // SAFETY: exactly the mapping made above; no reference into it is left.
    unsafe { munmap(page, page_size.get()) }?;
    Ok(seen)
}

/// Maps a guard page of our own in memory whose writes are tracked, and shows its address to `look`. Linux 6.13.
pub(crate) fn with_tracked_guard_page<T>(look: impl FnOnce(u64) -> T) -> Result<T, Errno> {
    const USER_MODE_ONLY: libc::c_int = 1;
    const MADV_GUARD_INSTALL: libc::c_int = 102;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
    // SAFETY: takes a number.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else has it.
    let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
    uffd_api(uffd.as_fd())?;
    let page_size = usize::try_from(PAGE_SIZE).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
    with_own_page(page_size, |addr, _| {
        uffd_register_wp(uffd.as_fd(), addr, PAGE_SIZE)?;
        let at = std::ptr::without_provenance_mut(usize::try_from(addr).map_err(|_| Errno::EFAULT)?);
        // SAFETY: the page is mapped until this closure returns, and nobody touches it.
        Errno::result(unsafe { libc::madvise(at, page_size.get(), MADV_GUARD_INSTALL) })?;
        Ok(look(addr))
    })?
}
