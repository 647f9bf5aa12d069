//! Tests of capture on recorded memory, where every failure can be had.

use proptest::prelude::*;

use super::*;
use crate::query::{PageCategories, PageRun};
use crate::remote::Recorded;

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
    CaptureOptions { threads, buffer_bytes: pages * PAGE }
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
fn death_is_told_from_holes() {
    let out = tempfile::tempfile().unwrap();
    let plan = PagePlan::new([run(0, 1)]);
    let error = capture_from(&Gone, Pid::this(), &plan, &out, &options(1, 1)).unwrap_err();
    assert!(matches!(error, CaptureError::Died { .. }), "{error:?}");
    let capture =
        Capture { pid: Pid::this(), memory: &Recorded::new(), forced: &Gone, out: &out, live: false };
    let error = capture.run(&plan, &options(1, 1)).unwrap_err();
    assert!(matches!(error, CaptureError::Died { .. }), "{error:?}");
}

#[test]
fn a_full_disk_is_told_with_the_place() {
    let out = File::options().write(true).open("/dev/full").unwrap();
    let plan = PagePlan::new([run(0, 2)]);
    let error = capture_from(&numbered(2), Pid::this(), &plan, &out, &options(2, 1)).unwrap_err();
    let CaptureError::Write { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
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
