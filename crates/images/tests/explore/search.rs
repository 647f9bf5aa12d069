//! Looking into memory.

use std::ops::ControlFlow;
use std::path::Path;

use rewake_images::explore::{Explorer, Hit, Pattern, Space};
use rewake_images::{Checkpoint, ImageWriter, Kind, Layout, PAGE_SIZE, pe, proto};

use crate::open;

fn image<M: prost::Message>(dir: &Path, kind: Kind, number: Option<u64>, messages: &[M]) {
    let mut image = ImageWriter::create(kind, Layout::V11, dir.join(kind.file_name(number))).unwrap();
    messages.iter().for_each(|m| image.push(m).unwrap());
    image.finish().unwrap();
}

/// A task whose memory is `spans`: address and bytes of whole pages.
fn checkpoint(dir: &Path, spans: &[(u64, &[u8])]) -> Checkpoint {
    image(dir, Kind::Inventory, None, &[proto::InventoryEntry { img_version: 2, ..Default::default() }]);
    let task = proto::PstreeEntry { pid: 5, threads: vec![5], ..Default::default() };
    image(dir, Kind::Pstree, None, &[task]);
    let tc = proto::TaskCoreEntry { task_state: 1, ..Default::default() };
    image(dir, Kind::Core, Some(5), &[proto::CoreEntry { tc: Some(tc), ..Default::default() }]);
    let path = dir.join(Kind::Pagemap.file_name(Some(5)));
    let mut map = ImageWriter::create(Kind::Pagemap, Layout::V11, path).unwrap();
    map.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
    let mut pages = Vec::new();
    for (vaddr, bytes) in spans {
        let nr_pages = Some(bytes.len() as u64 / PAGE_SIZE);
        let entry =
            proto::PagemapEntry { vaddr: *vaddr, nr_pages, flags: Some(pe::PRESENT), ..Default::default() };
        map.push(&entry).unwrap();
        pages.extend(*bytes);
    }
    map.finish().unwrap();
    std::fs::write(dir.join("pages-1.img"), pages).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn hits(checkpoint: &Checkpoint, pattern: &Pattern, context: usize) -> Vec<Hit> {
    let explorer = Explorer::new(checkpoint).unwrap();
    let mut hits = Vec::new();
    for space in explorer.spaces().unwrap() {
        let flow = explorer.search(space, pattern, context, |hit| {
            hits.push(hit);
            ControlFlow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
    }
    hits
}

/// Whatever border lies inside a match, it is found, once: pages, entries of the pagemap, chunks that are read.
#[test]
fn no_border_hides_a_match() {
    const PAGES: usize = 400;
    let needle = b"needle-in-memory";
    let page = usize::try_from(PAGE_SIZE).unwrap();
    let mut bytes = vec![b'.'; PAGES * page];
    let mut wanted = Vec::new();
    // Over every border of a page; the chunks end at some of them.
    for border in 1..PAGES {
        let at = border * page - 1 - border % (needle.len() - 1);
        bytes[at..at + needle.len()].copy_from_slice(needle);
        wanted.push(0x10000 + at as u64);
    }
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = bytes.split_at(150 * page);
    let spans: [(u64, &[u8]); 2] = [(0x10000, first), (0x10000 + 150 * PAGE_SIZE, second)];
    let checkpoint = checkpoint(dir.path(), &spans);
    for pattern in [Pattern::bytes(needle), Pattern::regex("needle-[a-z]+-memory").unwrap()] {
        let found = hits(&checkpoint, &pattern, 3);
        let places: Vec<_> = found.iter().map(|hit| hit.address).collect();
        assert_eq!(places, wanted);
        assert!(found.iter().all(|hit| hit.before == b"..." && hit.after == b"..." && hit.bytes == needle));
    }
    // Long matches over borders: whole up to the bound, in pieces of that length beyond it.
    let mut huge = vec![b'.'; PAGES * page];
    let bound = Pattern::LONGEST;
    let places =
        [(page * 128 - 60_000, bound), (page * 150 - 7, 3 * bound + 5), (page * 256 - bound + 1, bound)];
    for (start, len) in places {
        huge[start..start + len].fill(b'a');
    }
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = self::checkpoint(dir.path(), &[(0, &huge)]);
    let found = hits(&checkpoint, &Pattern::regex("a+").unwrap(), 0);
    let found: Vec<_> = found.iter().map(|hit| (hit.address, hit.length, hit.bytes.len())).collect();
    let piece = |at: usize, len: usize| (at as u64, len as u64, len.min(4096));
    let (long, mut wanted) = (places[1].0, vec![piece(places[0].0, bound)]);
    wanted.extend((0..3).map(|n| piece(long + n * bound, bound)));
    wanted.extend([piece(long + 3 * bound, 5), piece(places[2].0, bound)]);
    assert_eq!(found, wanted);
    // A long match, each bit of it over a border.
    let mut long = vec![b'.'; PAGES * page];
    let ends = [page * 128, page * 129, page * 256];
    for end in ends {
        long[end - 2000..end + 2000].fill(b'a');
    }
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = self::checkpoint(dir.path(), &[(0, &long)]);
    let found = hits(&checkpoint, &Pattern::regex("a+").unwrap(), 0);
    let lengths: Vec<_> = found.iter().map(|hit| (hit.address + 2000, hit.length)).collect();
    assert_eq!(lengths, ends.map(|end| (end as u64, 4000)));
}

#[test]
fn what_does_not_touch_is_not_joined_and_context_ends_there() {
    let page = vec![b'x'; 4096];
    let mut left = page.clone();
    left[4092..].copy_from_slice(b"need");
    let mut right = page.clone();
    right[..2].copy_from_slice(b"le");
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path(), &[(0x1000, &left), (0x3000, &right)]);
    assert!(hits(&checkpoint, &Pattern::bytes(b"needle"), 8).is_empty());
    let found = hits(&checkpoint, &Pattern::bytes(b"need"), 8);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address, found[0].before.len(), found[0].after.len()), (0x1ffc, 8, 0));
    assert_eq!(found[0].space, Space::Pid(5));
    assert!(hits(&checkpoint, &Pattern::bytes(b""), 8).is_empty());
    assert!(hits(&checkpoint, &Pattern::regex("q*").unwrap(), 8).is_empty(), "empty matches do not count");
    assert!(Pattern::regex("(").is_err());
}

#[test]
fn arguments_and_environment_of_a_real_process() {
    let checkpoint = open("pipe00-h");
    let explorer = Explorer::new(&checkpoint).unwrap();
    let task = explorer.task(66).unwrap();
    let arguments = explorer.arguments(task).unwrap().unwrap();
    assert!(arguments[0].ends_with("pipe00"), "{arguments:?}");
    assert!(arguments.iter().any(|a| a.starts_with("--pidfile=")), "{arguments:?}");
    let environment = explorer.environment(task).unwrap().unwrap();
    assert!(environment.iter().any(|e| e == "LANG=C"), "{environment:?}");
    assert!(explorer.task(1).is_err());
    // The same, found by looking for it, in both processes.
    let found = hits(&checkpoint, &Pattern::bytes(b"--pidfile="), 0);
    assert!(found.iter().any(|hit| hit.space == Space::Pid(66)));
    assert!(found.iter().any(|hit| hit.space == Space::Pid(67)));
}

#[test]
fn memory_of_ancestors_is_searched_too() {
    let checkpoint = open("mem-touch-incr/3");
    let explorer = Explorer::new(&checkpoint).unwrap();
    let mut before = 0;
    let ends = explorer.search(Space::Pid(139), &Pattern::bytes(b"\x7fELF"), 0, |_| {
        before += 1;
        ControlFlow::Break(())
    });
    assert!(ends.unwrap().is_break());
    assert_eq!(before, 1, "breaking ends it");
}
