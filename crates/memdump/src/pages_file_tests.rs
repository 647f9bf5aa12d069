//! Tests of pages files, on tmpfs with huge pages and without, and elsewhere.
#![allow(clippy::print_stdout, reason = "a test that is skipped says why")]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Pid;

use super::*;
use crate::capture::{CaptureOptions, capture_from};
use crate::plan::PagePlan;
use crate::query::{PAGE_SIZE, PageCategories, PageRun};
use crate::remote::Recorded;

/// A huge page and a half, three times, and one page that takes all that follows off the grid.
const PAGES: u64 = 3 * 768;

/// Memory of [`PAGES`] pages, each with its number in it.
fn memory() -> Recorded {
    (0..PAGES).fold(Recorded::new(), |memory, n| memory.with(n * PAGE_SIZE, n.to_le_bytes().repeat(512)))
}

fn plan() -> PagePlan {
    let run = |start: u64, pages| PageRun { start, pages, categories: PageCategories::empty() };
    PagePlan::new([run(0, 700), run(701 * PAGE_SIZE, PAGES - 701)])
}

fn captured(sink: &PagesFile<'_>, threads: usize) -> Result<(), CaptureError> {
    let options = CaptureOptions { threads, buffer_bytes: HUGE_BYTES, progress: None };
    capture_from(&memory(), Pid::this(), &plan(), sink, &options).map(drop)
}

fn is_as_planned(path: &Path) {
    let found = std::fs::read(path).unwrap();
    let numbers: Vec<u64> = found
        .chunks(4096)
        .map(|page| {
            assert!(page.chunks(8).all(|word| word == &page[..8]));
            u64::from_le_bytes(page[..8].try_into().unwrap())
        })
        .collect();
    assert_eq!(numbers, (0..PAGES).filter(|&n| n != 700).collect::<Vec<_>>());
}

#[test]
fn the_same_is_written_whichever_way() {
    for dir in [tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap()] {
        let path = dir.path().join("pages");
        for threads in [1, 3] {
            captured(&PagesFile::new(&File::create(&path).unwrap()), threads).unwrap();
            is_as_planned(&path);
            captured(&PagesFile::without_huge_pages(&File::create(&path).unwrap()), threads).unwrap();
            is_as_planned(&path);
        }
    }
}

#[test]
fn huge_pages_are_for_tmpfs_and_for_chunks_that_fill_one() {
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let sink = PagesFile::new(&file);
    assert_eq!(sink.buffer_bytes(1 << 20), HUGE_BYTES);
    let huge = sink.huge.as_ref().unwrap();
    huge.prepare(&file, 0, HUGE_BYTES - 4096);
    huge.prepare(&file, 4096, HUGE_BYTES);
    assert_eq!(file.metadata().unwrap().len(), 0);
    // What is there already stays as it is, whether or not this kernel makes one now.
    file.write_all_at(b"abc", 5000).unwrap();
    let made = make_huge(&huge.readable, 0);
    let mut found = [1; 3];
    file.read_exact_at(&mut found, 5000).unwrap();
    assert_eq!((&found, file.metadata().unwrap().len()), (b"abc", 5003));
    let takes = if made.is_ok() { HUGE_BYTES as u64 } else { PAGE_SIZE };
    assert_eq!(file.metadata().unwrap().blocks() * 512, takes);

    // The memory of a kernel does not do as a disk; /proc is one of those that are no tmpfs.
    let sink = File::open("/proc/version").unwrap();
    assert_eq!(PagesFile::new(&sink).buffer_bytes(1 << 20), 1 << 20);
}

#[test]
fn a_full_tmpfs_is_told() {
    let dir = tempfile::tempdir().unwrap();
    // A mount of our own thread: nobody else sees it, and it goes with the thread.
    let path = dir.path().to_owned();
    let tried = std::thread::spawn(move || {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
            .and_then(|()| mount(Some("t"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=5m")));
        made?;
        let pages = path.join("pages");
        for threads in [1, 2] {
            let error = captured(&PagesFile::new(&File::create(&pages).unwrap()), threads).unwrap_err();
            let CaptureError::Write { source, .. } = error else { panic!("{error:?}") };
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        umount2(&path, MntFlags::MNT_DETACH)
    });
    if let Err(error) = tried.join().unwrap() {
        println!("skipped: a mount needs privilege: {error}");
    }
}

#[test]
fn what_is_slow_is_tried_less_and_less_and_what_is_refused_never_again() {
    let (quick, slow) = (Duration::ZERO, TOO_SLOW);
    let mut pace = Pace::default();
    // How many are left out until the next is tried.
    let left_out = |pace: &mut Pace| (0..5000).take_while(|_| !pace.wanted()).count();
    assert_eq!(left_out(&mut pace), 0);
    pace.took(Ok(()), quick);
    assert_eq!(left_out(&mut pace), 0);
    for pause in [16, 32, 64, 128, 256, 512, 1024, 1024] {
        pace.took(if pause % 3 == 1 { Ok(()) } else { Err(Errno::ENOMEM) }, slow);
        assert_eq!(left_out(&mut pace), pause);
    }
    pace.took(Ok(()), quick);
    assert_eq!(left_out(&mut pace), 0);
    pace.took(Err(Errno::EBUSY), quick);
    assert_eq!(left_out(&mut pace), 16);
    pace.took(Err(Errno::EINVAL), quick);
    assert_eq!(left_out(&mut pace), 5000);
}
