//! JSON of any kind, or none, to images: what is accepted can be read, and tells itself again.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use rewake_images::ImageReader;
use rewake_images::json::{Style, decode_image, encode_image};

/// Gives a few bytes at a time, so that the reader's buffer ends everywhere.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.0.len().min(113).min(buf.len());
        let (now, later) = self.0.split_at(len);
        buf[..len].copy_from_slice(now);
        self.0 = later;
        Ok(len)
    }
}

fuzz_target!(|data: &[u8]| {
    let (mut image, mut dribbled) = (Vec::new(), Vec::new());
    let done = encode_image("json".as_ref(), data, &mut image);
    let other = encode_image("json".as_ref(), Dribble(data), &mut dribbled);
    assert_eq!(done.is_ok(), other.is_ok());
    if done.is_err() {
        return;
    }
    assert_eq!(image, dribbled);
    let mut json = Vec::new();
    let mut reader = ImageReader::detect("image", image.as_slice(), Some(image.len() as u64)).unwrap();
    decode_image(&mut reader, Style::plain(), &mut json).unwrap();
    let mut again = Vec::new();
    encode_image("json".as_ref(), json.as_slice(), &mut again).unwrap();
    assert_eq!(image, again);
});
