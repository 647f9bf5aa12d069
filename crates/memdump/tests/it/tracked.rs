//! Which writes are noticed, and that what escapes notice counts as written.
#![expect(unsafe_code, reason = "mapping memory, moving it and touching it is what is tested")]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rewake_memdump::{Area, DirtyTracker, PageRun, UffdTracker, areas, survey};

use crate::mapping::{Mapping, PAGE};

/// linux/mman.h
const MADV_GUARD_INSTALL: i32 = 102;

/// A tracker of our own memory; `None` where the kernel has none or forbids it.
fn tracker() -> Option<UffdTracker> {
    const USER_MODE_ONLY: i32 = 1;
    // SAFETY: takes a number.
    let fd =
        unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) };
    if fd < 0 {
        println!("skipped: no userfaultfd: {}", std::io::Error::last_os_error());
        return None;
    }
    // SAFETY: the kernel just made it for us.
    let uffd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) };
    match UffdTracker::new(Pid::this(), uffd) {
        Ok(tracker) => Some(tracker),
        Err(error) => {
            println!("skipped: no asynchronous write protection: {error}");
            None
        }
    }
}

/// Numbers of the pages reported, counted from `start`.
fn written(tracker: &mut UffdTracker, areas: &[Area], start: u64) -> Vec<u64> {
    let runs = tracker.written(areas).unwrap();
    if tracker.wants_to_begin() {
        tracker.begin(&rewake_memdump::areas(Pid::this()).unwrap());
        tracker.arm().unwrap();
    }
    assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start), "{runs:?}");
    runs.iter().flat_map(|run| (0..run.pages).map(|n| (run.start - start) / 4096 + n)).collect()
}

fn seen(tracker: &mut UffdTracker, mapping: &Mapping) -> Vec<u64> {
    written(tracker, &mapping.areas(), mapping.addr())
}

#[test]
fn exactly_what_was_written_is_told_once() {
    let Some(mut tracker) = tracker() else { return };
    let mapping = Mapping::private(8);
    (0..4).for_each(|page| mapping.write(page, 1));
    assert_eq!(seen(&mut tracker, &mapping), [0, 1, 2, 3, 4, 5, 6, 7], "of a new area nothing is known");
    assert!(seen(&mut tracker, &mapping).is_empty());
    mapping.write(2, 2);
    mapping.read(1);
    assert_eq!(seen(&mut tracker, &mapping), [2]);
    assert!(seen(&mut tracker, &mapping).is_empty());
    mapping.write(6, 1); // never touched before
    assert_eq!(seen(&mut tracker, &mapping), [6]);
    mapping.protect(ProtFlags::PROT_READ);
    mapping.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
    assert!(seen(&mut tracker, &mapping).is_empty());
    mapping.advise(0, 3, libc::MADV_DONTNEED).unwrap();
    mapping.write(1, 3);
    assert_eq!(seen(&mut tracker, &mapping), [1], "dropped pages are not there, rewritten ones are new");
}

#[test]
fn of_a_private_file_the_copies_are_noticed() {
    let Some(mut tracker) = tracker() else { return };
    let file = tempfile::tempfile().unwrap();
    file.set_len(4 * PAGE as u64).unwrap();
    let mapping = Mapping::file(&file, 4, MapFlags::MAP_PRIVATE);
    mapping.write(0, 1);
    seen(&mut tracker, &mapping);
    mapping.write(0, 2);
    mapping.write(3, 2);
    assert_eq!(seen(&mut tracker, &mapping), [0, 3]);
    mapping.advise(0, 1, libc::MADV_DONTNEED).unwrap();
    assert_eq!(seen(&mut tracker, &mapping), [0], "what is there now is the file's");
}

#[test]
fn shared_memory_is_never_trusted() {
    let Some(mut tracker) = tracker() else { return };
    let object =
        File::from(nix::sys::memfd::memfd_create("object", nix::sys::memfd::MFdFlags::empty()).unwrap());
    object.set_len(3 * PAGE as u64).unwrap();
    let mapping = Mapping::file(&object, 3, MapFlags::MAP_SHARED);
    for _ in 0..2 {
        // Written by descriptor, which nothing would notice.
        std::os::unix::fs::FileExt::write_all_at(&object, b"x", 0).unwrap();
        assert_eq!(seen(&mut tracker, &mapping), [0, 1, 2]);
    }
}

#[test]
fn an_area_that_moved_or_is_new_is_all_written() {
    let Some(mut tracker) = tracker() else { return };
    let (from, to) = (Mapping::private(4), Mapping::private(4));
    (0..4).for_each(|page| from.write(page, 1));
    seen(&mut tracker, &from);
    seen(&mut tracker, &to);
    assert!(seen(&mut tracker, &from).is_empty());
    let [old, new] =
        [from.addr(), to.addr()].map(|addr| std::ptr::without_provenance_mut(usize::try_from(addr).unwrap()));
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both are mappings of this test; the second is replaced by the first.
    let moved = unsafe { libc::mremap(old, 4 * PAGE, 4 * PAGE, flags, new) };
    assert_eq!(moved, new);
    assert_eq!(seen(&mut tracker, &to), [0, 1, 2, 3], "moved here, and silently tracked no more");
    to.write(1, 2);
    assert_eq!(seen(&mut tracker, &to), [1], "now it is");
    // A new area where the old one was.
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: where the first mapping was.
    let again = unsafe { libc::mmap(old, 4 * PAGE, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0) };
    assert_eq!(again, old);
    from.write(3, 1);
    assert_eq!(seen(&mut tracker, &from), [0, 1, 2, 3]);
    assert!(seen(&mut tracker, &from).is_empty());
}

/// The list of mappings of a running process is old when it is used.
#[test]
fn a_part_that_is_not_tracked_makes_the_whole_range_written() {
    let Some(mut tracker) = tracker() else { return };
    let mapping = Mapping::private(6);
    (0..6).for_each(|page| mapping.write(page, 1));
    let list = mapping.areas();
    written(&mut tracker, &list, mapping.addr());
    mapping.write(0, 2);
    let part = std::ptr::without_provenance_mut(usize::try_from(mapping.addr()).unwrap() + 3 * PAGE);
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: replaces a part of the mapping of this test.
    let new = unsafe { libc::mmap(part, PAGE, libc::PROT_READ | libc::PROT_WRITE, anonymous, -1, 0) };
    assert_eq!(new, part);
    mapping.write(3, 9);
    assert_eq!(written(&mut tracker, &list, mapping.addr()), [0, 1, 2, 3, 4, 5], "nothing may be forgotten");
    assert_eq!(mapping.areas().len(), 3, "the new area is not cut or joined");
    assert_eq!(seen(&mut tracker, &mapping), [3], "the new area is a stranger still");
    assert!(seen(&mut tracker, &mapping).is_empty());
    mapping.write(3, 8);
    assert_eq!(seen(&mut tracker, &mapping), [3]);
}

#[test]
fn a_child_does_not_disturb() {
    let Some(mut tracker) = tracker() else { return };
    let mapping = Mapping::private(4);
    (0..4).for_each(|page| mapping.write(page, 1));
    seen(&mut tracker, &mapping);
    // SAFETY: the child only writes to memory and ends.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            mapping.write(0, 5);
            // SAFETY: ends this process without anything of the test's.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    };
    assert!(seen(&mut tracker, &mapping).is_empty());
    mapping.write(2, 6);
    assert_eq!(seen(&mut tracker, &mapping), [2]);
}

#[test]
fn a_sparse_reservation_takes_no_page_tables() {
    let Some(mut tracker) = tracker() else { return };
    let pages = (16 << 30) / PAGE;
    let mapping = Mapping::private(pages);
    mapping.write(pages - 1, 1);
    let tables = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
    };
    let before = tables();
    seen(&mut tracker, &mapping);
    assert!(seen(&mut tracker, &mapping).is_empty());
    mapping.write(pages / 2, 1);
    assert_eq!(seen(&mut tracker, &mapping), [u64::try_from(pages / 2).unwrap()]);
    assert!(tables() < before + 1024, "{before} KiB, now {}", tables());
}

#[test]
fn without_the_descriptor_nothing_is_left() {
    let Some(mut tracker) = tracker() else { return };
    let mapping = Mapping::private(4);
    mapping.write(0, 1);
    seen(&mut tracker, &mapping);
    let tracked = || {
        areas(Pid::this())
            .unwrap()
            .iter()
            .any(|a| a.start == mapping.addr() && a.vm_flags.contains(rewake_memdump::VmFlags::UFFD_WP))
    };
    assert!(tracked());
    drop(tracker);
    assert!(!tracked());
    mapping.write(0, 2);
    assert_eq!(mapping.read(0), 2);
}

/// Pages to store and pages that may have been written, counted from the start of the mapping.
type Told = (Vec<u64>, Vec<u64>);

/// What is told of a mapping whose pages `before` were there when writes began to be seen.
fn settled(tracker: &mut UffdTracker, mapping: &Mapping, before: &[PageRun]) -> Told {
    let areas = mapping.areas();
    let settled = tracker.settle(&areas, before).unwrap().expect("it can do that");
    let number = |addr: u64| (addr - mapping.addr()) / 4096;
    let listed = |runs: &[PageRun]| {
        runs.iter().flat_map(|run| (0..run.pages).map(|n| number(run.start) + n)).collect::<Vec<u64>>()
    };
    // Whatever was asked for only in part, it must be what a survey says, which asks for everything.
    let surveyed = survey(Pid::this(), &areas).unwrap();
    assert_eq!(settled.pages, surveyed);
    let runs: Vec<PageRun> = settled.pages.iter().flat_map(|pages| pages.runs.iter().copied()).collect();
    (listed(&runs), listed(&settled.written))
}

fn present(mapping: &Mapping) -> Vec<PageRun> {
    survey(Pid::this(), &mapping.areas()).unwrap().into_iter().flat_map(|pages| pages.runs).collect()
}

/// Small areas are asked about in one way, large ones in another.
#[test]
fn what_stands_is_settled_by_what_was_written() {
    for pages in [16, 4096] {
        let Some(mut tracker) = tracker() else { return };
        let mapping = Mapping::private(pages);
        (0..8).for_each(|page| mapping.write(page, 1));
        seen(&mut tracker, &mapping);
        let before = present(&mapping);
        assert_eq!(settled(&mut tracker, &mapping, &before), ((0..8).collect(), vec![]));
        mapping.write(2, 2);
        mapping.write(12, 2); // was not there
        mapping.advise(4, 2, libc::MADV_DONTNEED).unwrap(); // is not there any more
        mapping.read(5); // the page of zeros
        let expected = (vec![0, 1, 2, 3, 6, 7, 12], vec![2, 12]);
        assert_eq!(settled(&mut tracker, &mapping, &before), expected);
        assert_eq!(settled(&mut tracker, &mapping, &before), expected, "looking changes nothing");
        if mapping.advise(6, 1, MADV_GUARD_INSTALL).is_ok() {
            assert_eq!(settled(&mut tracker, &mapping, &before).0, [0, 1, 2, 3, 7, 12]);
        }
    }
}

/// The kernel may free page tables, or move them away, and then passes over what is not there.
#[test]
fn pages_whose_table_is_gone_are_gone() {
    const TABLE: usize = 512;
    let Some(mut tracker) = tracker() else { return };
    let mapping = Mapping::private(8 * TABLE);
    (0..8 * TABLE).for_each(|page| mapping.write(page, 1));
    seen(&mut tracker, &mapping);
    let before = present(&mapping);
    // Whole tables among them, whatever the alignment.
    mapping.advise(100, 3 * TABLE, libc::MADV_DONTNEED).unwrap();
    let left: Vec<u64> = (0..100).chain(100 + 3 * TABLE as u64..8 * TABLE as u64).collect();
    assert_eq!(settled(&mut tracker, &mapping, &before), (left, vec![]));
    let at = |page: usize| {
        std::ptr::without_provenance_mut(usize::try_from(mapping.addr()).unwrap() + page * PAGE)
    };
    let elsewhere = Mapping::private(2 * TABLE);
    let to = std::ptr::without_provenance_mut(usize::try_from(elsewhere.addr()).unwrap());
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: the pages of one mapping of this test move to another, which they replace; both stay mapped.
    let moved = unsafe { libc::mremap(at(5 * TABLE), 2 * TABLE * PAGE, 2 * TABLE * PAGE, flags, to) };
    assert_eq!(moved, to);
    let (stored, _) = settled(&mut tracker, &mapping, &before);
    let left =
        (0..100).chain(100 + 3 * TABLE as u64..5 * TABLE as u64).chain(7 * TABLE as u64..8 * TABLE as u64);
    assert_eq!(stored, left.collect::<Vec<u64>>());
}

#[test]
fn of_an_area_that_is_not_tracked_all_is_written() {
    for pages in [16, 4096] {
        let Some(mut tracker) = tracker() else { return };
        let mapping = Mapping::private(pages);
        (3..6).for_each(|page| mapping.write(page, 1));
        let before = present(&mapping);
        assert_eq!(settled(&mut tracker, &mapping, &before), (vec![3, 4, 5], vec![3, 4, 5]));
    }
}

#[test]
fn dropped_copies_of_a_private_file_are_not_taken_for_what_they_were() {
    for pages in [16, 4096] {
        let Some(mut tracker) = tracker() else { return };
        let file = tempfile::tempfile().unwrap();
        file.set_len((pages * PAGE) as u64).unwrap();
        let mapping = Mapping::file(&file, pages, MapFlags::MAP_PRIVATE);
        (0..4).for_each(|page| mapping.write(page, 1));
        seen(&mut tracker, &mapping);
        let before = present(&mapping);
        mapping.advise(1, 2, libc::MADV_DONTNEED).unwrap();
        assert_eq!(mapping.read(2), 0, "it is the file's again");
        mapping.write(3, 2);
        // As far as a survey can tell there is a page in the place of the second.
        assert_eq!(settled(&mut tracker, &mapping, &before), (vec![0, 1, 3], vec![1, 3]));
    }
}
