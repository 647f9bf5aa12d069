//! Room that is given back in chains made for it.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rewake_images::proto::{InventoryEntry, PagemapEntry};
use rewake_images::{CheckpointWriter, Kind, PageStore, pe};
use rewake_memdump::{dedup, spend};

use crate::mapping::PAGE;

const PID: u64 = 7;

/// Generation `n` in `dir`: pages 0, 1 and so on that are here, filled with `n`, or in the parent.
fn make(dir: &Path, n: u8, pages: &[u32]) {
    let mut writer = CheckpointWriter::create(dir.join(n.to_string())).unwrap();
    if n > 1 {
        writer.set_parent(Path::new(&format!("../{}", n - 1))).unwrap();
    }
    let out = writer.pages().unwrap();
    let mut entries = Vec::new();
    let mut place = 0;
    for (page, &flags) in (0..).zip(pages) {
        entries.push(PagemapEntry {
            vaddr: page * PAGE as u64,
            nr_pages: Some(1),
            flags: Some(flags),
            ..Default::default()
        });
        if flags == pe::PRESENT {
            out.file().write_all_at(&[n; PAGE], place).unwrap();
            place += PAGE as u64;
        }
    }
    writer.write_pagemap(Kind::Pagemap, PID, out.pages_id(), &entries).unwrap();
    writer.commit(&InventoryEntry { img_version: 2, ..Default::default() }).unwrap();
}

fn content(dir: &Path, n: u8) -> Vec<u8> {
    let store = PageStore::open(&dir.join(n.to_string()), Kind::Pagemap, PID).unwrap();
    let mut bytes = vec![0; usize::try_from(store.pages()).unwrap() * PAGE];
    store.read_at(0, &mut bytes).unwrap();
    bytes.into_iter().step_by(PAGE).collect()
}

fn blocks(dir: &Path, n: u8) -> u64 {
    dir.join(format!("{n}/pages-1.img")).metadata().unwrap().blocks()
}

#[test]
fn behind_a_generation_that_needs_no_parent_nothing_is_needed() {
    let (here, parent) = (pe::PRESENT, pe::PARENT);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make(dir, 1, &[here, here, here]);
    make(dir, 2, &[here, parent, here]);
    make(dir, 3, &[here, here, here]);
    make(dir, 4, &[parent, here, parent]);
    let before = content(dir, 4);
    assert_eq!(before, [3, 4, 3]);
    let third = blocks(dir, 3);
    let report = dedup(&dir.join("4")).unwrap();
    assert_eq!(report.files, 3, "{report:?}");
    assert_eq!((blocks(dir, 1), blocks(dir, 2)), (0, 0));
    assert!(blocks(dir, 3) < third && blocks(dir, 3) > 0);
    assert_eq!(content(dir, 4), before);
    assert_eq!(dedup(&dir.join("4")).unwrap().freed_bytes, 0);
}

#[test]
fn what_was_restored_can_be_given_up() {
    let (here, parent) = (pe::PRESENT, pe::PARENT);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    make(dir, 1, &[here, here, here]);
    make(dir, 2, &[here, parent, here]);
    let report = spend(&dir.join("2")).unwrap();
    assert_eq!((report.files, blocks(dir, 1), blocks(dir, 2)), (2, 0, 0));
    assert!(report.freed_bytes >= 5 * PAGE as u64, "{report:?}");
}
