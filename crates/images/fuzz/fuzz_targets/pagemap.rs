//! A page store of two generations on any pagemaps: what opens is in order and can be read.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rewake_images::{Kind, PAGE_SIZE, PageStore};
use tempfile::TempDir;

/// Pages in each pages file.
const PAGES: u64 = 8;

static DIR: LazyLock<TempDir> = LazyLock::new(|| {
    let shared = std::path::Path::new("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap();
    for name in ["old", "young"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        for id in 0..4 {
            let pages = fs::File::create(dir.path().join(name).join(format!("pages-{id}.img"))).unwrap();
            pages.set_len(PAGES * PAGE_SIZE).unwrap();
        }
    }
    fs::write(dir.path().join("young/parent"), "../old").unwrap();
    dir
});

fuzz_target!(|data: &[u8]| {
    let Some((&split, images)) = data.split_first() else { return };
    let (young, old) = images.split_at(usize::from(split).min(images.len()));
    for (name, image) in [("young", young), ("old", old)] {
        fs::write(DIR.path().join(name).join("pagemap-1.img"), image).unwrap();
    }
    let Ok(store) = PageStore::open(&DIR.path().join("young"), Kind::Pagemap, 1) else { return };
    let mut end = 0;
    for run in store.runs() {
        assert!(run.pages > 0 && run.vaddr >= end && run.level < 2);
        end = run.end();
        assert!(store.stored(run).iter().all(|range| range.end <= PAGES * PAGE_SIZE));
        let mut page = vec![1; PAGE_SIZE as usize];
        if run.compressed {
            // Zeros are no LZ4 block of a page.
            let _ = store.read_at(run.vaddr, &mut page);
            let _ = store.read_at(run.end() - 1, &mut page[..1]);
            continue;
        }
        store.read_at(run.vaddr, &mut page).unwrap();
        assert!(page.iter().all(|byte| *byte == 0));
        store.read_at(run.end() - 1, &mut page[..1]).unwrap();
    }
    assert_eq!(store.runs_in(0, u64::MAX).count(), store.runs().len());
});
