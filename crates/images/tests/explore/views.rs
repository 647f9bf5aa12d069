//! The views of `crit x`.

use std::path::{Path, PathBuf};

use rewake_images::explore::{Details, Explorer, TaskState, inspect};
use rewake_images::{Checkpoint, ImageError, ImageWriter, Kind, Layout, proto};
use serde_json::json;

use crate::{open, testdata};

fn views(dir: &Path) -> [(&'static str, String); 4] {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let explorer = Explorer::new(&checkpoint).unwrap();
    [
        ("x-ps.txt", explorer.ps().unwrap().to_string()),
        ("x-fds.txt", explorer.fds().unwrap().to_string()),
        ("x-mems.txt", explorer.mems().unwrap().to_string()),
        ("x-rss.txt", explorer.rss().unwrap().to_string()),
    ]
}

/// Every directory below with a process tree.
fn checkpoints_below(dir: &Path, found: &mut Vec<PathBuf>) {
    if dir.join("pstree.img").exists() && dir.join("files.img").exists() && dir.join("inventory.img").exists()
    {
        found.push(dir.to_owned());
    }
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            checkpoints_below(&entry.path(), found);
        }
    }
}

fn compare_below(root: &Path) -> usize {
    let mut dirs = Vec::new();
    checkpoints_below(root, &mut dirs);
    let mut compared = 0;
    for dir in dirs {
        for (name, ours) in views(&dir) {
            let Ok(golden) = std::fs::read_to_string(dir.join(name)) else { continue };
            assert_eq!(ours, golden, "{}/{name}", dir.display());
            compared += 1;
        }
    }
    compared
}

#[test]
fn text_as_crit_prints_it() {
    assert!(compare_below(&testdata()) >= 4 + 3 + 3 * 4, "goldens of pipe00-h, env00-v1.0, mem-touch-incr");
    // The larger collection that lies beside the repository on some machines.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/format/corpus");
    if corpus.is_dir() {
        assert!(compare_below(&corpus) > 180);
    }
}

/// A checkpoint of one task and its dead child, without memory.
fn with_zombie(dir: &Path, unix_name: &[u8]) -> Checkpoint {
    fn put<M: prost::Message>(dir: &Path, kind: Kind, number: Option<u64>, messages: &[M]) {
        let path = dir.join(kind.file_name(number));
        let mut image = ImageWriter::create(kind, Layout::V11, path).unwrap();
        messages.iter().for_each(|m| image.push(m).unwrap());
        image.finish().unwrap();
    }
    let task = |pid, ppid| proto::PstreeEntry { pid, ppid, pgid: 10, sid: 10, threads: vec![pid] };
    let core = |task_state, comm: &str| proto::CoreEntry {
        tc: Some(proto::TaskCoreEntry { task_state, comm: comm.into(), ..Default::default() }),
        ..Default::default()
    };
    let socket =
        proto::UnixSkEntry { ino: 7, peer: 8, r#type: 1, name: unix_name.into(), ..Default::default() };
    let usk = proto::FileEntry { id: 3, r#type: 5, usk: Some(socket.into()), ..Default::default() };
    let fd = |fd, id, kind| proto::FdinfoEntry { fd, id, r#type: kind, ..Default::default() };
    put(dir, Kind::Inventory, None, &[proto::InventoryEntry { img_version: 2, ..Default::default() }]);
    // CRIU writes any number for the thread of a zombie.
    let dead = proto::PstreeEntry { threads: vec![875_386_176], ..task(11, 10) };
    put(dir, Kind::Pstree, None, &[task(10, 0), dead]);
    put(dir, Kind::Core, Some(10), &[core(3, "parent")]);
    put(dir, Kind::Core, Some(11), &[core(2, "dead")]);
    put(dir, Kind::Ids, Some(10), &[proto::TaskKobjIdsEntry { files_id: 4, ..Default::default() }]);
    put(dir, Kind::Fdinfo, Some(4), &[fd(0, 3, 5), fd(1, 9, 5), fd(2, 9, 77)]);
    put(dir, Kind::Fs, Some(10), &[proto::FsEntry { cwd_id: 1, root_id: 2, umask: None }]);
    put(dir, Kind::Mm, Some(10), &[proto::MmEntry::default()]);
    put(dir, Kind::Files, None, &[usk]);
    Checkpoint::open(dir).unwrap()
}

#[test]
fn zombies_have_nothing_and_fail_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = with_zombie(dir.path(), b"\0a=b");
    let explorer = Explorer::new(&checkpoint).unwrap();
    let forest = explorer.ps().unwrap();
    assert_eq!(forest.0[0].state, TaskState::Stopped);
    assert_eq!(forest.0[0].children[0].state, TaskState::Zombie);
    assert_eq!(
        explorer.fds().unwrap().to_string(),
        "10\n\t      0: unix[7 (8) =00a=3Db]\n\t      1: unix[?]\n\t      2: 77.9\n\t    cwd: unknown path\n\t   root: unknown path\n11\n"
    );
    let exe = format!("10\n\t{:36}    unknown path\n11\n", "exe");
    assert_eq!(explorer.mems().unwrap().to_string(), exe);
    assert_eq!(explorer.rss().unwrap().to_string(), "10\n11\n");
    let zombie =
        &inspect(&checkpoint, Details { environment: true, files: true }).unwrap().processes[0].children[0];
    assert_eq!((zombie.descriptors, zombie.threads.len(), &zombie.arguments), (0, 0, &None));
    let sockets = explorer.sockets().unwrap();
    assert_eq!(sockets.0.len(), 1);
    assert_eq!(sockets.to_string(), "10\n\t      0: UNIX STREAM @a=b -> inode 8 (send 0 B, receive 0 B)\n");
}

#[test]
fn a_loop_of_parents_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let _ = with_zombie(dir.path(), b"");
    let task = |pid, ppid| proto::PstreeEntry { pid, ppid, ..Default::default() };
    let path = dir.path().join("pstree.img");
    std::fs::remove_file(&path).unwrap();
    let mut image = ImageWriter::create(Kind::Pstree, Layout::V11, path).unwrap();
    for entry in [task(10, 11), task(11, 10)] {
        image.push(&entry).unwrap();
    }
    image.finish().unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = Explorer::new(&checkpoint).unwrap().ps().unwrap_err();
    assert!(matches!(&error, ImageError::Invalid { what, .. } if what.contains("loop")), "{error}");
}

#[test]
fn json_in_the_shapes_of_go_criu() {
    let checkpoint = open("pipe00-h");
    let explorer = Explorer::new(&checkpoint).unwrap();
    let ps = serde_json::to_value(explorer.ps().unwrap()).unwrap();
    assert_eq!(ps["pid"], 66);
    assert_eq!(ps["children"][0]["comm"], "pipe00");
    let fds = serde_json::to_value(explorer.fds().unwrap()).unwrap();
    assert_eq!(fds[0]["files"][0], json!({"fd": "0", "type": "REG", "path": "/dev/null"}));
    let files = fds[0]["files"].as_array().unwrap();
    assert_eq!(files.last().unwrap(), &json!({"fd": "root", "path": "/"}));
    let mems = serde_json::to_value(explorer.mems().unwrap()).unwrap();
    let first = &mems[0]["mems"][0];
    assert_eq!(mems[0]["exe"], "/criu/test/zdtm/static/pipe00");
    assert_eq!(first["start"], "561a8b2cf000");
    assert_eq!(first["protection"], "r--");
    assert_eq!(first["resource"], "/criu/test/zdtm/static/pipe00");
    let rss = serde_json::to_value(explorer.rss().unwrap()).unwrap();
    assert_eq!(
        rss[0]["rss"][0],
        json!({
            "phy_addr": "561a8b2d1000", "phy_pages": 1, "resource": "/criu/test/zdtm/static/pipe00",
            "vmas": [{"addr": "561a8b2d1000", "pages": 4}],
        })
    );
    assert_eq!(serde_json::to_value(explorer.sockets().unwrap()).unwrap(), json!([]));
}
