//! Commands on what container engines make: several checkpoints in one place.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn rewake(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rewake")).args(args).output().unwrap()
}

/// A pod of two containers, as a directory.
fn pod(dir: &Path) {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/testdata/pipe00-h");
    fs::write(dir.join("pod.options"), r#"{"version": 1, "containers": {"db": "k8s_db", "web": "k8s_web"}}"#)
        .unwrap();
    for name in ["web", "db"] {
        let images = dir.join(name).join("checkpoint");
        fs::create_dir_all(&images).unwrap();
        let config = format!(r#"{{"id": "0123-{name}", "name": "{name}", "runtime": "crun"}}"#);
        fs::write(dir.join(name).join("config.dump"), config).unwrap();
        let spec = r#"{"annotations": {"io.container.manager": "libpod"}}"#;
        fs::write(dir.join(name).join("spec.dump"), spec).unwrap();
        for entry in fs::read_dir(&case).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_str().unwrap().ends_with(".img") {
                fs::copy(entry.path(), images.join(entry.file_name())).unwrap();
            }
        }
    }
}

#[test]
fn several_checkpoints_in_one_archive() {
    let dir = tempfile::tempdir().unwrap();
    pod(dir.path());
    let path = dir.path().to_str().unwrap();
    let output = rewake(&["inspect", path, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> =
        json.as_array().unwrap().iter().map(|one| one["container"]["container_name"].clone()).collect();
    assert_eq!(names, ["db", "web"]);
    assert_eq!(json[0]["place"], "db/checkpoint");

    let text = String::from_utf8(rewake(&["inspect", path]).stdout).unwrap();
    assert!(text.contains("container db") && text.contains("container web"), "{text}");

    let web = format!("{path}::web");
    let output = rewake(&["inspect", &web, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["container"]["container_name"], "web", "one is no list");

    // What takes one checkpoint says which there are.
    let output = rewake(&["memory", "search", path, "ELF"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("several checkpoints") && error.contains("db, web"), "{error}");
    let output = rewake(&["memory", "search", &web, "ELF", "--max", "1"]);
    assert_eq!(output.status.code(), Some(0));
}
