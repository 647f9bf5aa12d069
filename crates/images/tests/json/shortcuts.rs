//! The short cuts of the JSON reader, at every place where its buffer may end and in every order of keys.

use std::io::Read;

use super::encoded;
use rewake_images::json::encode_image;

/// Gives few bytes at a time, so that nothing is ever all in the buffer.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.0.len().min(self.1);
        buf[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

#[test]
fn byte_by_byte_the_image_is_the_same() {
    for name in ["pipe00-h/pstree.img", "pipe00-h/pagemap-66.img", "payloads/sk-queues.img"] {
        for suffix in [".raw.json", ".json"] {
            let path = super::testdata().join(format!("{name}{suffix}"));
            let json = std::fs::read(&path).unwrap();
            let mut out = Vec::new();
            encode_image(&path, Dribble(&json, 1), &mut out).unwrap();
            assert_eq!(out, std::fs::read(super::testdata().join(name)).unwrap(), "{name}{suffix}");
        }
    }
}

/// What was learned from one entry must not be taken for the next one where they differ. In small pieces nothing is learned.
#[test]
fn entries_that_differ_from_those_before() {
    let file = |id: &str, name: &str, more: &str| {
        format!(
            "{{\"type\": \"REG\", \"id\": {id}, \"reg\": {{\"id\": {id}, \"flags\": 0, \"pos\": 18446744073709551615, \"fown\": \
             {{\"uid\": 0, \"euid\": 0, \"signum\": 0, \"pid_type\": 0, \"pid\": 0}}, \"name\": \"{name}\"{more}}}}}"
        )
    };
    let long = "/long".repeat(60);
    let mut kinds = vec![
        file("1", "/a", ""),
        file("4294967295", "/b", ""),
        file("\"0x10\"", "/c", ""),
        file("7", "/d\\n", ""),
        file("7", "/e\u{e9}", ""),
        file("7", "", ""),
        file("7", &long, ""),
        file("7", "/f", ", \"mode\": 7"),
        file("7", "/f", ", \"unknown\": 7"),
        file("7", "/f", ", \"pos\": 7"),
        file("7", &long, ", \"mode\": 7"),
        file("7", "/g", "").replace("REG", "PIPE"),
        r#"{"type": "PIPE", "id": 5, "pipe": {"id": 5, "pipe_id": 9, "flags": 0, "fown": {"uid": 0, "euid": 0, "signum": 0,
          "pid_type": 0, "pid": 0}}}"#
            .to_owned(),
        r#"{"id": 5, "type": "PIPE"}"#.to_owned(),
        r#"{"type": "PIPE", "id": 5}"#.to_owned(),
    ];
    let broken: Vec<_> = kinds.iter().map(|entry| entry.replace(", ", ",\n      ")).collect();
    kinds.extend(broken);
    let mut state = 1_usize;
    let mut entries = String::new();
    for _ in 0..60 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let entry = &kinds[(state >> 33) % kinds.len()];
        // Alone, and in a row, so that it is learned.
        for _ in 0..(state >> 50) % 4 {
            entries.push_str(if entries.is_empty() { "" } else { ", " });
            entries.push_str(entry);
        }
    }
    let json = format!("{{\"magic\": \"FILES\", \"entries\": [{entries}]}}");
    let mut slowly = Vec::new();
    encode_image("json".as_ref(), Dribble(json.as_bytes(), 17), &mut slowly).unwrap();
    assert!(encoded("json".as_ref(), &json) == slowly);
    // Errors stand where they stood.
    let place = |json: &str, slow: bool| {
        let mut out = Vec::new();
        let found = if slow {
            encode_image("json".as_ref(), Dribble(json.as_bytes(), 17), &mut out)
        } else {
            encode_image("json".as_ref(), json.as_bytes(), &mut out)
        };
        found.unwrap_err().to_string()
    };
    for wrong in ["4294967296", "-1", "01", "1.", "[]", "\"\"", "true1"] {
        let bad = file("7", "/h", &format!(",\n\"mode\": {wrong}"));
        let json = json.replace("]}", &format!(", {bad}]}}"));
        assert_eq!(place(&json, false), place(&json, true), "{wrong}");
    }
}

#[test]
fn order_blanks_and_repeated_keys() {
    let image = |entry: &str| {
        let json = format!("{{\"magic\": \"PAGEMAP\", \"entries\": [{{\"pages_id\": 1}}, {entry}]}}");
        encoded("json".as_ref(), &json)
    };
    let wanted = image(r#"{"vaddr": 4096, "compat_nr_pages": 0, "flags": 4, "nr_pages": 2}"#);
    for entry in [
        r#"{"nr_pages": 2, "flags": 4, "compat_nr_pages": 0, "vaddr": 4096}"#,
        r#"{"vaddr":4096,"compat_nr_pages":0,"flags":4,"nr_pages":2}"#,
        "{ \"vaddr\" :4096\n,\r\n\t\"compat_nr_pages\"\t: 0 ,\n\n\"flags\": 4,\"nr_pages\": 2 }",
        r#"{"vaddr": 8192, "compat_nr_pages": 0, "flags": 4, "nr_pages": 2, "vaddr": 4096}"#,
        r#"{"vaddr": "0x1000", "compat_nr_pages": "0", "flags": "PE_PRESENT", "nr_pages": 2.5}"#,
        r#"{"vaddr": 4096, "unknown": [{"a": "}"}], "compat_nr_pages": 0, "flags": 4, "nr_pages": 2}"#,
    ] {
        assert_eq!(image(entry), wanted, "{entry}");
    }
}

#[test]
fn wrong_numbers_and_places() {
    for (entry, place, what) in [
        (r#"{"vaddr": 18446744073709551616, "compat_nr_pages": 0}"#, ":1:", "out of range"),
        (r#"{"vaddr": -1, "compat_nr_pages": 0}"#, ":1:", "out of range"),
        (r#"{"vaddr": 0, "compat_nr_pages": 4294967296}"#, ":1:", "out of range"),
        (r#"{"vaddr": 01, "compat_nr_pages": 0}"#, ":1:", "malformed number"),
        ("{\n\"vaddr\": 1,\n\"compat_nr_pages\": x}", ":3:20:", "where a value belongs"),
        (r#"{"vaddr": 0}"#, ":1:", "compat_nr_pages is required"),
        (r#"{"vaddr": 0 "compat_nr_pages": 0}"#, ":1:", "belongs"),
        (r#"{"vaddr": 0,, "compat_nr_pages": 0}"#, ":1:", "belongs"),
        (r#"{"vaddr": 0, }"#, ":1:", "comma before the end"),
        (r#"{"vaddr": 0, "compat_nr_pages": 0]"#, ":1:", "belongs"),
    ] {
        let json = format!("{{\"magic\": \"PAGEMAP\", \"entries\": [{{\"pages_id\": 1}}, {entry}]}}");
        let error = encode_image("json".as_ref(), json.as_bytes(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(what), "{entry}: {error}");
    }
}

#[test]
fn nesting_without_end_is_refused() {
    for open in ["[", "{\"a\": "] {
        let json = format!("{{\"unknown\": {}", open.repeat(100_000));
        let error = encode_image("json".as_ref(), json.as_bytes(), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("too deep"), "{error}");
    }
}

#[test]
fn unknown_names_are_named() {
    for (json, what) in [
        (r#"{"magic": "NOTHING", "entries": []}"#, "NOTHING"),
        (r#"{"magic": "FILES", "entries": [{"type": "NOFILE", "id": 1}]}"#, "NOFILE"),
        (r#"{"magic": "FILES", "entries": [{"type": 1, "id": 1}]}"#, "a number where"),
        (r#"{"magic": "MM", "entries": [{"vmas": []}]}"#, "an empty list"),
        (r#"{"entries": []}"#, "magic"),
        (r#"{"magic": "FILES"}"#, "entries"),
        (r#"{"magic": "FILES", "entries": []} x"#, "after the end"),
        (r#"{"magic": "FILES", "entries": [], "entries": []}"#, "twice"),
        ("{\"magic\": \"UTSNS\", \"entries\": [{\"nodename\": \"a", "without end"),
        (r#"{"magic": "UTSNS", "entries": [{"nodename": "\ud800", "domainname": ""}]}"#, "surrogate"),
    ] {
        let error = encode_image("json".as_ref(), json.as_bytes(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(what), "{json}: {error}");
    }
    let raw: &[u8] = b"{\"magic\": \"UTSNS\", \"entries\": [{\"nodename\": \"\xff\", \"domainname\": \"\"}]}";
    let error = encode_image("json".as_ref(), raw, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn truncated_anywhere() {
    for name in
        ["pipe00-h/pagemap-66.img.raw.json", "pipe00-h/pstree.img.json", "payloads/sk-queues.img.raw.json"]
    {
        let json = std::fs::read(super::testdata().join(name)).unwrap();
        let json = json.trim_ascii_end();
        for len in 0..json.len() {
            let cut = json.get(..len).unwrap();
            let error = encode_image(name.as_ref(), cut, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name}:")), "{len}: {error}");
        }
    }
}
