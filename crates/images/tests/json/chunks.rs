//! Images large enough for several threads: the text is cut, and what comes of it must not tell.

use std::fmt::Write as _;
use std::io::Read;

use rewake_images::json::{self, Style, encode_image};

use super::encoded;

/// Enough text for some dozens of chunks.
const ENTRIES: u64 = 20_000;

fn entries(between: &str, entry: impl Fn(u64) -> String) -> String {
    let mut text = String::new();
    for index in 0..ENTRIES {
        write!(text, "{}{}", if index == 0 { "" } else { between }, entry(index)).unwrap();
    }
    text
}

fn file(index: u64, name: &str) -> String {
    format!(
        "{{\"type\": \"REG\", \"id\": {index}, \"reg\": {{\"id\": {index}, \"flags\": 0, \"pos\": {index}, \"fown\": \
         {{\"uid\": 0, \"euid\": 0, \"signum\": 0, \"pid_type\": 0, \"pid\": 0}}, \"name\": \"{name}\"}}}}"
    )
}

fn decoded(image: &[u8], style: Style) -> String {
    let mut reader = rewake_images::ImageReader::detect("image", image, Some(image.len() as u64)).unwrap();
    let mut out = Vec::new();
    json::decode_image(&mut reader, style, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Gives pieces of odd lengths.
struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.by_ref().take(4_093).read(buf)
    }
}

#[test]
fn all_forms_make_the_same_image() {
    let text = entries(", ", |index| file(index, "/a"));
    let json = format!("{{\"magic\": \"FILES\", \"entries\": [{text}]}}");
    let image = encoded("json".as_ref(), &json);
    assert_eq!(decoded(&image, Style::plain()), json);
    let pretty = decoded(&image, Style::pretty());
    assert!(encoded("json".as_ref(), &pretty) == image, "pretty");
    let dense = json.replace(", ", ",").replace(": ", ":");
    assert!(encoded("json".as_ref(), &dense) == image, "without blanks");
    let late = format!("{{\"entries\": [{text}], \"magic\": \"FILES\"}}");
    assert!(encoded("json".as_ref(), &late) == image, "the magic behind the entries");
    let mut out = Vec::new();
    encode_image("json".as_ref(), Pieces(json.as_bytes()), &mut out).unwrap();
    assert!(out == image, "in pieces");
}

#[test]
fn text_that_only_looks_like_an_entry_is_none() {
    for between in [", ", ",\n"] {
        // What separates entries, inside a string; from the middle on, so that threads run already.
        let trap = |index| if index > ENTRIES / 2 { "}, {\\\"type\\\": \\\"REG\\\"" } else { "/a" };
        let plain = entries(between, |index| file(index, trap(index)));
        let json = format!("{{\"magic\": \"FILES\", \"entries\": [{plain}]}}");
        let image = encoded("json".as_ref(), &json);
        assert_eq!(decoded(&image, Style::plain()), json.replace(",\n", ", "));
        // An entry that holds objects with the same first key, far longer than a chunk.
        let inner = entries(between, |_| "{\"type\": 1}".to_owned());
        let nested = plain.replacen(
            &file(ENTRIES / 2, "/a"),
            &file(ENTRIES / 2, "/a").replacen('{', &format!("{{\"unknown\": [{inner}], "), 1),
            1,
        );
        assert!(nested.len() > plain.len());
        let json = format!("{{\"magic\": \"FILES\", \"entries\": [{nested}], \"more\": [{{\"type\": 1}}]}}");
        assert!(encoded("json".as_ref(), &json) == image, "nested");
    }
}

#[test]
fn an_error_is_where_it_stands() {
    for (between, wrong) in [(", ", 19_000), (",\n", 12_000), (",\n", 19_999)] {
        let json = entries(between, |index| match index {
            _ if index == wrong => "{\"vaddr\": oops}".to_owned(),
            _ => format!("{{\"vaddr\": {index}, \"compat_nr_pages\": 1}}"),
        });
        let json = format!("{{\"magic\": \"PAGEMAP\", \"entries\": [{{\"pages_id\": 1}}{between}{json}]}}");
        let at = json.find("oops").unwrap();
        let (line, start) =
            (json[..at].matches('\n').count() + 1, json[..at].rfind('\n').map_or(0, |n| n + 1));
        let mut out = Vec::new();
        let error = encode_image("json".as_ref(), json.as_bytes(), &mut out).unwrap_err().to_string();
        assert!(error.starts_with(&format!("json:{line}:{}: ", at - start + 1)), "{error}");
    }
}

#[test]
fn cut_short_in_a_later_chunk() {
    let json = entries(", ", |index| file(index, "/a"));
    let json = format!("{{\"magic\": \"FILES\", \"entries\": [{json}]}}");
    for len in (json.len() / 2..json.len()).step_by(json.len() / 31).chain(json.len() - 3..json.len()) {
        let error = encode_image("json".as_ref(), &json.as_bytes()[..len], &mut Vec::new()).unwrap_err();
        let place = error.to_string().split(':').nth(2).and_then(|column| column.parse::<usize>().ok());
        assert!(place.is_some_and(|place| place <= len + 1), "{len}: {error}");
    }
}
