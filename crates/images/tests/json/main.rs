//! JSON of real images, byte for byte as CRIU's crit prints it, and the images made from it again.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};

use rewake_images::Layout;
use rewake_images::json::{self, Style};
use rewake_images::kind::{self, Head};

mod batches;
mod chunks;
mod kinds;
mod shortcuts;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The larger collection that lies beside the repository on some machines.
fn corpus() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/format/corpus");
    dir.is_dir().then_some(dir)
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_below(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// Every image with its golden JSON: plain, pretty.
fn golden_below(dir: &Path) -> Vec<(PathBuf, [(Style, String); 2])> {
    let mut files = Vec::new();
    files_below(dir, &mut files);
    let golden = |path: &Path, suffix: &str| {
        let mut name = path.file_name().unwrap().to_owned();
        name.push(suffix);
        std::fs::read_to_string(path.with_file_name(name)).ok()
    };
    let cases = files.into_iter().filter_map(|path| {
        let plain = golden(&path, ".raw.json")?;
        let pretty = golden(&path, ".json")?;
        Some((path, [(Style::plain(), plain), (Style::pretty(), pretty)]))
    });
    cases.collect()
}

fn decoded(path: &Path, style: Style) -> String {
    let mut out = Vec::new();
    json::decode_file(path, style, &mut out).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    out.push(b'\n');
    String::from_utf8(out).unwrap()
}

fn check_decoding(dir: &Path) -> usize {
    let cases = golden_below(dir);
    for (path, golden) in &cases {
        for (style, wanted) in golden {
            let found = decoded(path, *style);
            if found != *wanted {
                let at = found.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
                let context = |text: &str| {
                    text.get(at.saturating_sub(60)..).unwrap_or(text).chars().take(120).collect::<String>()
                };
                panic!(
                    "{} {style:?} byte {at}:\nfound  {}\nwanted {}",
                    path.display(),
                    context(&found),
                    context(wanted)
                );
            }
        }
    }
    cases.len()
}

#[test]
fn decodes_own_images() {
    assert!(check_decoding(&testdata()) > 0);
}

#[test]
fn decodes_the_corpus() {
    match corpus() {
        Some(dir) => assert!(check_decoding(&dir) > 900),
        None => println!("skipped: no corpus beside the repository"),
    }
}

fn encoded(name: &Path, json: &str) -> Vec<u8> {
    let mut out = Vec::new();
    json::encode_image(name, json.as_bytes(), &mut out).unwrap_or_else(|e| panic!("{e}"));
    out
}

/// Images of layout v1.0 lack the head word, which encoding always writes.
fn in_new_layout(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let image = json::open(path).unwrap();
    let head = match (image.layout(), image.kind().info().head) {
        (Layout::V10, Head::Common) => kind::HEAD_COMMON,
        (Layout::V10, Head::Service) => kind::HEAD_SERVICE,
        _ => return bytes,
    };
    [&head.to_le_bytes()[..], &bytes].concat()
}

fn check_encoding(dir: &Path) {
    for (path, golden) in golden_below(dir) {
        let wanted = in_new_layout(&path);
        for (style, json) in golden {
            let found = encoded(&path, &json);
            assert!(found == wanted, "{} {style:?}", path.display());
        }
    }
}

#[test]
fn encodes_own_images() {
    check_encoding(&testdata());
}

#[test]
fn encodes_the_corpus() {
    match corpus() {
        Some(dir) => check_encoding(&dir),
        None => println!("skipped: no corpus beside the repository"),
    }
}
