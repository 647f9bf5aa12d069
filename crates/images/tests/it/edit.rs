//! Images changed through their types keep all that was not changed.

use prost::Message;
use rewake_images::edit::ImageEditor;
use rewake_images::{ImageError, ImageReader, ImageWriter, Kind, Layout, proto};

use super::testdata;

/// Field 127 of an unknown type of text.
const UNKNOWN: [u8; 5] = [0xfa, 0x07, 0x02, b'h', b'i'];

fn image(dir: &tempfile::TempDir, kind: Kind, entries: &[Vec<u8>]) -> ImageEditor {
    let path = dir.path().join("image");
    let mut writer = ImageWriter::new(kind, Layout::V11, &path, Vec::new()).unwrap();
    for entry in entries {
        writer.push_raw(entry, &[]).unwrap();
    }
    std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
    ImageEditor::open(kind, path).unwrap()
}

fn vma(start: u64) -> proto::VmaEntry {
    proto::VmaEntry { start, end: start + 0x1000, fd: -1, ..Default::default() }
}

/// An mm with an unknown field of its own, behind each mapping's fields another, and its first field last.
fn strange_mm(starts: &[u64]) -> Vec<u8> {
    let first = proto::MmEntry { mm_start_code: 5, ..Default::default() }.encode_to_vec();
    let (code, rest) = first.split_at(2);
    let mut bytes = UNKNOWN.to_vec();
    bytes.extend(rest);
    for start in starts {
        let mut inner = vma(*start).encode_to_vec();
        inner.extend(UNKNOWN);
        bytes.extend([14 << 3 | 2, u8::try_from(inner.len()).unwrap()]);
        bytes.extend(inner);
    }
    bytes.extend(code);
    bytes
}

fn count(bytes: &[u8]) -> usize {
    bytes.windows(UNKNOWN.len()).filter(|window| **window == UNKNOWN).count()
}

#[test]
fn unknown_fields_and_strange_orders_stay() {
    let dir = tempfile::tempdir().unwrap();
    let original = strange_mm(&[0x1000, 0x3000, 0x5000]);
    let mut editor = image(&dir, Kind::Mm, std::slice::from_ref(&original));
    assert!(!editor.edit(0, |_: &mut proto::MmEntry| ()).unwrap());
    assert_eq!(editor.entries()[0].message, original);

    // One number in one nested message: as many bytes, of which one differs.
    assert!(editor.edit(0, |mm: &mut proto::MmEntry| mm.vmas[1].prot = 7).unwrap());
    let changed = editor.entries()[0].message.clone();
    let differ = original.iter().zip(&changed).filter(|(a, b)| a != b).count();
    assert_eq!((changed.len(), differ), (original.len(), 1));
    assert_eq!(proto::MmEntry::decode(&*changed).unwrap().vmas[1].prot, 7);

    // One in the middle goes, its unknown field with it and no other.
    editor.edit(0, |mm: &mut proto::MmEntry| _ = mm.vmas.remove(1)).unwrap();
    assert_eq!(count(&editor.entries()[0].message), 3);
    assert_eq!(editor.entries()[0].message, strange_mm(&[0x1000, 0x5000]));

    // A field that was not there takes its place by number.
    editor.edit(0, |mm: &mut proto::MmEntry| mm.dumpable = Some(1)).unwrap();
    let decoded = proto::MmEntry::decode(&*editor.entries()[0].message).unwrap();
    assert_eq!((decoded.dumpable, decoded.mm_start_code, decoded.vmas.len()), (Some(1), 5, 2));
    assert_eq!(count(&editor.entries()[0].message), 3);
}

#[test]
fn saving_changes_only_what_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sk-queues.img");
    std::fs::copy(testdata().join("payloads/sk-queues.img"), &path).unwrap();
    let before = std::fs::read(&path).unwrap();
    ImageEditor::open(Kind::SkQueues, &path).unwrap().save().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let mut editor = ImageEditor::open(Kind::SkQueues, &path).unwrap();
    let payload = editor.entries()[0].payload.clone();
    editor.set_payload(0, b"other".to_vec()).unwrap();
    let error = editor.to_bytes().unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Invalid { .. } | ImageError::Truncated { .. } | ImageError::Decode { .. }
        ),
        "{error}"
    );
    editor.edit(0, |packet: &mut proto::SkPacketEntry| packet.length = 5).unwrap();
    editor.save().unwrap();
    let mut back = ImageReader::open(Kind::SkQueues, &path).unwrap();
    let first = back.next_entry().unwrap().unwrap();
    assert_eq!(first.payload, b"other");
    assert_ne!(payload, first.payload);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing staged is left");
}

#[test]
fn v10_stays_v10() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("files.img");
    let source = testdata().join("env00-v1.0/files.img");
    std::fs::copy(&source, &path).unwrap();
    let mut editor = ImageEditor::open(Kind::Files, &path).unwrap();
    editor.edit_each(|file: &mut proto::FileEntry| file.id += 100).unwrap();
    editor.edit_each(|file: &mut proto::FileEntry| file.id -= 100).unwrap();
    editor.save().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(source).unwrap());
}

proptest::proptest! {
    /// Whatever changes in what, decoding gives what was asked for, and unknown fields stay.
    #[test]
    fn an_edit_is_what_is_decoded(before in proptest::collection::vec(1_u64..9, 0..6), after in proptest::collection::vec(1_u64..9, 0..6), prot in 0_u32..300) {
        let dir = tempfile::tempdir().unwrap();
        let starts: Vec<u64> = before.iter().map(|n| n << 12).collect();
        let mut editor = image(&dir, Kind::Mm, &[strange_mm(&starts)]);
        let vmas: Vec<_> = after.iter().map(|n| proto::VmaEntry { prot, ..vma(n << 12) }).collect();
        let mut wanted = None;
        editor.edit(0, |mm: &mut proto::MmEntry| {
            mm.vmas.clone_from(&vmas);
            mm.mm_brk = prot.into();
            wanted = Some(mm.clone());
        }).unwrap();
        let message = &editor.entries()[0].message;
        proptest::prop_assert_eq!(proto::MmEntry::decode(&**message).unwrap(), wanted.unwrap());
        proptest::prop_assert!(count(message) >= 1);
    }
}
