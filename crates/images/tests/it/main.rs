//! Real images: every one reads, and writes back byte for byte.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rewake_images::kind::{Count, KINDS};
use rewake_images::{Checkpoint, ImageError, ImageReader, ImageWriter, Kind, PageStore, proto};

mod edit;
mod hostile;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The larger collection that lies beside the repository on some machines.
fn corpus() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/format/corpus");
    dir.is_dir().then_some(dir)
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_below(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

fn images_below(dir: &Path) -> Vec<(Kind, Option<u64>, PathBuf)> {
    let mut files = Vec::new();
    files_below(dir, &mut files);
    let kind_of = |path: &PathBuf| Kind::from_file_name(path.file_name()?.to_str()?);
    files.into_iter().filter_map(|p| kind_of(&p).map(|(kind, number)| (kind, number, p))).collect()
}

/// Reads and writes back; returns how many entries there were.
fn round_trip(kind: Kind, path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = ImageReader::open(kind, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut writer = ImageWriter::new(kind, reader.layout(), path, Vec::new()).unwrap();
    let mut entries = 0;
    while let Some(entry) = reader.next_entry().unwrap_or_else(|e| panic!("{e}")) {
        assert_eq!(entry.index, entries);
        writer.push_raw(&entry.message, &entry.payload).unwrap();
        entries += 1;
    }
    assert!(writer.into_inner().unwrap() == bytes, "{} changed", path.display());
    if kind.info().count == Count::Single {
        assert_eq!(entries, 1, "{}", path.display());
    }
    entries
}

fn round_trip_all(dir: &Path) -> BTreeMap<Kind, u64> {
    let mut seen = BTreeMap::new();
    for (kind, _, path) in images_below(dir) {
        if kind.info().count != Count::Raw {
            *seen.entry(kind).or_default() += round_trip(kind, &path);
        }
    }
    seen
}

#[test]
fn own_images_round_trip() {
    let seen = round_trip_all(&testdata());
    for kind in
        [Kind::Core, Kind::PipesData, Kind::SkQueues, Kind::GhostFile, Kind::IpcnsMsg, Kind::TcpStream]
    {
        assert!(seen.get(&kind).is_some_and(|&n| n > 0), "{kind:?}: {seen:?}");
    }
}

#[test]
fn corpus_round_trips() {
    let Some(dir) = corpus() else {
        println!("skipped: no corpus beside the repository");
        return;
    };
    let seen = round_trip_all(&dir);
    assert!(seen.len() >= 35, "{} kinds of {}", seen.len(), KINDS.len());
}

/// Every typed message of the corpus decodes with its required fields, and encodes to the same bytes.
#[test]
fn typed_entries_encode_to_the_same_bytes() {
    fn check<M: prost::Message + prost::Name + Default>(kind: Kind, path: &Path) -> u64 {
        let mut count = 0;
        for entry in ImageReader::open(kind, path).unwrap() {
            let entry = entry.unwrap();
            let message: M = rewake_images::framing::decode(path, &entry).unwrap_or_else(|e| panic!("{e}"));
            assert!(message.encode_to_vec() == entry.message, "{} entry {}", path.display(), entry.index);
            count += 1;
        }
        count
    }
    let mut dirs = vec![testdata()];
    dirs.extend(corpus());
    let mut count = 0;
    for (kind, _, path) in dirs.iter().flat_map(|d| images_below(d)) {
        count += match kind {
            Kind::Inventory => check::<proto::InventoryEntry>(kind, &path),
            Kind::Core => check::<proto::CoreEntry>(kind, &path),
            Kind::Mm => check::<proto::MmEntry>(kind, &path),
            Kind::Files => check::<proto::FileEntry>(kind, &path),
            Kind::Fdinfo => check::<proto::FdinfoEntry>(kind, &path),
            Kind::Pstree => check::<proto::PstreeEntry>(kind, &path),
            Kind::Ids => check::<proto::TaskKobjIdsEntry>(kind, &path),
            Kind::Fs => check::<proto::FsEntry>(kind, &path),
            _ => 0,
        };
    }
    assert!(count > 20, "{count} entries");
}

#[test]
fn tree_files_and_pipes_of_a_checkpoint() {
    let checkpoint = Checkpoint::open(testdata().join("pipe00-h")).unwrap();
    let tasks = checkpoint.tasks().unwrap();
    let tree: Vec<_> = tasks.iter().map(|t| (t.pid, t.ppid)).collect();
    assert_eq!(tree, [(66, 0), (67, 66)]);
    assert_eq!(checkpoint.core(66).unwrap().tc.unwrap().comm, "pipe00");
    let data = checkpoint.pipe_data().unwrap();
    assert!(data.iter().all(|(entry, bytes)| entry.bytes as usize == bytes.len()));
    assert!(data.iter().any(|(_, bytes)| !bytes.is_empty()));
    assert!(checkpoint.read_opt::<proto::CgroupEntry>(Kind::Cgroup, None).unwrap().is_none());
    let error = checkpoint.read::<proto::CgroupEntry>(Kind::Cgroup, None).unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
}

#[test]
fn memory_comes_from_the_whole_chain() {
    let dir = testdata().join("mem-touch-incr");
    let store = Checkpoint::open(dir.join("3")).unwrap().memory(139).unwrap();
    let levels: std::collections::BTreeSet<_> = store.runs().iter().map(|r| r.level).collect();
    assert!(levels.len() > 1, "only {levels:?}");
    for run in store.runs() {
        let mut bytes = vec![0; usize::try_from(run.bytes()).unwrap()];
        store.read_at(run.vaddr, &mut bytes).unwrap();
        #[cfg(feature = "mmap")]
        assert!(store.bytes(run, &mut Vec::new()).unwrap() == bytes);
    }
    let last = store.runs().last().unwrap();
    let beyond = store.read_at(last.end(), &mut [0]).unwrap_err();
    assert!(matches!(beyond, ImageError::NoPage { .. }), "{beyond}");
}

#[test]
fn old_layout_and_old_pagemaps() {
    let checkpoint = Checkpoint::open(testdata().join("env00-v1.0")).unwrap();
    assert_eq!(checkpoint.layout(), rewake_images::Layout::V10);
    for task in checkpoint.tasks().unwrap() {
        assert!(checkpoint.memory(task.pid.into()).unwrap().pages() > 0);
    }
}

#[test]
fn a_loop_of_parents_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, other) in [("a", "../b"), ("b", "../a")] {
        std::fs::create_dir(at(name)).unwrap();
        std::os::unix::fs::symlink(other, at(name).join("parent")).unwrap();
        let mut image =
            ImageWriter::create(Kind::Pagemap, rewake_images::Layout::V11, at(name).join("pagemap-1.img"))
                .unwrap();
        image.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
        image
            .push(&proto::PagemapEntry {
                vaddr: 0x1000,
                nr_pages: Some(1),
                flags: Some(1),
                ..Default::default()
            })
            .unwrap();
        image.finish().unwrap();
        std::fs::write(at(name).join("pages-1.img"), "").unwrap();
    }
    let error = PageStore::open(&at("a"), Kind::Pagemap, 1).unwrap_err();
    assert!(error.to_string().contains("loop"), "{error}");
}

#[test]
fn a_parent_link_kept_as_text_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let from = testdata().join("mem-touch-incr");
    for level in ["1", "2"] {
        std::fs::create_dir(dir.path().join(level)).unwrap();
        for name in ["pagemap-139.img", "pages-1.img", "pages-2.img"] {
            std::fs::copy(from.join(level).join(name), dir.path().join(level).join(name)).unwrap();
        }
    }
    std::fs::write(dir.path().join("2/parent"), "../1").unwrap();
    let linked = PageStore::open(&from.join("2"), Kind::Pagemap, 139).unwrap();
    let text = PageStore::open(&dir.path().join("2"), Kind::Pagemap, 139).unwrap();
    assert_eq!(linked.runs(), text.runs());
}
