//! `rewake validate`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};

fn validate(dir: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rewake")).arg("validate").arg(dir).args(options).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn whole_and_broken() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/testdata/pipe00-h");
    let whole = validate(&source, &[]);
    assert_eq!(whole.status.code(), Some(0));
    assert!(String::from_utf8(whole.stdout).unwrap().contains("nothing wrong"));
    let report = json(&validate(&source, &["--json"]));
    assert_eq!(report.get("findings"), Some(&serde_json::json!([])));

    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&source).unwrap().map(Result::unwrap) {
        if entry.file_name() != "mm-66.img" {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let broken = validate(dir.path(), &[]);
    assert_eq!(broken.status.code(), Some(1));
    assert_eq!(String::from_utf8(broken.stdout).unwrap(), "mm-66.img: there is no such image\n");
    let broken = validate(dir.path(), &["--json"]);
    assert_eq!(broken.status.code(), Some(1));
    let finding = serde_json::json!([{"image": "mm-66.img", "problem": "missing_image"}]);
    assert_eq!(json(&broken).get("findings"), Some(&finding));

    assert_eq!(validate(&dir.path().join("nowhere"), &[]).status.code(), Some(2));
}
