//! Which writes are noticed, and that what escapes notice counts as written.
#![expect(unsafe_code, reason = "mapping memory, moving it and touching it is what is tested")]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rewake_memdump::{Area, DirtyTracker, UffdTracker, areas};

use crate::mapping::{Mapping, PAGE};

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
