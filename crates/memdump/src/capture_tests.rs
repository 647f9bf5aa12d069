//! Tests of capture on recorded memory, where every failure can be had.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use rewake_images::pagemap::Compression;
use rewake_images::proto::InventoryEntry;
use rewake_images::{CheckpointWriter, Kind, PageStore};

use crate::compressed::CompressedPages;
use crate::query::{PageCategories, PageRun, push_run};
use crate::remote::Recorded;
use crate::sink::{StreamSink, Turn};

const PAGE: usize = 4096;

fn run(page: u64, pages: u64) -> PageRun {
    PageRun { start: page * PAGE_SIZE, pages, categories: PageCategories::empty() }
}

/// Memory of `pages` pages from address 0, each full of its own number.
fn numbered(pages: u8) -> Recorded {
    (0..pages).fold(Recorded::new(), |memory, n| memory.with(u64::from(n) * PAGE_SIZE, [n; PAGE]))
}

fn first_bytes(out: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(out.metadata().unwrap().len()).unwrap()];
    out.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.chunks(PAGE).all(|page| page.iter().all(|byte| Some(byte) == page.first())));
    bytes.into_iter().step_by(PAGE).collect()
}

fn options(threads: usize, pages: usize) -> CaptureOptions {
    CaptureOptions { threads, buffer_bytes: pages * PAGE, progress: None }
}

#[test]
fn pages_end_up_where_the_plan_says() {
    let memory = numbered(20);
    let plan = PagePlan::new([run(7, 3), run(1, 2), run(12, 1)]);
    for (threads, pages) in [(1, 1), (1, 2), (1, 256), (3, 1), (8, 4)] {
        let out = tempfile::tempfile().unwrap();
        let stats = capture_from(&memory, Pid::this(), &plan, &out, &options(threads, pages)).unwrap();
        assert_eq!(first_bytes(&out), [7, 8, 9, 1, 2, 12]);
        assert_eq!((stats.pages, stats.bytes, stats.forced_bytes), (6, 6 * PAGE_SIZE, 0));
    }
}

#[test]
fn nothing_is_captured_of_nothing() {
    let out = tempfile::tempfile().unwrap();
    let stats =
        capture_from(&Recorded::new(), Pid::this(), &PagePlan::default(), &out, &options(4, 0)).unwrap();
    assert_eq!(stats, CaptureStats::default());
    assert_eq!(out.metadata().unwrap().len(), 0);
}

#[test]
fn an_unreadable_page_is_named() {
    let memory = numbered(5);
    let plan = PagePlan::new([run(0, 2), run(3, 4)]);
    for threads in [1, 2] {
        let out = tempfile::tempfile().unwrap();
        let error = capture_from(&memory, Pid::this(), &plan, &out, &options(threads, 16)).unwrap_err();
        let CaptureError::Unreadable { addr, source, .. } = error else { panic!("{error:?}") };
        assert_eq!(addr, 5 * PAGE_SIZE);
        assert_eq!(source.raw_os_error(), Some(libc::EFAULT));
    }
}

#[test]
fn what_the_fast_way_refuses_is_forced() {
    let (memory, forced) = (numbered(4), numbered(8));
    let plan = PagePlan::new([run(2, 4), run(0, 1), run(6, 2), run(1, 1)]);
    let out = tempfile::tempfile().unwrap();
    let capture = Capture { pid: Pid::this(), memory: &memory, forced: &forced, out: &out, live: false };
    let stats = capture.run(&plan, &options(1, 16)).unwrap().stats;
    assert_eq!(first_bytes(&out), [2, 3, 4, 5, 0, 6, 7, 1]);
    assert_eq!(stats.forced_bytes, 4 * PAGE_SIZE);
}

#[test]
fn pages_that_vanish_while_the_process_runs_are_told() {
    let memory = numbered(4);
    let plan = PagePlan::new([run(2, 4), run(0, 1), run(9, 2), run(1, 1)]);
    for (threads, pages) in [(1, 1), (1, 3), (2, 2), (1, 16)] {
        let out = tempfile::tempfile().unwrap();
        let capture = Capture { pid: Pid::this(), memory: &memory, forced: &memory, out: &out, live: true };
        let done = capture.run(&plan, &options(threads, pages)).unwrap();
        assert_eq!(done.lost, [2, 3, 5, 6]);
        let bytes = std::iter::zip(0.., first_bytes(&out)).filter(|(at, _)| !done.lost.contains(at));
        assert_eq!(bytes.map(|(_, byte)| byte).collect::<Vec<_>>(), [2, 3, 0, 1]);
    }
}

/// A process that is gone.
struct Gone;

impl RemoteMemory for Gone {
    fn read_at(&self, _addr: u64, _buf: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

#[test]
fn death_is_told_from_holes_and_from_another_program() {
    let out = tempfile::tempfile().unwrap();
    let plan = PagePlan::new([run(0, 1)]);
    let nobody = Pid::from_raw(i32::MAX);
    for (pid, dead) in [(nobody, true), (Pid::this(), false)] {
        let as_told = |error: CaptureError| match error {
            CaptureError::Died { .. } => assert!(dead),
            CaptureError::Replaced { .. } => assert!(!dead),
            error => panic!("{error:?}"),
        };
        as_told(capture_from(&Gone, pid, &plan, &out, &options(1, 1)).unwrap_err());
        let capture = Capture { pid, memory: &Recorded::new(), forced: &Gone, out: &out, live: false };
        as_told(capture.run(&plan, &options(1, 1)).unwrap_err());
    }
}

#[test]
fn a_full_disk_is_told_with_the_place() {
    let out = File::options().write(true).open("/dev/full").unwrap();
    let plan = PagePlan::new([run(0, 2)]);
    let error = capture_from(&numbered(2), Pid::this(), &plan, &out, &options(2, 1)).unwrap_err();
    let CaptureError::Write { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
}

/// A stream that yields to other threads at every write, so that those get a chance to be too early.
#[derive(Default)]
struct Yielding(Vec<u8>);

impl Write for Yielding {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::yield_now();
        let some = bytes.get(..bytes.len().min(1000)).unwrap();
        self.0.extend_from_slice(some);
        Ok(some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_gets_the_pages_in_the_order_of_the_plan() {
    let memory = numbered(200);
    let plan = PagePlan::new([run(100, 100), run(0, 70)]);
    for (threads, pages) in [(1, 3), (2, 1), (8, 1), (8, 5)] {
        let out = StreamSink::new(Yielding::default());
        capture_from(&memory, Pid::this(), &plan, &out, &options(threads, pages)).unwrap();
        let bytes = out.into_inner().0;
        let pages: Vec<u8> = bytes.chunks(PAGE).map(|page| page[0]).collect();
        assert_eq!(pages, (100..200).chain(0..70).collect::<Vec<u8>>());
        assert!(bytes.chunks(PAGE).all(|page| page.iter().all(|byte| *byte == page[0])));
    }
}

/// Fails at one chunk, whoever else waits.
struct Failing {
    at: u64,
}

impl PageSink for Failing {
    fn put(&self, _chunk: &Chunk, _bytes: &[u8], _lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        if turn.number() == self.at {
            return Err(CaptureError::Sink { source: "no more".into() });
        }
        turn.wait()
    }

    fn finish(&self) -> Result<(), CaptureError> {
        panic!("not after a failure")
    }
}

#[test]
fn a_sink_that_fails_ends_the_waiting_of_the_others_and_its_error_is_the_one_told() {
    for at in [0, 1, 5, 19] {
        let plan = PagePlan::new([run(0, 20)]);
        let error =
            capture_from(&numbered(20), Pid::this(), &plan, &Failing { at }, &options(4, 1)).unwrap_err();
        assert!(
            matches!(&error, CaptureError::Sink { source } if source.to_string() == "no more"),
            "{error:?}"
        );
    }
}

/// Panics at one chunk.
struct Panicking;

impl PageSink for Panicking {
    fn put(&self, _chunk: &Chunk, _bytes: &[u8], _lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        assert_ne!(turn.number(), 2, "as it must be");
        turn.wait()
    }
}

#[test]
#[should_panic(expected = "only a sink that panics")]
fn a_sink_that_panics_keeps_nobody_waiting() {
    let plan = PagePlan::new([run(0, 20)]);
    let _ = capture_from(&numbered(20), Pid::this(), &plan, &Panicking, &options(4, 1));
}

/// Wants no more after so many bytes.
#[derive(Debug)]
struct Enough {
    limit: u64,
    expected: AtomicU64,
    done: AtomicU64,
}

impl Progress for Enough {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.limit
    }
}

#[test]
fn progress_is_told_and_can_end_it() {
    let plan = PagePlan::new([run(0, 20)]);
    for (limit, threads) in [(u64::MAX, 1), (u64::MAX, 3), (0, 1), (3 * PAGE_SIZE, 1), (3 * PAGE_SIZE, 3)] {
        let watcher = Arc::new(Enough { limit, expected: AtomicU64::new(0), done: AtomicU64::new(0) });
        let options = CaptureOptions { progress: Some(Arc::clone(&watcher) as _), ..options(threads, 1) };
        let out = tempfile::tempfile().unwrap();
        let captured = capture_from(&numbered(20), Pid::this(), &plan, &out, &options);
        assert_eq!(watcher.expected.load(Ordering::Relaxed), plan.total_bytes());
        let done = watcher.done.load(Ordering::Relaxed);
        if limit == u64::MAX {
            assert_eq!(captured.unwrap().bytes, done);
        } else {
            assert!(matches!(captured, Err(CaptureError::Cancelled)), "{captured:?}");
            assert!(done >= limit && done < limit + threads as u64 * PAGE_SIZE, "{done}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_plan_is_captured_whichever_pages_must_be_forced(
        fast in proptest::collection::btree_set(0_u8..40, 0..40),
        runs in proptest::collection::vec((0_u64..36, 0_u64..4), 0..30),
        threads in 1_usize..4,
        pages in 0_usize..10,
    ) {
        let forced = numbered(40);
        let memory = fast.iter().fold(Recorded::new(), |memory, &n| {
            memory.with(u64::from(n) * PAGE_SIZE, [n; PAGE])
        });
        let plan = PagePlan::new(runs.iter().map(|&(page, pages)| run(page, pages)));
        let out = tempfile::tempfile().unwrap();
        let capture = Capture { pid: Pid::this(), memory: &memory, forced: &forced, out: &out, live: false };
        let stats = capture.run(&plan, &options(threads, pages)).unwrap().stats;
        let expected: Vec<u8> = runs
            .iter()
            .flat_map(|&(page, pages)| page..page + pages)
            .map(|page| u8::try_from(page).unwrap())
            .collect();
        prop_assert_eq!(first_bytes(&out), expected);
        prop_assert_eq!(stats.bytes, plan.total_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the blocks and the chunks, and whichever pages vanish: the entries lead to each page that was there.
    #[test]
    fn compressed_pages_are_found_again(
        planned in proptest::collection::btree_map(0_u64..60, any::<bool>(), 1..60),
        (threads, chunk, block) in (1_usize..4, 1_usize..9, 1_u64..6),
    ) {
        let (mut memory, mut runs) = (Recorded::new(), Vec::new());
        for (&page, &gone) in &planned {
            push_run(&mut runs, run(page, 1));
            if !gone {
                let mut bytes = vec![u8::try_from(page).unwrap(); PAGE];
                bytes[..8].copy_from_slice(&page.to_le_bytes());
                memory = memory.with(page * PAGE_SIZE, bytes);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let how = if block == 1 { Compression::PerPage } else { Compression::region(block * PAGE_SIZE).unwrap() };
        let writer = CheckpointWriter::create(dir.path().join("c")).unwrap();
        let out = writer.pages().unwrap();
        let sink = CompressedPages::new(out.file(), how);
        let capture = Capture { pid: Pid::this(), memory: &memory, forced: &memory, out: &sink, live: true };
        let done = capture.run(&PagePlan::new(runs), &options(threads, chunk)).unwrap();
        prop_assert_eq!(done.lost.len(), planned.values().filter(|&&gone| gone).count());
        prop_assert_eq!(sink.bytes(), out.file().metadata().unwrap().len());
        writer.write_pagemap(Kind::Pagemap, 1, out.pages_id(), &sink.into_entries()).unwrap();
        let mut inventory = InventoryEntry::default();
        how.note(&mut inventory);
        writer.commit(&inventory).unwrap();
        let store = PageStore::open(&dir.path().join("c"), Kind::Pagemap, 1).unwrap();
        let there: Vec<u64> = planned.iter().filter(|(_, gone)| !**gone).map(|(&page, _)| page).collect();
        prop_assert_eq!(store.pages(), there.len() as u64);
        for page in there {
            let mut bytes = vec![0; PAGE];
            store.read_at(page * PAGE_SIZE, &mut bytes).unwrap();
            prop_assert_eq!(&bytes[..8], &page.to_le_bytes());
            prop_assert!(bytes[8..].iter().all(|&byte| u64::from(byte) == page));
        }
    }
}
