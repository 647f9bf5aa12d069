//! Damage to memory and to the chain of parents.

use std::fs;
use std::os::unix::fs::symlink;

use rewake_images::validate::Problem;
use rewake_images::{Kind, proto};

use super::Damaged;

fn pagemap(change: impl FnOnce(&mut proto::PagemapEntry), index: usize) -> Damaged {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Pagemap, 66, index, change);
    damaged
}

fn pages_of(damaged: &Damaged) -> std::path::PathBuf {
    let mut id = 0;
    let mut image =
        rewake_images::edit::ImageEditor::open(Kind::Pagemap, damaged.path(Kind::Pagemap, 66)).unwrap();
    image.edit(0, |head: &mut proto::PagemapHead| id = head.pages_id).unwrap();
    damaged.path(Kind::Pages, u64::from(id))
}

#[test]
fn pages_files_of_the_wrong_size() {
    let damaged = Damaged::new("pipe00-h");
    let path = pages_of(&damaged);
    let name = path.file_name().unwrap().to_str().unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    for found in [len - 1, len + 4096, 0] {
        file.set_len(found).unwrap();
        assert_eq!(damaged.finds(name, "bytes where"), Problem::Size { found, wanted: len });
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(damaged.finds(name, ""), Problem::MissingImage);
}

#[test]
fn one_pages_file_for_two() {
    let damaged = Damaged::new("pipe00-h");
    let mut id = 0;
    damaged.edit(Kind::Pagemap, 67, 0, |head: &mut proto::PagemapHead| {
        id = head.pages_id;
        head.pages_id = 77;
    });
    damaged.finds("pages-77.img", "no such image");
    damaged.edit(Kind::Pagemap, 66, 0, |head: &mut proto::PagemapHead| head.pages_id = 77);
    damaged.finds("pagemap-67.img", "is there twice");
}

#[test]
fn entries_that_overlap_or_lie_nowhere() {
    let damaged = pagemap(|entry| entry.vaddr = 0, 2);
    damaged.finds("pagemap-66.img", "come after pages up to");
    let damaged = pagemap(|entry| entry.vaddr += 1, 1);
    damaged.finds("pagemap-66.img", "no range of pages");
    let damaged = pagemap(|entry| entry.nr_pages = Some(u64::MAX), 1);
    damaged.finds("pagemap-66.img", "no range of pages");
    let damaged = pagemap(|entry| entry.vaddr = 0x1000, 1);
    damaged.finds("pagemap-66.img", "no mapping holds");
    let damaged = pagemap(|entry| entry.flags = Some(0), 1);
    damaged.finds("pagemap-66.img", "neither here, nor in the parent, nor lazy");
}

#[test]
fn mappings_that_overlap_or_map_nothing() {
    let with = |change: fn(&mut proto::VmaEntry)| {
        let damaged = Damaged::new("pipe00-h");
        damaged.edit(Kind::Mm, 66, 0, |mm: &mut proto::MmEntry| change(mm.vmas.get_mut(1).unwrap()));
        damaged
    };
    with(|vma| vma.start = 0).finds("mm-66.img", "overlaps the mapping before it");
    with(|vma| vma.end = vma.start).finds("mm-66.img", "no range of pages");
    with(|vma| vma.end += 1).finds("mm-66.img", "no range of pages");
    with(|vma| (vma.status, vma.shmid) = (1 << 6, 999)).finds("mm-66.img", "file 999");
    with(|vma| (vma.status, vma.shmid) = (1 << 8, 999)).finds("mm-66.img", "pagemap-shmem-999.img");
}

#[test]
fn chains_that_are_broken() {
    let chain = || Damaged::new("mem-touch-incr");
    let link = |damaged: &Damaged, target: &str| {
        let link = damaged.dir().join("3/parent");
        fs::remove_file(&link).unwrap();
        symlink(target, link).unwrap();
    };
    let finds = |damaged: &Damaged, text: &str| {
        let report = rewake_images::validate::validate(&damaged.dir().join("3"));
        let found = report.findings.iter().any(|f| f.image == "parent" && f.to_string().contains(text));
        assert!(found, "no {text:?} in\n{report}");
    };
    let damaged = chain();
    link(&damaged, "../nowhere");
    finds(&damaged, "leads nowhere");
    link(&damaged, "/tmp");
    finds(&damaged, "is absolute");
    link(&damaged, "../..");
    finds(&damaged, "outside the directory");
    link(&damaged, ".");
    finds(&damaged, "itself");
    fs::create_dir(damaged.dir().join("empty")).unwrap();
    link(&damaged, "../empty");
    finds(&damaged, "leads to no checkpoint");

    // A loop above, which no page asks for.
    let damaged = chain();
    let _ = fs::remove_file(damaged.dir().join("1/parent"));
    symlink("../2", damaged.dir().join("1/parent")).unwrap();
    finds(&damaged, "begins a loop");

    // A page that no ancestor has.
    let damaged = chain();
    fs::remove_file(damaged.dir().join("3/parent")).unwrap();
    let report = rewake_images::validate::validate(&damaged.dir().join("3"));
    assert!(report.to_string().contains("pagemap-139.img: no page at"), "{report}");

    // An ancestor whose pages were cut.
    let damaged = chain();
    fs::File::options().write(true).open(damaged.dir().join("1/pages-2.img")).unwrap().set_len(1).unwrap();
    let report = rewake_images::validate::validate(&damaged.dir().join("3"));
    assert!(report.to_string().contains("the parent's pages-2.img is too short"), "{report}");
}
