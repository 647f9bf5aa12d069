//! `rewake crit`, and the binary under the name `crit`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const REWAKE: &str = env!("CARGO_BIN_EXE_rewake");

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/testdata").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(testdata(name)).unwrap()
}

fn run(program: &Path, args: &[&OsStr]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

fn crit(args: &[&str]) -> Output {
    let args: Vec<&OsStr> = std::iter::once("crit").chain(args.iter().copied()).map(OsStr::new).collect();
    run(Path::new(REWAKE), &args)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn option_forms_of_crit() {
    let image = testdata("pipe00-h/pstree.img");
    let joined = format!("-i{}", text(&image));
    let equals = format!("--in={}", text(&image));
    for args in [
        &["decode", "-i", text(&image)][..],
        &["decode", &joined],
        &["decode", &equals],
        &["decode", "--in", text(&image)],
    ] {
        assert_eq!(crit(args).stdout, golden("pipe00-h/pstree.img.raw.json"), "{args:?}");
    }
    for args in [
        &["decode", "--pretty", "-i", text(&image)][..],
        &["decode", "-i", text(&image), "--pre"],
        &["show", text(&image)],
    ] {
        assert_eq!(crit(args).stdout, golden("pipe00-h/pstree.img.json"), "{args:?}");
    }
    let short = crit(&["show", "--no", text(&testdata("payloads/sk-queues.img"))]);
    assert!(String::from_utf8(short.stdout).unwrap().contains("\"... <"));
}

#[test]
fn files_and_streams() {
    let dir = tempfile::tempdir().unwrap();
    let (json, image) = (dir.path().join("json"), dir.path().join("image"));
    let source = testdata("payloads/sk-queues.img");
    assert!(crit(&["decode", "-i", text(&source), "-o", text(&json)]).status.success());
    let mut wanted = golden("payloads/sk-queues.img.raw.json");
    assert_eq!(wanted.pop(), Some(b'\n'));
    assert_eq!(std::fs::read(&json).unwrap(), wanted, "no newline in a file");
    assert!(crit(&["encode", "-i", text(&json), "-o", text(&image)]).status.success());
    assert_eq!(std::fs::read(&image).unwrap(), golden("payloads/sk-queues.img"));

    let piped = Command::new(REWAKE)
        .args(["crit", "decode"])
        .stdin(std::fs::File::open(&source).unwrap())
        .output()
        .unwrap();
    assert_eq!(piped.stdout, golden("payloads/sk-queues.img.raw.json"));
    let piped = Command::new(REWAKE)
        .args(["crit", "encode"])
        .stdin(std::fs::File::open(&json).unwrap())
        .output()
        .unwrap();
    assert_eq!(piped.stdout, golden("payloads/sk-queues.img"));
}

#[test]
fn info_counts_entries() {
    let info = |name: &str| String::from_utf8(crit(&["info", text(&testdata(name))]).stdout).unwrap();
    assert_eq!(info("pipe00-h/pstree.img"), "{\n    \"magic\": \"PSTREE\",\n    \"count\": 2\n}\n");
    assert!(info("payloads/ipcns-msg-11.img").contains("\"count\": 1\n"));
    assert!(info("payloads/ghost-file-1.img").contains("GHOST_FILE"));
}

#[test]
fn under_the_name_crit_it_is_crit() {
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("crit");
    std::os::unix::fs::symlink(REWAKE, &tool).unwrap();
    let run = |args: &[&str]| run(&tool, &args.iter().map(OsStr::new).collect::<Vec<_>>());
    let image = testdata("pipe00-h/pstree.img");
    let shown = run(&["show", text(&image)]);
    assert_eq!(shown.stdout, golden("pipe00-h/pstree.img.json"));
    assert_eq!(shown.status.code(), Some(0));
    let pages = testdata("pipe00-h/inventory.img.json");
    let raw = run(&["decode", "-i", text(&pages)]);
    assert_eq!(raw.status.code(), Some(1));
    assert!(String::from_utf8(raw.stderr).unwrap().contains("magic"));
    assert_eq!(run(&[]).status.code(), Some(1));
    assert_eq!(run(&["bogus"]).status.code(), Some(2));
    assert_eq!(run(&["--version"]).status.code(), Some(0));
    assert_eq!(crit(&["decode", "-i", text(&pages)]).status.code(), Some(2), "rewake's own status");
}
