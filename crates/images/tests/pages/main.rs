//! Compressed pages: what is read is what was written, whatever the blocks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rewake_images::pagemap::{Compression, PARENT_LINK, rewrite_pages};
use rewake_images::{Checkpoint, ImageError, ImageWriter, Kind, Layout, PAGE_SIZE, PageStore, pe, proto};

const PAGE: usize = 4096;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn region(bytes: u64) -> Compression {
    Compression::region(bytes).unwrap()
}

/// A copy that may be changed.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_name() != PARENT_LINK {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// All memory of task `pid`, as (address, bytes), read by runs.
fn memory(dir: &Path, pid: u64) -> Vec<(u64, Vec<u8>)> {
    let store = Checkpoint::open(dir).unwrap().memory(pid).unwrap();
    let mut pages: Vec<(u64, Vec<u8>)> = Vec::new();
    for run in store.runs() {
        let mut bytes = vec![0xee; usize::try_from(run.bytes()).unwrap()];
        store.read_at(run.vaddr, &mut bytes).unwrap();
        pages.extend(bytes.chunks(PAGE).zip(0..).map(|(page, n)| (run.vaddr + n * PAGE_SIZE, page.to_vec())));
    }
    pages
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_is_compressed_and_back() {
    let from = testdata("pipe00-h");
    let pid = u64::from(Checkpoint::open(&from).unwrap().tasks().unwrap()[0].pid);
    let before = memory(&from, pid);
    assert!(before.len() > 10);
    for how in [Compression::PerPage, region(2 << 12), region(64 << 10), region(4 << 20)] {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("checkpoint");
        copy(&from, &at);
        let done = rewrite_pages(&at, Some(how), false).unwrap();
        assert!(!done.is_empty());
        for changed in &done {
            assert!(changed.after_bytes < changed.before_bytes / 2, "{how:?}: {changed:?}");
            assert_eq!(changed.pages * PAGE_SIZE, changed.before_bytes);
        }
        let inventory = Checkpoint::open(&at).unwrap().inventory().clone();
        assert_eq!(inventory.img_version, 3, "readers that know no compressed pages refuse it");
        assert_eq!(inventory.compress, Some(if how == Compression::PerPage { 1 } else { 2 }));
        assert!(memory(&at, pid) == before, "{how:?}");
        assert_eq!(rewrite_pages(&at, Some(how), false).unwrap(), [], "nothing is left to do");

        rewrite_pages(&at, Some(region(32 << 10)), false).unwrap();
        assert!(memory(&at, pid) == before, "from {how:?} to other blocks");

        rewrite_pages(&at, None, false).unwrap();
        assert_eq!(Checkpoint::open(&at).unwrap().inventory(), Checkpoint::open(&from).unwrap().inventory());
        assert!(memory(&at, pid) == before);
        assert_eq!(names(&at).len(), names(&from).len(), "nothing is left behind: {:?}", names(&at));
    }
}

#[test]
fn a_generation_is_compressed_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    for generation in ["1", "2", "3"] {
        copy(&testdata("mem-touch-incr").join(generation), &dir.path().join(generation));
    }
    std::os::unix::fs::symlink("../1", dir.path().join("2/parent")).unwrap();
    std::os::unix::fs::symlink("../2", dir.path().join("3/parent")).unwrap();
    let youngest = dir.path().join("3");
    let before = memory(&youngest, 139);
    for generation in ["2", "1", "3"] {
        rewrite_pages(&dir.path().join(generation), Some(region(16 << 10)), false).unwrap();
        assert!(memory(&youngest, 139) == before, "generation {generation} compressed");
    }
    rewrite_pages(&dir.path().join("1"), None, false).unwrap();
    assert_eq!(
        Checkpoint::open(dir.path().join("1")).unwrap().inventory(),
        Checkpoint::open(testdata("mem-touch-incr/1")).unwrap().inventory()
    );
    assert!(memory(&youngest, 139) == before);
}

#[test]
fn what_is_replaced_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (from, at) = (testdata("pipe00-h"), dir.path().join("checkpoint"));
    copy(&from, &at);
    rewrite_pages(&at, Some(Compression::PerPage), true).unwrap();
    let kept: Vec<_> = names(&at).into_iter().filter(|name| name.ends_with(".bak")).collect();
    assert!(kept.len() >= 3, "{kept:?}");
    for name in kept {
        let original = from.join(name.strip_suffix(".bak").unwrap());
        assert!(fs::read(at.join(&name)).unwrap() == fs::read(original).unwrap(), "{name}");
    }
}

#[test]
fn the_old_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    copy(&testdata("env00-v1.0"), dir.path());
    let before = names(dir.path());
    let error = rewrite_pages(dir.path(), Some(Compression::PerPage), false).unwrap_err();
    assert!(error.to_string().contains("recode"), "{error}");
    assert_eq!(names(dir.path()), before);
}

/// A checkpoint that is a pagemap and its pages file.
fn store_of(dir: &Path, entries: &[proto::PagemapEntry], payload: &[u8]) -> Result<PageStore, ImageError> {
    let _ = fs::remove_file(dir.join("pagemap-1.img"));
    let mut image = ImageWriter::create(Kind::Pagemap, Layout::V11, dir.join("pagemap-1.img")).unwrap();
    image.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
    for entry in entries {
        image.push(entry).unwrap();
    }
    image.finish().unwrap();
    fs::write(dir.join("pages-1.img"), payload).unwrap();
    PageStore::open(dir, Kind::Pagemap, 1)
}

#[test]
fn damaged_blocks_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let pages: Vec<u8> = (0..4 * PAGE).map(|n| u8::try_from(n / 100 % 251).unwrap()).collect();
    let mut payload = Vec::new();
    let entry = region(2 * PAGE_SIZE).compress(0x10000, &pages, &mut payload);
    let store = store_of(dir.path(), std::slice::from_ref(&entry), &payload).unwrap();
    let mut back = vec![0; pages.len()];
    store.read_at(0x10000, &mut back).unwrap();
    assert!(back == pages);
    for place in 0..payload.len() {
        let mut damaged = payload.clone();
        damaged[place] ^= 0xff;
        let store = store_of(dir.path(), std::slice::from_ref(&entry), &damaged).unwrap();
        // LZ4 has no checksum: what can be told is told, and nothing panics.
        match store.read_at(0x10000, &mut back) {
            Err(ImageError::Invalid { path, what }) => {
                assert!(path.ends_with("pages-1.img") && what.contains("0x1"), "{what}");
            }
            other => other.unwrap(),
        }
    }
    let short = store_of(dir.path(), std::slice::from_ref(&entry), &payload[1..]).unwrap_err();
    assert!(matches!(short, ImageError::Invalid { .. }), "{short}");
    let lies = proto::PagemapEntry { compressed_size: vec![1], total_compressed_size: None, ..entry };
    assert!(matches!(store_of(dir.path(), &[lies], &payload), Err(ImageError::Invalid { .. })));
}

#[test]
fn blocks_have_sizes_the_format_allows() {
    for bytes in [0, 1, 4095, 4097, (4 << 20) + 4096, !4095] {
        assert_eq!(Compression::region(bytes), None, "{bytes}");
    }
    assert_eq!(region(4 << 20).block_bytes(), 4 << 20);
}

fn page(seed: u8) -> Vec<u8> {
    match seed % 4 {
        0 => vec![0; PAGE],
        1 => vec![seed; PAGE],
        // Nothing to be gained here.
        2 => {
            let mut state = u64::from(seed) + 1;
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .take(PAGE)
            .collect()
        }
        _ => (0..PAGE).map(|n| (n / 64) as u8 ^ seed).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Plain and compressed entries, aligned or not, with holes: each range reads as what was put there.
    #[test]
    fn every_range_reads_as_it_was(
        entries in proptest::collection::vec((0_u64..3, proptest::collection::vec(any::<u8>(), 1..9), 0_u32..5, any::<bool>()), 1..6),
        (from, len) in (0_usize..20_000, 1_usize..40_000),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut payload, mut list, mut at) = (Vec::new(), Vec::new(), 0x10_0000);
        let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
        for (gap, seeds, blocks, aligned) in entries {
            at += gap * PAGE_SIZE;
            let bytes: Vec<u8> = seeds.iter().flat_map(|&seed| page(seed)).collect();
            if aligned {
                payload.resize(payload.len().next_multiple_of(PAGE), 0xaa);
            }
            let mut entry = match blocks {
                0 => {
                    payload.extend_from_slice(&bytes);
                    proto::PagemapEntry { vaddr: at, nr_pages: Some(seeds.len() as u64), flags: Some(pe::PRESENT), ..Default::default() }
                }
                1 => Compression::PerPage.compress(at, &bytes, &mut payload),
                n => region(u64::from(n) * PAGE_SIZE).compress(at, &bytes, &mut payload),
            };
            if aligned {
                entry.flags = Some(pe::PRESENT | pe::PAYLOAD_ALIGNED);
            }
            list.push(entry);
            all.push((at, bytes.clone()));
            at += bytes.len() as u64;
        }
        let store = store_of(dir.path(), &list, &payload).unwrap();
        for (start, bytes) in &all {
            let from = from % bytes.len();
            let len = len.min(bytes.len() - from);
            let mut back = vec![0xee; len];
            store.read_at(start + from as u64, &mut back).unwrap();
            prop_assert!(back == bytes[from..from + len]);
            for run in store.runs_in(*start, start + bytes.len() as u64) {
                let first = usize::try_from(run.vaddr - start).unwrap();
                let mut scratch = Vec::new();
                #[cfg(feature = "mmap")]
                prop_assert!(store.bytes(&run, &mut scratch).unwrap() == &bytes[first..first + usize::try_from(run.bytes()).unwrap()]);
                for range in store.stored(&run) {
                    prop_assert!(range.end <= payload.len() as u64);
                }
                scratch.clear();
            }
        }
    }
}
