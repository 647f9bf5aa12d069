use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::increment::difference;
use crate::remote::Recorded;

fn run(page: u64, pages: u64) -> PageRun {
    PageRun { start: page * PAGE_SIZE, pages, categories: PageCategories::empty() }
}

/// Each page of `pages` as its own run: what is neighbouring is joined.
fn runs(pages: impl IntoIterator<Item = u64>) -> Vec<PageRun> {
    let mut joined = Vec::new();
    pages.into_iter().for_each(|page| push_run(&mut joined, run(page, 1)));
    joined
}

fn memory(pages: &BTreeMap<u64, u8>) -> Recorded {
    pages
        .iter()
        .fold(Recorded::new(), |memory, (&page, &value)| memory.with(page * PAGE_SIZE, [value; PAGE_BYTES]))
}

/// A round: what changed since the one in `parent`, remembered in `dir`. Gives which pages were the same.
fn round(dir: &Path, parent: Option<&Path>, pages: &BTreeMap<u64, u8>, threads: usize) -> Vec<PageRun> {
    let options = CaptureOptions { threads, buffer_bytes: 3 * PAGE_BYTES, progress: None };
    let memory = memory(pages);
    let (pid, all) = (Pid::this(), runs(pages.keys().copied()));
    let parent = parent.map(|parent| PageHashes::open(parent, Kind::Pagemap, 1).unwrap().unwrap());
    let same = parent
        .as_ref()
        .map_or(Vec::new(), |parent| parent.same((pid, &memory, &memory), &all, false, &options).unwrap());
    let out = tempfile::tempfile().unwrap();
    let sink = Remembering::new(&out, dir, Kind::Pagemap, 1).unwrap();
    let plan = PagePlan::new(difference(&all, &same));
    crate::capture::capture_from(&memory, pid, &plan, &sink, &options).unwrap();
    sink.write(parent.as_ref(), &same).unwrap();
    let written = PageHashes::open(dir, Kind::Pagemap, 1).unwrap().unwrap();
    assert_eq!(written.runs(), all);
    same
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn exactly_what_did_not_change_is_the_same(
        rounds in proptest::collection::vec(proptest::collection::btree_map(0_u64..600, 0_u8..3, 0..300), 2..4),
        threads in 1_usize..4,
    ) {
        let dirs: Vec<_> = rounds.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let mut before: Option<(&Path, &BTreeMap<u64, u8>)> = None;
        for (pages, dir) in rounds.iter().zip(&dirs) {
            let same = round(dir.path(), before.map(|(dir, _)| dir), pages, threads);
            let expected = pages.iter().filter(|(page, value)| before.is_some_and(|(_, old)| old.get(page) == Some(value)));
            prop_assert_eq!(same, runs(expected.map(|(&page, _)| page)));
            before = Some((dir.path(), pages));
        }
    }
}

#[test]
fn a_page_that_was_lost_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let pages: BTreeMap<u64, u8> = [(3, 1), (5, 1)].into();
    let memory = memory(&pages);
    let options = CaptureOptions { threads: 1, ..Default::default() };
    let out = tempfile::tempfile().unwrap();
    let sink = Remembering::new(&out, dir.path(), Kind::Pagemap, 1).unwrap();
    let plan = PagePlan::new([run(3, 3)]);
    let capture = Capture { pid: Pid::this(), memory: &memory, forced: &memory, out: &sink, live: true };
    assert_eq!(capture.run(&plan, &options).unwrap().lost, [1]);
    sink.write(None, &[]).unwrap();
    let hashes = PageHashes::open(dir.path(), Kind::Pagemap, 1).unwrap().unwrap();
    assert_eq!(hashes.runs(), [run(3, 1), run(5, 1)]);
    // Nor is one the same that cannot be read.
    let none = Recorded::new();
    let same = hashes.same((Pid::this(), &none, &none), hashes.runs(), true, &options).unwrap();
    assert_eq!(same, []);
}

#[test]
fn a_file_that_is_damaged_is_told() {
    let dir = tempfile::tempdir().unwrap();
    assert!(PageHashes::open(dir.path(), Kind::Pagemap, 1).unwrap().is_none());
    round(dir.path(), None, &[(3, 1), (4, 2)].into(), 1);
    let path = dir.path().join(PageHashes::file_name(Kind::Pagemap, 1));
    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        PageHashes::open(dir.path(), Kind::Pagemap, 1).unwrap_err()
    };
    for len in [0, 7, 9, whole.len() - 1] {
        assert!(matches!(refused(&whole[..len]), CaptureError::Image(_)), "{len} bytes");
    }
    let mut other = whole.clone();
    other[0] ^= 1;
    assert!(refused(&other).to_string().contains("no hashes"));
    let twice: Vec<u8> = whole.iter().chain(&whole[8..]).copied().collect();
    assert!(refused(&twice).to_string().contains("out of order"));
}
