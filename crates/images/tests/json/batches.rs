//! Images with so many entries that several threads print them, which must not tell.

use std::io::Read;

use rewake_images::json::{Style, decode_image};
use rewake_images::{ImageError, ImageReader, ImageWriter, Kind, Layout};

const ENTRIES: u64 = 20_000;

/// Entries of `files.img`: most as they always are, some as no tool writes them, one longer than a batch.
fn messages() -> Vec<Vec<u8>> {
    let usual = |index: u64| {
        let mut message = b"\x08\x01\x10".to_vec();
        prost::encoding::encode_varint(index, &mut message);
        let mut file = b"\x08\x01\x10\x00\x18\x00\x22\x04\x08\x00\x10\x00\x32\x02".to_vec();
        file.extend(index.to_le_bytes().map(|byte| byte & 0x7f));
        file.truncate(16);
        message.extend(b"\x1a\x10");
        message.extend(file);
        message
    };
    let odd: [&[u8]; 7] = [
        b"\x10\x07\x08\x01",                                 // the type behind the id
        b"\x08\x01\x10\x01\x10\x02",                         // two ids: the last one counts
        b"\x08\x63\x10\x07",                                 // a type without name is left out
        b"\x08\x01\x10\x07\xd2\x3e\x01\x00",                 // a field without name
        b"\x88\x80\x00\x01\x10\x07",                         // a key longer than need be
        b"\x08\x01\x10\x07\x1a\x02\x08\x01\x1a\x02\x10\x05", // a message in two pieces
        b"",
    ];
    let mut long = b"\x08\x01\x10\x07\x1a\x84\x80\x40\x32\x80\x80\x40".to_vec();
    long.resize(long.len() + (1 << 20), b'x');
    (0..ENTRIES)
        .map(|index| match (index, usize::try_from(index % 40)) {
            (15_000, _) => long.clone(),
            (_, Ok(place)) if index > ENTRIES / 2 && place < odd.len() => odd[place].to_vec(),
            _ => usual(index),
        })
        .collect()
}

fn image(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = ImageWriter::new(Kind::Files, Layout::V11, "image", Vec::new()).unwrap();
    messages.iter().for_each(|message| writer.push_raw(message, &[]).unwrap());
    writer.into_inner().unwrap()
}

fn decode(image: impl Read, len: Option<usize>, style: Style) -> Result<String, ImageError> {
    let mut reader = ImageReader::detect("image", image, len.map(|len| len as u64))?;
    let mut out = Vec::new();
    decode_image(&mut reader, style, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// Gives pieces of odd lengths.
struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.by_ref().take(4_093).read(buf)
    }
}

#[test]
fn many_entries_are_printed_as_each_alone() {
    let messages = messages();
    let image_of_all = image(&messages);
    for style in [Style::plain(), Style::pretty()] {
        let empty = decode(&*image(&[]), None, style).unwrap();
        let (begin, end) = if style.pretty { ("[\n        ", "\n    ]\n}") } else { ("[", "]}") };
        let (before, _) = empty.split_once('[').unwrap();
        let separator = if style.pretty { ",\n        " } else { ", " };
        let alone = |message: &Vec<u8>| {
            let json = decode(&*image(std::slice::from_ref(message)), None, style).unwrap();
            json.strip_prefix(before)
                .and_then(|json| json.strip_prefix(begin)?.strip_suffix(end))
                .unwrap()
                .to_owned()
        };
        let wanted = messages.iter().map(alone).collect::<Vec<_>>().join(separator);
        let wanted = format!("{before}{begin}{wanted}{end}");
        assert!(decode(&*image_of_all, Some(image_of_all.len()), style).unwrap() == wanted, "{style:?}");
        assert!(
            decode(Pieces(&image_of_all), None, style).unwrap() == wanted,
            "{style:?}, a stream in pieces"
        );
    }
}

/// What the reader of single entries says of an image that is wrong in a later batch.
fn error_of_one_by_one(image: &[u8], len: Option<usize>) -> Option<String> {
    let reader = ImageReader::detect("image", image, len.map(|len| len as u64)).unwrap();
    reader.filter_map(Result::err).map(|error| error.to_string()).next()
}

#[test]
fn cut_short_in_a_later_batch() {
    let image = image(&messages());
    for len in (image.len() / 3..image.len()).step_by(image.len() / 11) {
        let cut = &image[..len];
        for known in [Some(len), None, Some(image.len())] {
            let wanted = error_of_one_by_one(cut, known);
            let found = decode(cut, known, Style::plain()).err().map(|error| error.to_string());
            // Where the length was not known before, this one also counts what is there of the entry.
            let exact = known == Some(len);
            let told = |error: Option<String>| {
                error
                    .map(|e| if exact { e } else { e.split(" wanted").next().unwrap_or_default().to_owned() })
            };
            assert_eq!(told(found), told(wanted), "{len}, {known:?}");
        }
    }
}

#[test]
fn the_first_wrong_entry_is_named() {
    let mut messages = messages();
    for index in [18_000, 19_990] {
        messages[index] = b"\x08".to_vec();
    }
    let mut image = image(&messages);
    let offset = 8 + messages[..18_000].iter().map(|message| message.len() + 4).sum::<usize>() + 4;
    // The end is wrong as well, but comes later.
    image.pop();
    let error = decode(&*image, Some(image.len()), Style::plain()).unwrap_err().to_string();
    assert!(error.contains(&format!("entry 18000 at byte {offset} is no file_entry")), "{error}");
}
