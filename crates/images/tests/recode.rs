//! Whole checkpoints rewritten.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rewake_images::recode::recode;
use rewake_images::{Checkpoint, Kind, Layout};

fn copied(case: &str, to: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(case);
    let to = to.join("copy");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && !entry.file_name().to_str().unwrap().ends_with("json") {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    to
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn nothing_changes_where_nothing_has_to() {
    for case in ["pipe00-h", "mem-touch-incr/1"] {
        let dir = tempfile::tempdir().unwrap();
        let copy = copied(case, dir.path());
        let before = contents(&copy);
        let report = recode(&copy, false).unwrap();
        assert!(report.len() >= 12, "{report:?}");
        assert!(report.iter().all(|image| !image.rewritten && image.kept == 0), "{report:?}");
        assert_eq!(contents(&copy), before);
    }
}

#[test]
fn an_old_layout_becomes_the_present_one() {
    let dir = tempfile::tempdir().unwrap();
    let copy = copied("env00-v1.0", dir.path());
    let before = contents(&copy);
    let images = |dir: &Path| {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let images = checkpoint.images().unwrap().into_iter();
        let framed = images.filter(|(kind, ..)| !matches!(kind, Kind::Pages | Kind::Inventory));
        framed
            .map(|(kind, number, _)| {
                let reader = checkpoint.entries(kind, number).unwrap().unwrap();
                let layout = reader.layout();
                let entries =
                    reader.map(|entry| entry.unwrap()).map(|e| (e.message, e.payload)).collect::<Vec<_>>();
                ((kind, number), (layout, entries))
            })
            .collect::<BTreeMap<_, _>>()
    };
    let old = images(&copy);
    assert!(recode(&copy, true).unwrap().iter().all(|image| image.rewritten));
    assert_eq!(contents(&copy), before, "a dry run leaves all as it was, and nothing behind");
    recode(&copy, false).unwrap();
    assert_eq!(Checkpoint::open(&copy).unwrap().layout(), Layout::V11);
    let new = images(&copy);
    assert_eq!(old.len(), new.len());
    for (image, (layout, entries)) in &new {
        assert_eq!(*layout, Layout::V11);
        assert_eq!(entries, &old[image].1, "{image:?}");
    }
    assert!(
        recode(&copy, false).unwrap().iter().all(|image| !image.rewritten),
        "again there is nothing to do"
    );
}

/// Fields that are not known here are not lost, and what is no image stops everything.
#[test]
fn what_json_does_not_keep_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let copy = copied("pipe00-h", dir.path());
    let path = copy.join("fs-66.img");
    let mut bytes = fs::read(&path).unwrap();
    // Field 100, a number, at the end of the only entry.
    let size = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) + 3;
    bytes[8..12].copy_from_slice(&size.to_le_bytes());
    bytes.extend([0xa0, 0x06, 0x01]);
    fs::write(&path, &bytes).unwrap();
    let report = recode(&copy, false).unwrap();
    let image = report.iter().find(|image| image.file == "fs-66.img").unwrap();
    assert_eq!((image.kept, image.rewritten), (1, false));
    assert_eq!(fs::read(&path).unwrap(), bytes);

    bytes.truncate(14);
    fs::write(&path, &bytes).unwrap();
    let before = contents(&copy);
    assert!(recode(&copy, false).is_err());
    assert_eq!(contents(&copy), before);
}

/// Killed at any moment, it leaves the directory old or new, never between.
#[test]
fn killed_at_any_moment() {
    const DIR: &str = "RECODE_DIR";
    // This test once more, in a process of its own: one that is killed.
    if let Some(dir) = std::env::var_os(DIR) {
        recode(Path::new(&dir), false).unwrap();
        return;
    }
    let program = std::env::current_exe().unwrap();
    let mut seen = [0, 0];
    for round in 0..400_u64 {
        let dir = tempfile::tempdir().unwrap();
        let copy = copied("env00-v1.0", dir.path());
        let before = contents(&copy);
        let mut child = std::process::Command::new(&program)
            .args(["--exact", "killed_at_any_moment"])
            .env(DIR, &copy)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Later each time, until it has come to its end by itself.
        let mut ended = false;
        for _ in 0..round * 50 {
            ended = ended || child.try_wait().unwrap().is_some();
        }
        let _ = child.kill();
        child.wait().unwrap();
        let after = contents(&copy);
        let is_new = after != before;
        seen[usize::from(is_new)] += 1;
        if is_new {
            assert_eq!(after.len(), before.len());
            assert!(recode(&copy, true).unwrap().iter().all(|image| !image.rewritten), "all of it is new");
        }
        if ended && seen[1] > 3 {
            break;
        }
    }
    assert!(seen[0] > 0, "killed before it came to that, at first");
}

/// What else lies in the directory stays, links and modes as well.
#[test]
fn what_else_is_there_stays() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let copy = copied("env00-v1.0", dir.path());
    fs::write(copy.join("notes.txt"), "mine").unwrap();
    symlink("../elsewhere", copy.join("parent")).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(copy.join("pstree.img"), fs::Permissions::from_mode(0o640)).unwrap();
    let pages = fs::metadata(copy.join("pages-1.img")).unwrap().ino();
    recode(&copy, false).unwrap();
    assert_eq!(fs::read_to_string(copy.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_link(copy.join("parent")).unwrap(), Path::new("../elsewhere"));
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(copy.join("pstree.img")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(copy.join("pages-1.img")).unwrap().ino(), pages, "memory is not copied");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside");

    // With a directory inside it goes file by file.
    let other = tempfile::tempdir().unwrap();
    let copy = copied("env00-v1.0", other.path());
    fs::create_dir(copy.join("sub")).unwrap();
    recode(&copy, false).unwrap();
    assert!(copy.join("sub").is_dir());
    assert_eq!(Checkpoint::open(&copy).unwrap().layout(), Layout::V11);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}
