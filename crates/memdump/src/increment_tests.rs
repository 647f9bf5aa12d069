//! Tests of capturing what a parent does not have, on recorded memory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use rewake_images::proto::{InventoryEntry, PagemapEntry};
use rewake_images::{CheckpointWriter, Kind, pe};

use super::*;
use crate::remote::Recorded;

/// Page number and what it is filled with.
type Pages = BTreeMap<u64, u8>;

/// A checkpoint with these pages, as the images of process 7.
fn parent(pages_of_it: &Pages) -> (tempfile::TempDir, PageStore) {
    let dir = tempfile::tempdir().unwrap();
    let writer = CheckpointWriter::create(dir.path().join("parent")).unwrap();
    let out = writer.pages().unwrap();
    for (place, byte) in pages_of_it.values().enumerate() {
        out.file().write_all_at(&[*byte; PAGE_BYTES], place as u64 * PAGE_SIZE).unwrap();
    }
    let runs = runs_of(&pages_of_it.keys().copied().collect());
    let entry = |run: &PageRun| PagemapEntry {
        vaddr: run.start,
        nr_pages: Some(run.pages),
        flags: Some(pe::PRESENT),
        ..Default::default()
    };
    let entries: Vec<_> = runs.iter().map(entry).collect();
    writer.write_pagemap(Kind::Pagemap, 7, out.pages_id(), &entries).unwrap();
    writer.commit(&InventoryEntry { img_version: 2, ..Default::default() }).unwrap();
    let store = PageStore::open(&dir.path().join("parent"), Kind::Pagemap, 7).unwrap();
    (dir, store)
}

/// Ascending runs of the pages in `set`.
fn runs_of(set: &BTreeSet<u64>) -> Vec<PageRun> {
    let mut runs = Vec::new();
    set.iter().for_each(|&page| push_pages(&mut runs, page * PAGE_SIZE, (page + 1) * PAGE_SIZE));
    runs
}

fn memory(now: &Pages) -> Recorded {
    now.iter()
        .fold(Recorded::new(), |memory, (&page, &byte)| memory.with(page * PAGE_SIZE, vec![byte; PAGE_BYTES]))
}

fn numbers(runs: &[PageRun]) -> Vec<u64> {
    runs.iter().flat_map(|run| (0..run.pages).map(move |n| run.start / PAGE_SIZE + n)).collect()
}

fn some_pages() -> impl Strategy<Value = Pages> {
    proptest::collection::btree_map(0_u64..80, 1_u8..3, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_page_is_here_or_in_the_parent_or_lost(
        before in some_pages(),
        now in some_pages(),
        planned in proptest::collection::btree_set(0_u64..80, 0..80),
        threads in 1_usize..5,
        chunk_pages in 1_usize..6,
    ) {
        let (_dir, store) = parent(&before);
        let memory = memory(&now);
        let increment =
            Increment { pid: Pid::this(), memory: &memory, forced: &memory, parent: Some(&store), live: true };
        let runs = runs_of(&planned);
        let options = CaptureOptions { threads, buffer_bytes: chunk_pages * PAGE_BYTES, ..CaptureOptions::default() };
        let out = tempfile::tempfile().unwrap();
        let done = increment.capture(&PagePlan::new(runs.iter().copied()), &out, &options).unwrap();

        let there = |page: &&u64| now.contains_key(page);
        let same = |page: &&u64| before.contains_key(page) && before.get(page) == now.get(page);
        let expect_here: Vec<u64> = planned.iter().filter(there).filter(|page| !same(page)).copied().collect();
        let expect_same: Vec<u64> = planned.iter().filter(same).copied().collect();
        prop_assert_eq!(numbers(&done.here), expect_here.clone());
        prop_assert_eq!(numbers(&done.in_parent), expect_same.clone());
        prop_assert_eq!(done.lost, planned.iter().filter(|page| !there(page)).count() as u64);
        prop_assert_eq!(out.metadata().unwrap().len(), expect_here.len() as u64 * PAGE_SIZE);
        for (place, page) in expect_here.iter().enumerate() {
            let mut bytes = [0; PAGE_BYTES];
            out.read_exact_at(&mut bytes, place as u64 * PAGE_SIZE).unwrap();
            prop_assert!(bytes.iter().all(|byte| byte == &now[page]));
        }
        prop_assert_eq!(numbers(&increment.same(&runs, &options).unwrap()), expect_same);
    }
}

proptest! {
    #[test]
    fn sets_of_pages_are_cut_as_sets(
        a in proptest::collection::btree_set(0_u64..60, 0..60),
        b in proptest::collection::btree_set(0_u64..60, 0..60),
    ) {
        let (ours, theirs) = (runs_of(&a), runs_of(&b));
        let both: Vec<u64> = a.intersection(&b).copied().collect();
        prop_assert_eq!(numbers(&common(&ours, theirs.iter().map(|run| (run.start, run.end())))), both);
        prop_assert_eq!(numbers(&difference(&ours, &theirs)), a.difference(&b).copied().collect::<Vec<_>>());
    }
}

/// Of a page that differs in its last byte only, too.
#[test]
fn every_byte_is_compared() {
    let (_dir, store) = parent(&Pages::from([(3, 1)]));
    let mut bytes = vec![1; PAGE_BYTES];
    bytes[PAGE_BYTES - 1] = 2;
    let memory = Recorded::new().with(3 * PAGE_SIZE, bytes);
    let increment =
        Increment { pid: Pid::this(), memory: &memory, forced: &memory, parent: Some(&store), live: false };
    let runs = [pages(3 * PAGE_SIZE, 4 * PAGE_SIZE)];
    assert!(increment.same(&runs, &CaptureOptions::default()).unwrap().is_empty());
}

#[test]
fn a_page_that_is_gone_is_an_error_of_a_process_that_stands() {
    let (_dir, store) = parent(&Pages::new());
    let memory = Recorded::new();
    let increment =
        Increment { pid: Pid::this(), memory: &memory, forced: &memory, parent: Some(&store), live: false };
    let plan = PagePlan::new([pages(0, PAGE_SIZE)]);
    let out = tempfile::tempfile().unwrap();
    let error = increment.capture(&plan, &out, &CaptureOptions::default()).unwrap_err();
    assert!(matches!(error, CaptureError::Unreadable { addr: 0, .. }), "{error:?}");
}
