//! What is sent arrives.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use rewake_images::Kind;
use rewake_memdump::{MemoryTarget, PageRun};
use rewake_pageserver::Incoming;

use super::{names, pages, run, send, sender, serve, with_server};

#[test]
fn memory_of_tasks_and_objects_arrives_and_appears_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("there");
    let incoming = with_server(&to, None, |stream| {
        let sender = sender(stream);
        assert!(!sender.has_parent(Kind::Pagemap, 7).unwrap());
        send(&sender, Kind::PagemapShmem, 0x1234_5678_9abc, (&[run(0, 3)], &[]), 3, 1).unwrap();
        send(&sender, Kind::Pagemap, 7, (&[run(1, 9), run(20, 1), run(1 << 35, 4)], &[]), 1, 2).unwrap();
        send(&sender, Kind::Pagemap, 8, (&[], &[]), 1, 2).unwrap();
        assert!(names(&to).iter().all(|name| name.starts_with('.')), "not before all is there");
        sender.close().unwrap();
    });
    let report = incoming.unwrap().report();
    assert_eq!((report.objects, report.pages, report.parent_pages), (3, 17, 0));
    let shared = "pagemap-shmem-20015998343868.img";
    assert_eq!(
        names(&to),
        ["pagemap-7.img", "pagemap-8.img", shared, "pages-65537.img", "pages-65538.img", "pages-65539.img"]
    );
    let expected: Vec<(u64, u8)> =
        (1..10).chain([20]).chain(1 << 35..(1 << 35) + 4).map(|n| (n, 1)).collect();
    assert_eq!(pages(&to, Kind::Pagemap, 7), expected);
    assert_eq!(pages(&to, Kind::Pagemap, 8), []);
    assert_eq!(pages(&to, Kind::PagemapShmem, 0x1234_5678_9abc), [(0, 3), (1, 3), (2, 3)]);
}

#[test]
fn a_parent_is_known_and_linked() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    with_server(&first, None, |stream| {
        let sender = sender(stream);
        send(&sender, Kind::Pagemap, 7, (&[run(0, 10)], &[]), 1, 1).unwrap();
        sender.close().unwrap();
    })
    .unwrap();
    let incoming = with_server(&second, Some(Path::new("../1")), |stream| {
        let sender = sender(stream);
        assert!(sender.has_parent(Kind::Pagemap, 7).unwrap());
        assert!(!sender.has_parent(Kind::Pagemap, 8).unwrap());
        assert!(!sender.has_parent(Kind::PagemapShmem, 7).unwrap());
        send(&sender, Kind::Pagemap, 7, (&[run(2, 3), run(20, 1)], &[run(0, 2), run(7, 3)]), 2, 1).unwrap();
        send(&sender, Kind::Pagemap, 8, (&[run(5, 1)], &[]), 2, 1).unwrap();
        sender.close().unwrap();
    });
    assert_eq!(incoming.unwrap().report().parent_pages, 5);
    assert_eq!(std::fs::read_link(second.join("parent")).unwrap(), Path::new("../1"));
    let expected = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 2), (7, 1), (8, 1), (9, 1), (20, 2)];
    assert_eq!(pages(&second, Kind::Pagemap, 7), expected);
}

#[test]
fn room_of_pages_that_came_again_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1"), dir.path().join("2"));
    let generation = |to: &Path, number, came: &[PageRun], kept: &[PageRun]| {
        let parent = (number > 1).then_some(Path::new("../1"));
        let incoming = Incoming::create(to, parent).unwrap().deduplicating();
        let received = serve(incoming, |stream| {
            let sender = sender(stream);
            send(&sender, Kind::Pagemap, 7, (came, kept), number, 1).unwrap();
            sender.close().unwrap();
        });
        received.unwrap();
    };
    let blocks = || first.join("pages-65537.img").metadata().unwrap().blocks();
    generation(&first, 1, &[run(0, 64)], &[]);
    let before = blocks();
    generation(&second, 2, &[run(0, 60)], &[run(60, 4)]);
    assert!(blocks() < before / 4, "{} of {before} blocks", blocks());
    let expected: Vec<(u64, u8)> = (0..64).map(|page| (page, if page < 60 { 2 } else { 1 })).collect();
    assert_eq!(pages(&second, Kind::Pagemap, 7), expected);
}

/// Ascending runs of the pages in `set`.
fn runs(set: &BTreeSet<u64>) -> Vec<PageRun> {
    let mut runs: Vec<PageRun> = Vec::new();
    for &page in set {
        match runs.last_mut() {
            Some(last) if last.end() == page << 12 => last.pages += 1,
            _ => runs.push(run(page, 1)),
        }
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_pages_arrive_in_any_number_of_generations(
        generations in proptest::collection::vec(proptest::collection::btree_set(0_u64..80, 0..60), 1..4),
        threads in 1_usize..4,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut known = std::collections::BTreeMap::new();
        for (number, written) in (0_u8..).zip(&generations) {
            let kept: BTreeSet<u64> = known.keys().copied().filter(|page| !written.contains(page)).collect();
            let parent = number.checked_sub(1).map(|before| format!("../{before}"));
            with_server(&dir.path().join(number.to_string()), parent.as_deref().map(Path::new), |stream| {
                let sender = sender(stream);
                send(&sender, Kind::Pagemap, 1, (&runs(written), &runs(&kept)), number, threads).unwrap();
                sender.close().unwrap();
            }).unwrap();
            known.extend(written.iter().map(|&page| (page, number)));
            let there = pages(&dir.path().join(number.to_string()), Kind::Pagemap, 1);
            prop_assert_eq!(there, known.iter().map(|(&page, &of)| (page, of)).collect::<Vec<_>>());
        }
    }
}
