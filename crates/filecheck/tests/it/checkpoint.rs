//! Whole checkpoints: read, stamped, and everything else in them left as it was.

use std::fs;
use std::path::Path;

use rewake_filecheck::own::FILE_NAME;
use rewake_filecheck::{
    Cookie, Hashing, Mismatch, Parts, Policy, Use, Verdict, expected, format, stamp_checkpoint, verify_all,
};
use rewake_images::proto::{
    FdTypes, FdinfoEntry, FileEntry, FsEntry, InventoryEntry, MmEntry, PstreeEntry, RegFileEntry,
    TaskKobjIdsEntry, VmaEntry,
};
use rewake_images::{Checkpoint, CheckpointWriter, ImageReader, Kind};
use tempfile::TempDir;

use crate::elf::Elf;

/// A field that no schema of today has: number 300, of length 3.
const UNKNOWN: [u8; 6] = [0xe2, 0x12, 3, b'n', b'e', b'w'];

fn entry(id: u32, name: &str, cookie: &Cookie) -> FileEntry {
    let mut reg = RegFileEntry { id, name: name.to_owned(), ..RegFileEntry::default() };
    format::store(cookie, &mut reg);
    FileEntry { r#type: FdTypes::Reg.into(), id, reg: Some(reg), ..FileEntry::default() }
}

/// A checkpoint of pid 7 that runs `/prog`, maps `/lib.so` executable and has `/data` open; nothing but sizes and modes
/// is known of the files below `root`.
fn checkpoint(dir: &Path, root: &Path) -> Checkpoint {
    let writer = CheckpointWriter::create(dir).unwrap();
    writer
        .write(Kind::Pstree, None, &PstreeEntry { pid: 7, threads: vec![7], ..PstreeEntry::default() })
        .unwrap();
    let code =
        VmaEntry { start: 0x1000, end: 0x2000, shmid: 2, prot: 5, status: 1 | 1 << 6, ..VmaEntry::default() };
    let mm = MmEntry { exe_file_id: 1, vmas: vec![code], ..MmEntry::default() };
    writer.write(Kind::Mm, Some(7), &mm).unwrap();
    writer.write(Kind::Fs, Some(7), &FsEntry { cwd_id: 4, root_id: 4, umask: None }).unwrap();
    writer
        .write(Kind::Ids, Some(7), &TaskKobjIdsEntry { files_id: 9, ..TaskKobjIdsEntry::default() })
        .unwrap();
    let fd = FdinfoEntry { id: 3, fd: 5, r#type: FdTypes::Reg.into(), ..FdinfoEntry::default() };
    writer.write(Kind::Fdinfo, Some(9), &fd).unwrap();
    let mut image = writer.image(Kind::Files, None).unwrap();
    for (id, name) in (1..).zip(["/prog", "/lib.so", "/data", "/"]) {
        let path = root.join(name.trim_start_matches('/'));
        let cookie = Cookie::of_path(&path, Parts::SIZE, &mut Hashing::unlimited()).unwrap();
        let message = prost_bytes(&entry(id, name, &cookie));
        image.push_raw(&[&message[..], &UNKNOWN].concat(), &[]).unwrap();
    }
    image.finish().unwrap();
    let inventory = InventoryEntry { img_version: 2, fdinfo_per_id: Some(true), ..InventoryEntry::default() };
    writer.commit(&inventory).unwrap();
    Checkpoint::open(dir).unwrap()
}

/// The message as it is written, taken from an image written in memory: its bytes follow two words and a length.
fn prost_bytes(entry: &FileEntry) -> Vec<u8> {
    let mut image =
        rewake_images::ImageWriter::new(Kind::Files, rewake_images::Layout::V11, "memory", Vec::new())
            .unwrap();
    image.push(entry).unwrap();
    image.into_inner().unwrap().split_off(12)
}

fn root() -> TempDir {
    let root = TempDir::new().unwrap();
    for (name, id) in [("prog", 1), ("lib.so", 2)] {
        fs::write(root.path().join(name), Elf::with_build_id(true, false, &[id; 20]).bytes()).unwrap();
    }
    fs::write(root.path().join("data"), "some data").unwrap();
    root
}

#[test]
fn the_files_of_a_checkpoint_and_their_users() {
    let (dir, root) = (TempDir::new().unwrap(), root());
    let files = expected(&checkpoint(&dir.path().join("ckpt"), root.path())).unwrap();
    let users: Vec<Vec<String>> =
        files.iter().map(|file| file.users.iter().map(Use::to_string).collect()).collect();
    assert_eq!(users[0], ["program of 7"]);
    assert_eq!(users[1], ["mapped r-xp at 0x1000 by 7"]);
    assert_eq!(users[2], ["descriptor 5 of 7"]);
    assert_eq!(users[3], ["working directory of 7", "root directory of 7"]);
    assert!(files[0].role.executable && files[1].role.executable && !files[2].role.executable);
}

#[test]
fn a_stamp_adds_cookies_and_changes_nothing_else() {
    let (dir, root) = (TempDir::new().unwrap(), root());
    let checkpoint = checkpoint(&dir.path().join("ckpt"), root.path());
    let mut policy = Policy::at("checksum=full".parse().unwrap());
    policy.add_rules("ignore:/data").unwrap();
    let done = stamp_checkpoint(&checkpoint, root.path(), &policy, Hashing::unlimited()).unwrap();
    assert_eq!((done.stamped, done.report.verdict()), (2, Verdict::Same), "{}", done.report);
    assert!(!checkpoint.dir().join(FILE_NAME).exists(), "a checksum is in the format");

    let mut reader = ImageReader::open(Kind::Files, checkpoint.path(Kind::Files, None)).unwrap();
    let mut ids = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        assert!(entry.message.ends_with(&UNKNOWN), "an unknown field was lost");
        let file: FileEntry = rewake_images::framing::decode(Path::new("files"), &entry).unwrap();
        ids.push(file.reg.unwrap());
    }
    assert_eq!(ids.iter().map(|reg| reg.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let bytes = fs::read(root.path().join("lib.so")).unwrap();
    assert_eq!(ids[1].checksum, Some(crc32c::crc32c(&bytes)));
    assert_eq!(ids[1].build_id, vec![0x0202_0202; 5]);
    assert_eq!((ids[2].checksum, ids[2].build_id.len()), (None, 0));

    // Stamped again with hashes: the checksums stay.
    let done = stamp_checkpoint(&checkpoint, root.path(), &Policy::default(), Hashing::unlimited()).unwrap();
    assert_eq!((done.stamped, done.report.verdict()), (2, Verdict::Same), "{}", done.report);
    let files = expected(&checkpoint).unwrap();
    assert!(files[1].cookie.blake3.is_some() && files[1].cookie.checksum.is_some());

    // Nothing new, nothing written.
    let done = stamp_checkpoint(&checkpoint, root.path(), &Policy::default(), Hashing::unlimited()).unwrap();
    assert_eq!(done.stamped, 0);

    let mut patched = bytes;
    *patched.last_mut().unwrap() ^= 1;
    fs::write(root.path().join("lib.so"), patched).unwrap();
    let report = verify_all(&files, root.path(), &Policy::default()).unwrap();
    let whats: Vec<&Mismatch> = report.findings.iter().map(|finding| &finding.what).collect();
    assert!(matches!(whats[..], [Mismatch::Checksum { .. }, Mismatch::Blake3 { .. }]), "{report}");
    assert!(report.to_string().contains("mapped r-xp at 0x1000 by 7"), "{report}");
    // A file that differs is not stamped over.
    let done = stamp_checkpoint(&checkpoint, root.path(), &Policy::default(), Hashing::unlimited()).unwrap();
    assert_eq!((done.stamped, done.report.verdict()), (0, Verdict::Differs));
}

#[test]
fn the_report_says_what_to_do() {
    let (dir, root) = (TempDir::new().unwrap(), root());
    let checkpoint = checkpoint(&dir.path().join("ckpt"), root.path());
    let lists = root.path().join("var/lib/dpkg/info");
    fs::create_dir_all(&lists).unwrap();
    fs::write(lists.join("libx.list"), "/.\n/lib.so\n").unwrap();
    for name in ["lib.so", "data"] {
        let mut bytes = fs::read(root.path().join(name)).unwrap();
        bytes.push(0);
        fs::write(root.path().join(name), bytes).unwrap();
    }
    let files = expected(&checkpoint).unwrap();
    let mut report = verify_all(&files, root.path(), &Policy::default()).unwrap();
    report.name_packages(root.path());
    let text = report.to_string();
    assert!(text.contains("it is of package libx"), "{text}");
    assert!(text.contains("the exception `grow:/data` lets it pass"), "{text}");
}
