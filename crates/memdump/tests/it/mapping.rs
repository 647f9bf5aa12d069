//! Mappings of this test process, each an area of its own.
#![expect(unsafe_code, reason = "mapping memory and touching it is what is tested")]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::unistd::Pid;
use rewake_memdump::{Area, AreaPages, areas, survey};

pub(crate) const PAGE: usize = 4096;

/// Stretches as (first page, pages).
pub(crate) type PageNumbers = Vec<(u64, u64)>;

/// Some pages between two pages of another protection, so that the kernel joins them to no neighbour.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    pages: usize,
}

// SAFETY: a range of addresses that belongs to one owner; whoever has it may touch it.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(crate) fn private(pages: usize) -> Self {
        Self::anonymous(pages, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE)
    }

    pub(crate) fn shared(pages: usize) -> Self {
        Self::anonymous(pages, MapFlags::MAP_SHARED)
    }

    fn anonymous(pages: usize, flags: MapFlags) -> Self {
        let (space, at, len) = reserve(pages);
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: replaces only what reserve() just mapped for us.
        unsafe { mmap_anonymous(Some(at), len, prot, flags | MapFlags::MAP_FIXED) }.unwrap();
        Self::within(space, pages)
    }

    pub(crate) fn file(file: &File, pages: usize, flags: MapFlags) -> Self {
        let (space, at, len) = reserve(pages);
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: replaces only what reserve() just mapped for us.
        unsafe { mmap(Some(at), len, prot, flags | MapFlags::MAP_FIXED, file, 0) }.unwrap();
        Self::within(space, pages)
    }

    fn within(space: NonNull<u8>, pages: usize) -> Self {
        // SAFETY: the page behind the first one belongs to the same reservation.
        let mapping = Self { start: unsafe { space.add(PAGE) }, pages };
        // Huge pages would make neighbours of touched pages present. Kernels without them refuse, which is as good.
        let _ = mapping.advise(0, pages, libc::MADV_NOHUGEPAGE);
        mapping
    }

    pub(crate) fn addr(&self) -> u64 {
        u64::try_from(self.start.addr().get()).unwrap()
    }

    /// Address of a page.
    fn page(&self, page: usize) -> NonNull<u8> {
        assert!(page <= self.pages);
        // SAFETY: within the mapping, or one past its end.
        unsafe { self.start.add(page * PAGE) }
    }

    pub(crate) fn write(&self, page: usize, byte: u8) {
        // SAFETY: the page is ours and writable, and nobody holds a reference into it.
        unsafe { self.page(page).write_bytes(byte, PAGE) };
    }

    pub(crate) fn read(&self, page: usize) -> u8 {
        // SAFETY: the page is ours and readable.
        unsafe { self.page(page).read_volatile() }
    }

    pub(crate) fn advise(&self, page: usize, pages: usize, advice: i32) -> io::Result<()> {
        // SAFETY: within our mapping, which no references point into.
        let ret = unsafe { libc::madvise(self.page(page).as_ptr().cast(), pages * PAGE, advice) };
        if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn protect(&self, prot: ProtFlags) {
        // SAFETY: our mapping, which no references point into.
        unsafe { mprotect(self.start.cast(), self.pages * PAGE, prot) }.unwrap();
    }

    /// The area(s) of this mapping.
    pub(crate) fn areas(&self) -> Vec<Area> {
        let range = self.addr()..self.addr() + u64::try_from(self.pages * PAGE).unwrap();
        let mut areas = areas(Pid::this()).unwrap();
        areas.retain(|area| range.contains(&area.start));
        assert!(areas.iter().all(|area| area.end <= range.end), "{areas:?} is joined to a neighbour");
        areas
    }

    /// What a survey says, for a mapping that is one area.
    pub(crate) fn survey(&self) -> AreaPages {
        let areas = self.areas();
        assert_eq!(areas.len(), 1, "{areas:?}");
        let mut pages = survey(Pid::this(), &areas).unwrap();
        assert_eq!((pages.len(), pages[0].area), (1, 0));
        pages.remove(0)
    }

    /// Runs to store and guard ranges.
    pub(crate) fn survey_by_page(&self) -> (PageNumbers, PageNumbers) {
        let pages = self.survey();
        let number = |addr: u64| (addr - self.addr()) / 4096;
        (
            pages.runs.iter().map(|run| (number(run.start), run.pages)).collect(),
            pages.guards.iter().map(|g| (number(g.start), (g.end - g.start) / 4096)).collect(),
        )
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the reservation begins one page before the mapping.
        let space = unsafe { self.start.sub(PAGE) };
        // SAFETY: exactly what reserve() mapped; nobody points into it any more.
        unsafe { munmap(space.cast(), (self.pages + 2) * PAGE) }.unwrap();
    }
}

/// Address space for `pages` and one on each side, of a protection that no test uses; and the address and length of
/// what is between these two.
fn reserve(pages: usize) -> (NonNull<u8>, NonZeroUsize, NonZeroUsize) {
    let len = NonZeroUsize::new((pages + 2) * PAGE).unwrap();
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_NORESERVE;
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let space = unsafe { mmap_anonymous(None, len, prot, flags) }.unwrap().cast::<u8>();
    (space, space.addr().checked_add(PAGE).unwrap(), NonZeroUsize::new(pages * PAGE).unwrap())
}

/// A System V segment, attached; removed as soon as it is attached.
pub(crate) fn with_sysv_segment<T>(pages: usize, use_it: impl FnOnce(u64, i32) -> T) -> T {
    // SAFETY: takes three numbers.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, pages * PAGE, 0o600) };
    assert!(id >= 0, "{}", io::Error::last_os_error());
    // SAFETY: no address is asked for.
    let at = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    // SAFETY: IPC_RMID takes no buffer.
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    assert_ne!(at.addr(), usize::MAX, "{}", io::Error::last_os_error());
    // SAFETY: the segment is at least a page, writable, and ours alone.
    unsafe { at.cast::<u8>().write_bytes(7, PAGE) };
    let result = use_it(u64::try_from(at.addr()).unwrap(), id);
    // SAFETY: attached above; no references point into it.
    unsafe { libc::shmdt(at) };
    result
}
