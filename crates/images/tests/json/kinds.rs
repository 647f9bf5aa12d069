//! Kinds of which CRIU's crit makes no JSON, or JSON that is wrong, or from whose JSON it makes no image.

use prost::Message;
use rewake_images::json::{Style, decode_image};
use rewake_images::{ImageReader, ImageWriter, Kind, Layout, proto};

use super::encoded;

fn image<M: Message>(kind: Kind, entries: &[(M, &[u8])]) -> Vec<u8> {
    let mut writer = ImageWriter::new(kind, Layout::V11, "image", Vec::new()).unwrap();
    for (entry, payload) in entries {
        writer.push_with(entry, payload).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Decodes both ways, and encodes back; returns the plain JSON.
fn both_ways(bytes: &[u8]) -> String {
    let json = |style| {
        let mut reader = ImageReader::detect("image", bytes, Some(bytes.len() as u64)).unwrap();
        let mut out = Vec::new();
        decode_image(&mut reader, style, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    for style in [Style::plain(), Style::pretty()] {
        assert_eq!(encoded("json".as_ref(), &json(style)), bytes, "{style:?}");
    }
    json(Style::plain())
}

fn shm(id: u32, size: u64, in_pagemaps: Option<bool>) -> proto::IpcShmEntry {
    let desc = proto::IpcDescEntry { key: id, id, ..Default::default() };
    proto::IpcShmEntry { desc, size, in_pagemaps, hugetlb_flag: None }
}

#[test]
fn several_segments_with_contents_in_pagemaps() {
    let json = both_ways(&image(
        Kind::IpcnsShm,
        &[(shm(1, 5000, Some(true)), &[]), (shm(2, 64, Some(true)), &[]), (shm(3, 1, Some(true)), &[])],
    ));
    assert_eq!(json.matches("\"extra\": \"\"").count(), 3, "{json}");
}

#[test]
fn segments_with_contents_of_their_own() {
    let json = both_ways(&image(
        Kind::IpcnsShm,
        &[(shm(1, 5, None), b"hello\0\0\0"), (shm(2, 4, Some(false)), b"data"), (shm(3, 9, Some(true)), b"")],
    ));
    assert!(json.contains("\"extra\": \"aGVsbG8=\\n\""), "{json}");
}

#[test]
fn maps_of_bpf() {
    let entry = proto::BpfmapDataEntry { map_id: 1, keys_bytes: 4, values_bytes: 8, count: 1 };
    let json = both_ways(&image(Kind::BpfmapData, &[(entry, b"\x01\0\0\0valuedat")]));
    assert!(json.contains("\"extra\": \"AQAAAHZhbHVlZGF0\\n\""), "{json}");
}

#[test]
fn queued_signals() {
    let siginfo = vec![7; 128];
    let json = both_ways(&image(Kind::SignalS, &[(proto::SiginfoEntry { siginfo }, &[])]));
    assert!(json.starts_with("{\"magic\": \"SIGNAL\", \"entries\": [{\"siginfo\": \"BwcH"), "{json}");
}

#[test]
fn pidfds_and_binary_formats() {
    let json =
        both_ways(&image(Kind::Pidfd, &[(proto::PidfdEntry { id: 9, nspid: 4, ..Default::default() }, &[])]));
    assert!(json.contains("\"nspid\": 4"), "{json}");
    let format = proto::BinfmtMiscEntry { name: "java".into(), enabled: true, ..Default::default() };
    let json = both_ways(&image(Kind::BinfmtMisc, &[(format, &[])]));
    assert!(json.contains("\"name\": \"java\""), "{json}");
}

/// Paths are bytes: what is no UTF-8 comes through JSON as it was.
#[test]
fn strings_that_are_not_utf_8() {
    let good = proto::RegFileEntry { id: 1, name: "/tmp/aXXb".into(), ..Default::default() };
    let mut entry =
        proto::FileEntry { r#type: 1, id: 1, reg: Some(good), ..Default::default() }.encode_to_vec();
    let at = entry.windows(2).position(|w| w == b"XX").unwrap();
    entry[at..at + 2].copy_from_slice(b"\xff\x80");
    let mut image = ImageWriter::new(Kind::Files, Layout::V11, "files", Vec::new()).unwrap();
    image.push_raw(&entry, &[]).unwrap();
    let json = both_ways(&image.into_inner().unwrap());
    assert!(json.contains(r#""/tmp/a\udcff\udc80b""#), "{json}");
}
