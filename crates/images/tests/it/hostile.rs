//! Images cut, bent or invented: an error with a place in it, never a panic, never memory without bound.

use rewake_images::kind::Head;
use rewake_images::{ImageError, ImageReader, ImageWriter, Kind, Layout, framing, proto};

use super::{images_below, testdata};

fn read_all(kind: Kind, bytes: &[u8]) -> Result<u64, ImageError> {
    let mut reader = ImageReader::new(kind, "hostile.img", bytes, bytes.len() as u64)?;
    let mut entries = 0;
    while reader.next_entry()?.is_some() {
        entries += 1;
    }
    Ok(entries)
}

/// Cut at any byte, an image either ends between two entries or says where it broke off.
#[test]
fn truncated_anywhere() {
    let mut cuts = 0;
    for (kind, _, path) in images_below(&testdata()) {
        let bytes = std::fs::read(&path).unwrap();
        let raw = kind.info().head == Head::Raw;
        if raw || bytes.len() > 6000 {
            continue;
        }
        let whole = read_all(kind, &bytes).unwrap();
        for len in 0..bytes.len() {
            match read_all(kind, &bytes[..len]) {
                Ok(entries) => assert!(entries <= whole, "{}: {len}", path.display()),
                Err(ImageError::Truncated { offset, .. }) => assert!(offset <= len as u64),
                Err(other) => panic!("{} cut at {len}: {other}", path.display()),
            }
            cuts += 1;
        }
    }
    assert!(cuts > 1000);
}

#[test]
fn sizes_that_lie_take_no_memory() {
    let mut image = Vec::new();
    for word in [0x5456_4319_u32, Kind::Mm.info().magic, u32::MAX] {
        image.extend(word.to_le_bytes());
    }
    let error = read_all(Kind::Mm, &image).unwrap_err();
    assert!(
        matches!(error, ImageError::Truncated { needed: 0xffff_ffff, left: 0, offset: 12, .. }),
        "{error}"
    );
    let message = proto::PipeDataEntry { pipe_id: 1, bytes: u32::MAX, size: None };
    let mut writer = ImageWriter::new(Kind::PipesData, Layout::V11, "p", Vec::new()).unwrap();
    writer.push_with(&message, b"few").unwrap();
    let error = read_all(Kind::PipesData, &writer.into_inner().unwrap()).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { left: 3, .. }), "{error}");
}

/// Entries in an order nobody writes: they would read as other memory than they are.
#[test]
fn wrong_order_and_overlap_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |page: u64, pages| proto::PagemapEntry {
        vaddr: page * rewake_images::PAGE_SIZE,
        nr_pages: Some(pages),
        flags: Some(rewake_images::pe::PRESENT),
        ..Default::default()
    };
    let open = |entries: &[proto::PagemapEntry]| {
        let path = dir.path().join("pagemap-1.img");
        let mut image = ImageWriter::new(Kind::Pagemap, Layout::V11, &path, Vec::new()).unwrap();
        image.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
        entries.iter().for_each(|entry| image.push(entry).unwrap());
        std::fs::write(&path, image.into_inner().unwrap()).unwrap();
        let bytes: u64 = entries.iter().map(|e| e.nr_pages() * rewake_images::PAGE_SIZE).sum();
        std::fs::write(dir.path().join("pages-1.img"), vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        rewake_images::PageStore::open(dir.path(), Kind::Pagemap, 1)
    };
    assert!(open(&[entry(1, 2), entry(3, 1)]).is_ok());
    for (what, entries) in [
        ("order", [entry(3, 1), entry(1, 1)]),
        ("overlap", [entry(1, 3), entry(3, 1)]),
        ("twice", [entry(1, 1), entry(1, 1)]),
        ("beyond the last address", [entry(1, 1), entry(u64::MAX / rewake_images::PAGE_SIZE, 2)]),
    ] {
        let error = open(&entries).unwrap_err();
        assert!(matches!(error, ImageError::Invalid { .. }), "{what}: {error}");
    }
    // The head of a pagemap is its first entry.
    let path = dir.path().join("pagemap-1.img");
    let mut image = ImageWriter::new(Kind::Pagemap, Layout::V11, &path, Vec::new()).unwrap();
    image.push(&entry(1, 1)).unwrap();
    image.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
    std::fs::write(&path, image.into_inner().unwrap()).unwrap();
    assert!(rewake_images::PageStore::open(dir.path(), Kind::Pagemap, 1).is_err());
}

/// A parent link that leads out of where checkpoints lie: its pages are not there, and no other file is taken for them.
#[test]
fn a_parent_outside_is_no_parent() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("young");
    std::fs::create_dir(&at).unwrap();
    let mut image = ImageWriter::create(Kind::Pagemap, Layout::V11, at.join("pagemap-1.img")).unwrap();
    image.push(&proto::PagemapHead { pages_id: 1 }).unwrap();
    let flags = Some(rewake_images::pe::PARENT);
    let entry = proto::PagemapEntry { vaddr: 0x1000, nr_pages: Some(1), flags, ..Default::default() };
    image.push(&entry).unwrap();
    image.finish().unwrap();
    std::fs::write(at.join("pages-1.img"), "").unwrap();
    for target in ["/", "/proc/self", "/dev/null", "..", "nowhere", "pages-1.img"] {
        std::os::unix::fs::symlink(target, at.join("parent")).unwrap();
        let error = rewake_images::PageStore::open(&at, Kind::Pagemap, 1).unwrap_err();
        assert!(
            matches!(error, ImageError::NoPage { .. } | ImageError::Io { .. } | ImageError::Invalid { .. }),
            "{target}: {error}"
        );
        std::fs::remove_file(at.join("parent")).unwrap();
    }
}

#[test]
fn another_kind_is_named() {
    let writer = ImageWriter::new(Kind::Mm, Layout::V11, "m", Vec::new()).unwrap();
    let error = read_all(Kind::Core, &writer.into_inner().unwrap()).unwrap_err();
    assert!(error.to_string().contains("CORE"), "{error}");
}

#[test]
fn missing_fields_name_entry_and_offset() {
    let mut writer = ImageWriter::new(Kind::Files, Layout::V11, "f", Vec::new()).unwrap();
    writer.push_raw(&[], &[]).unwrap();
    let bytes = writer.into_inner().unwrap();
    let mut reader = ImageReader::new(Kind::Files, "f.img", &bytes[..], bytes.len() as u64).unwrap();
    let error = reader.next_message::<proto::FileEntry>().unwrap_err();
    assert_eq!(error.to_string(), "f.img: entry 0 at byte 12 lacks required field file_entry.type");
}

#[test]
fn unknown_fields_survive() {
    use prost::Message;
    let mut bytes = proto::PagemapHead { pages_id: 3 }.encode_to_vec();
    bytes.extend([0xfa, 0x07, 0x02, b'h', b'i']); // field 127, which nobody knows
    let mut writer = ImageWriter::new(Kind::Pagemap, Layout::V10, "p", Vec::new()).unwrap();
    writer.push_raw(&bytes, &[]).unwrap();
    let image = writer.into_inner().unwrap();
    let mut reader = ImageReader::new(Kind::Pagemap, "p", &image[..], image.len() as u64).unwrap();
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(framing::decode::<proto::PagemapHead>("p".as_ref(), &entry).unwrap().pages_id, 3);
    assert_eq!(entry.message, bytes);
}

proptest::proptest! {
    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec((proptest::collection::vec(0_u8.., 0..50), 0_u32..9), 0..20)) {
        let mut writer = ImageWriter::new(Kind::PipesData, Layout::V11, "p", Vec::new()).unwrap();
        for (bytes, id) in &entries {
            let len = u32::try_from(bytes.len()).unwrap();
            writer.push_with(&proto::PipeDataEntry { pipe_id: *id, bytes: len, ..Default::default() }, bytes).unwrap();
        }
        let image = writer.into_inner().unwrap();
        let mut reader = ImageReader::new(Kind::PipesData, "p", &image[..], image.len() as u64).unwrap();
        let mut read = Vec::new();
        while let Some((message, bytes)) = reader.next_message::<proto::PipeDataEntry>().unwrap() {
            read.push((bytes, message.pipe_id));
        }
        proptest::prop_assert_eq!(read, entries);
    }

    #[test]
    fn bytes_of_any_kind_are_no_danger(kind in 0..rewake_images::kind::KINDS.len(), bytes in proptest::collection::vec(0_u8.., 0..300)) {
        let row = &rewake_images::kind::KINDS[kind];
        let mut image = row.magic.to_le_bytes().to_vec();
        image.extend(bytes);
        let _ = read_all(row.kind, &image);
    }
}
