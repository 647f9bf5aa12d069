//! Whole checkpoints have nothing wrong; each kind of damage is found, and told where it is.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use prost::{Message, Name};
use rewake_images::edit::ImageEditor;
use rewake_images::validate::{Problem, Report, validate};
use rewake_images::{Kind, proto};

mod files;
mod memory;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// A checkpoint to damage: a copy of one of the test data, and what lies beside it.
struct Damaged {
    home: tempfile::TempDir,
    name: &'static str,
}

impl Damaged {
    fn new(name: &'static str) -> Self {
        let damaged = Self { home: tempfile::tempdir().unwrap(), name: name.rsplit('/').next().unwrap() };
        copy(&testdata(name), &damaged.dir());
        damaged
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join(self.name)
    }

    fn path(&self, kind: Kind, number: impl Into<Option<u64>>) -> PathBuf {
        self.dir().join(kind.file_name(number.into()))
    }

    fn remove(&self, kind: Kind, number: impl Into<Option<u64>>) {
        std::fs::remove_file(self.path(kind, number)).unwrap();
    }

    fn edit<M: Message + Name + Default>(
        &self,
        kind: Kind,
        number: impl Into<Option<u64>>,
        index: usize,
        change: impl FnOnce(&mut M),
    ) {
        let mut image = ImageEditor::open(kind, self.path(kind, number)).unwrap();
        assert!(image.edit(index, change).unwrap());
        image.save().unwrap();
    }

    /// The first entry of which `change` says that it is one to change.
    fn edit_first<M: Message + Name + Default>(&self, kind: Kind, change: impl Fn(&mut M) -> bool) {
        let mut image = ImageEditor::open(kind, self.path(kind, None)).unwrap();
        let count = image.entries().len();
        let changed = (0..count).any(|index| image.edit(index, |m: &mut M| _ = change(m)).unwrap());
        assert!(changed);
        image.save().unwrap();
    }

    fn report(&self) -> Report {
        let report = validate(&self.dir());
        assert!(!report.is_clean());
        report
    }

    /// That there is a finding about `image` whose text has `text`.
    fn finds(&self, image: &str, text: &str) -> Problem {
        let report = self.report();
        let found = report.findings.iter().find(|f| f.image == image && f.to_string().contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} of {image} in\n{report}")).problem.clone()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), to).unwrap();
        } else if kind.is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn assert_clean(dir: &Path) {
    let report = validate(dir);
    assert!(report.is_clean(), "{}:\n{report}", dir.display());
    assert!(report.images > 0);
}

#[test]
fn whole_checkpoints_are_clean() {
    for name in ["pipe00-h", "env00-v1.0", "mem-touch-incr/1", "mem-touch-incr/2", "mem-touch-incr/3"] {
        assert_clean(&testdata(name));
    }
}

#[test]
fn the_corpus_is_clean() {
    fn check(dir: &Path) -> u32 {
        let mut count = 0;
        if dir.join("inventory.img").exists() {
            assert_clean(dir);
            count += 1;
        }
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                count += check(&entry.path());
            }
        }
        count
    }
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/format/corpus");
    if dir.is_dir() {
        assert!(check(&dir) > 50);
    } else {
        println!("skipped: no corpus beside the repository");
    }
}

#[test]
fn no_checkpoint_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let report = validate(dir.path());
    assert_eq!(report.findings.first().unwrap().problem, Problem::MissingImage);
}

#[test]
fn images_that_do_not_read() {
    let damaged = Damaged::new("pipe00-h");
    let path = damaged.path(Kind::Files, None);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, bytes.get(..bytes.len() - 3).unwrap()).unwrap();
    damaged.finds("files.img", "truncated in entry");
    let mut other = bytes.clone();
    other.get_mut(4..8).unwrap().copy_from_slice(&Kind::Mm.info().magic.to_le_bytes());
    std::fs::write(&path, other).unwrap();
    damaged.finds("files.img", "magic");
    std::fs::write(&path, "").unwrap();
    damaged.finds("files.img", "truncated");
    // Layout v1.0 among v1.1.
    std::fs::write(&path, bytes.get(4..).unwrap()).unwrap();
    damaged.finds("files.img", "layout");
}

#[test]
fn fields_that_are_missing_and_values_nobody_knows() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Core, 66, 0, |core: &mut proto::CoreEntry| core.mtype = 77);
    let problem = damaged.finds("core-66.img", "unknown value");
    assert_eq!(problem, Problem::UnknownValue { field: "core_entry.mtype".into(), value: 77 });

    let damaged = Damaged::new("pipe00-h");
    let mut image = ImageEditor::open(Kind::Fs, damaged.path(Kind::Fs, 66)).unwrap();
    image.retain(|_| false);
    // As a message that has only an unknown field.
    image.push(&proto::PagemapHead { pages_id: 1 }, Vec::new());
    image.save().unwrap();
    let problem = damaged.finds("fs-66.img", "root_id");
    assert_eq!(problem, Problem::MissingField { field: "fs_entry.root_id".into() });
}

#[test]
fn entries_too_few_and_too_many() {
    let damaged = Damaged::new("pipe00-h");
    let mut image = ImageEditor::open(Kind::Fs, damaged.path(Kind::Fs, 66)).unwrap();
    image.push(&proto::FsEntry { cwd_id: 1, root_id: 1, umask: None }, Vec::new());
    image.save().unwrap();
    damaged.finds("fs-66.img", "2 entries where one belong");
}

#[test]
fn a_tree_with_holes() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Pstree, None, 1, |task: &mut proto::PstreeEntry| task.ppid = 5);
    damaged.finds("pstree.img", "task 5, which is nowhere");

    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Pstree, None, 1, |task: &mut proto::PstreeEntry| task.pid = 66);
    damaged.finds("pstree.img", "task 66 is there twice");
    damaged.finds("pstree.img", "not among its threads");

    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Pstree, None, 1, |task: &mut proto::PstreeEntry| task.threads.push(99));
    damaged.finds("core-99.img", "no such image");

    for (kind, name) in [(Kind::Core, "core-67.img"), (Kind::Ids, "ids-67.img"), (Kind::Mm, "mm-67.img")] {
        let damaged = Damaged::new("pipe00-h");
        damaged.remove(kind, 67);
        assert_eq!(damaged.finds(name, ""), Problem::MissingImage);
    }
    for (kind, name) in [(Kind::Fs, "fs-67.img"), (Kind::Pagemap, "pagemap-67.img")] {
        let damaged = Damaged::new("pipe00-h");
        damaged.remove(kind, 67);
        assert_eq!(damaged.finds(name, ""), Problem::MissingImage);
    }
    let damaged = Damaged::new("pipe00-h");
    damaged.remove(Kind::Pstree, None);
    assert_eq!(damaged.finds("pstree.img", ""), Problem::MissingImage);
}

#[test]
fn cores_without_their_parts() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Core, 66, 0, |core: &mut proto::CoreEntry| core.thread_info = None);
    damaged.finds("core-66.img", "no registers");
    damaged.edit(Kind::Core, 66, 0, |core: &mut proto::CoreEntry| core.thread_core = None);
    damaged.finds("core-66.img", "no thread_core");
    damaged.edit(Kind::Core, 66, 0, |core: &mut proto::CoreEntry| core.tc = None);
    damaged.finds("core-66.img", "no tc");
}

#[test]
fn namespaces_and_filters_that_are_nowhere() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Ids, 66, 0, |ids: &mut proto::TaskKobjIdsEntry| ids.mnt_ns_id = Some(99));
    damaged.finds("ids-66.img", "mnt_ns_id refers to mountpoints-99.img");

    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Core, 66, 0, |core: &mut proto::CoreEntry| {
        core.thread_core.as_mut().unwrap().seccomp_filter = Some(3);
    });
    damaged.finds("core-66.img", "filter 3");

    damaged.edit(Kind::Seccomp, None, 0, |seccomp: &mut proto::SeccompEntry| {
        for prev in [1, 0] {
            let filter = proto::SeccompFilter { filter: vec![0; 8], prev: Some(prev), flags: None };
            seccomp.seccomp_filters.push(filter);
        }
    });
    damaged.finds("seccomp.img", "no older");

    let damaged = Damaged::new("pipe00-h");
    std::fs::copy(testdata("kinds/cgroup00-h/cgroup.img"), damaged.path(Kind::Cgroup, None)).unwrap();
    damaged
        .edit(Kind::Core, 66, 0, |core: &mut proto::CoreEntry| core.tc.as_mut().unwrap().cg_set = Some(999));
    damaged.finds("core-66.img", "control group set 999");
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let damaged = Damaged::new("pipe00-h");
    let mut image = ImageEditor::open(Kind::Fdinfo, damaged.path(Kind::Fdinfo, 2)).unwrap();
    for fd in 1000..3500 {
        image.push(&proto::FdinfoEntry { id: fd, fd, r#type: 1, ..Default::default() }, Vec::new());
    }
    image.save().unwrap();
    let report = damaged.report();
    assert_eq!((report.findings.len(), report.more), (Report::MOST, 1500));
}
