//! Images of every kind to JSON. If an image can be made from that JSON, it tells the same JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rewake_images::ImageReader;
use rewake_images::json::{Style, count_entries, decode_image, encode_image};

fn decode(data: &[u8], style: Style) -> Option<Vec<u8>> {
    let mut json = Vec::new();
    let mut image = ImageReader::detect("image", data, Some(data.len() as u64)).ok()?;
    decode_image(&mut image, style, &mut json).ok().map(|()| json)
}

fuzz_target!(|data: &[u8]| {
    let plain = decode(data, Style::plain());
    let pretty = decode(data, Style::pretty());
    assert_eq!(plain.is_some(), pretty.is_some());
    let _ = decode(data, Style { omit_payload: true, ..Style::pretty() });
    if let Ok(mut image) = ImageReader::detect("image", data, Some(data.len() as u64)) {
        let _ = count_entries(&mut image);
    }
    let Some(plain) = plain else { return };
    let mut image = Vec::new();
    if encode_image("json".as_ref(), plain.as_slice(), &mut image).is_ok() {
        let again = decode(&image, Style::plain()).expect("what is encoded can be read");
        assert!(again == plain, "{}\n{}", String::from_utf8_lossy(&plain), String::from_utf8_lossy(&again));
    }
});
