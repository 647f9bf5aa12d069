//! The reader of entries on any bytes: what it reads is written back the same, from a file as from a stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewake_images::{Entry, ImageReader, ImageWriter};

fn read(data: &[u8], len: Option<u64>) -> Option<(Vec<Entry>, bool, Vec<u8>)> {
    let mut reader = ImageReader::detect("image", data, len).ok()?;
    let mut writer = ImageWriter::new(reader.kind(), reader.layout(), "image", Vec::new()).unwrap();
    let mut entries = Vec::new();
    let whole = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => {
                writer.push_raw(&entry.message, &entry.payload).unwrap();
                entries.push(entry);
            }
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert!(reader.next_entry().unwrap().is_none(), "it ends after an error");
    Some((entries, whole, writer.into_inner().unwrap()))
}

fuzz_target!(|data: &[u8]| {
    let sized = read(data, Some(data.len() as u64));
    let stream = read(data, None);
    let Some((entries, whole, written)) = sized else { return assert!(stream.is_none()) };
    let (streamed, stream_whole, _) = stream.expect("the first words are the same");
    assert_eq!((&entries, whole), (&streamed, stream_whole));
    // A head word may stand where none is needed, or be the other one.
    let body = |image: &[u8], magic: usize| image.get(magic..).map(<[u8]>::to_vec);
    let head = data.len().min(if has_head(data) { 8 } else { 4 });
    let own_head = if has_head(&written) { 8 } else { 4 };
    let (found, wanted) = (body(&written, own_head).unwrap(), body(data, head).unwrap());
    assert!(wanted.starts_with(&found));
    assert!(!whole || wanted == found);
});

fn has_head(data: &[u8]) -> bool {
    use rewake_images::kind::{HEAD_COMMON, HEAD_SERVICE};
    [HEAD_COMMON, HEAD_SERVICE].iter().any(|head| data.starts_with(&head.to_le_bytes()))
}
