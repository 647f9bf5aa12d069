//! Two checkpoints compared.

use std::fs;
use std::path::{Path, PathBuf};

use rewake_images::explore::{Diff, Explorer, PageChange, diff};
use rewake_images::{Checkpoint, ImageWriter, Kind, Layout, proto};

use crate::testdata;

fn compared(a: &Path, b: &Path) -> Diff {
    let (a, b) = (Checkpoint::open(a).unwrap(), Checkpoint::open(b).unwrap());
    diff(&Explorer::new(&a).unwrap(), &Explorer::new(&b).unwrap()).unwrap()
}

fn copied(case: &str, to: &Path) -> PathBuf {
    let to = to.join("copy");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(testdata().join(case)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    to
}

/// Reads the entries of an image, has them changed, and writes them again.
fn edit<M: prost::Message + prost::Name + Default>(
    dir: &Path,
    kind: Kind,
    number: Option<u64>,
    change: impl FnOnce(&mut Vec<M>),
) {
    let mut entries = Checkpoint::open(dir).unwrap().read_all(kind, number).unwrap();
    change(&mut entries);
    let path = dir.join(kind.file_name(number));
    fs::remove_file(&path).unwrap();
    let mut image = ImageWriter::create(kind, Layout::V11, path).unwrap();
    entries.iter().for_each(|entry| image.push(entry).unwrap());
    image.finish().unwrap();
}

#[test]
fn a_checkpoint_is_as_itself_and_as_its_copy() {
    let case = testdata().join("pipe00-h");
    assert!(compared(&case, &case).is_empty());
    let dir = tempfile::tempdir().unwrap();
    assert!(compared(&case, &copied("pipe00-h", dir.path())).is_empty());
}

#[test]
fn each_kind_of_change_is_told() {
    let case = testdata().join("pipe00-h");
    let dir = tempfile::tempdir().unwrap();
    let copy = copied("pipe00-h", dir.path());
    let pages = Checkpoint::open(&case).unwrap().memory(66).unwrap();
    let (first, file) = (pages.runs()[0], pages.pages_file(0).unwrap().0.file_name().unwrap().to_owned());
    let third = pages.runs()[2].vaddr;
    let mut bytes = fs::read(copy.join(&file)).unwrap();
    bytes[usize::try_from(first.file_offset).unwrap()] ^= 1;
    bytes[usize::try_from(pages.runs()[2].file_offset).unwrap() + 4095] ^= 1;
    fs::write(copy.join(&file), bytes).unwrap();
    edit::<proto::PstreeEntry>(&copy, Kind::Pstree, None, |tasks| {
        tasks[1].pgid = 99;
    });
    edit::<proto::FileEntry>(&copy, Kind::Files, None, |files| {
        for reg in files.iter_mut().filter_map(|file| file.reg.as_mut()).filter(|reg| reg.name == "/dev/null")
        {
            reg.name = "/dev/zero".into();
        }
    });
    edit::<proto::MmEntry>(&copy, Kind::Mm, Some(66), |mm| {
        mm[0].vmas.remove(0);
        mm[0].vmas[0].prot = 7;
    });
    let found = compared(&case, &copy);
    let [root, child] = found.tasks.as_slice() else { panic!("{found:?}") };
    assert_eq!((root.pid, child.pid), (66, 67));
    assert!(root.facts.is_empty());
    assert_eq!(child.facts["group"].after.as_deref(), Some("99"));
    let null = &root.descriptors[&0];
    assert_eq!(null.before.as_ref().unwrap().path, "/dev/null");
    assert_eq!(null.after.as_ref().unwrap().path, "/dev/zero");
    assert_eq!(root.mappings.len(), 2);
    assert!(root.mappings[0].after.is_none());
    assert_eq!(root.mappings[1].after.as_ref().unwrap().prot, 7);
    assert_eq!((root.pages.changed, root.pages.added, root.pages.removed), (2, 0, 0));
    let places: Vec<_> = root.pages.ranges.iter().map(|r| (r.start, r.pages, r.change)).collect();
    assert_eq!(places, [(first.vaddr, 1, PageChange::Changed), (third, 1, PageChange::Changed)]);
    assert!(child.pages.is_empty() && child.mappings.is_empty());
}

/// Against its ancestor, a checkpoint differs in the pages it holds itself, if it holds only what changed.
#[test]
fn generations() {
    let chain = |n: u32| testdata().join(format!("mem-touch-incr/{n}"));
    let found = compared(&chain(1), &chain(2));
    let pages = &found.tasks[0].pages;
    let own = Checkpoint::open(chain(2)).unwrap().memory(139).unwrap();
    let own: u64 = own.runs().iter().filter(|run| run.level == 0).map(|run| run.pages).sum();
    assert_eq!(pages.changed + pages.added, own, "{pages:?}");
    assert!(pages.changed > 0);
}

#[test]
fn a_task_that_came_or_went() {
    let case = testdata().join("pipe00-h");
    let dir = tempfile::tempdir().unwrap();
    let copy = copied("pipe00-h", dir.path());
    edit::<proto::PstreeEntry>(&copy, Kind::Pstree, None, |tasks| {
        tasks.pop();
    });
    for (a, b, came) in [(&case, &copy, false), (&copy, &case, true)] {
        let found = compared(a, b);
        assert_eq!(found.tasks.len(), 1);
        let name = &found.tasks[0].facts["name"];
        assert_eq!((name.before.is_none(), name.after.is_none()), (came, !came));
        let pages = &found.tasks[0].pages;
        assert_eq!((pages.added > 0, pages.removed > 0), (came, !came));
    }
}
