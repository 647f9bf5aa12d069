//! Libraries as a compiler and a linker make them. Without a C compiler these tests print a skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rewake_filecheck::{Cookie, Expected, Hashing, Level, Mismatch, Policy, Role, Verdict, verify_all};
use tempfile::TempDir;

const CODE: Role = Role { executable: true, writable: false };

/// Where libraries are built; `None`, in print, without a compiler.
fn workshop() -> Option<TempDir> {
    if Command::new("cc").arg("--version").output().is_err() {
        println!("skipped: there is no C compiler");
        return None;
    }
    Some(TempDir::new().unwrap())
}

/// Builds `name`, whose one function returns `value`.
fn build(dir: &Path, name: &str, value: u8, options: &[&str]) -> PathBuf {
    let (source, out) = (dir.join("source.c"), dir.join(name));
    fs::write(&source, format!("int answer(void) {{ return {value}; }}\n")).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&out).arg(&source).args(options);
    assert!(cc.status().unwrap().success());
    out
}

fn expect(root: &Path, name: &str, level: Level) -> Expected {
    let parts = level.parts(CODE);
    let cookie = Cookie::of_path(&root.join(name), parts, &mut Hashing::unlimited()).unwrap();
    Expected { id: 1, path: Path::new("/").join(name), cookie, role: CODE, users: Vec::new() }
}

fn differences(root: &Path, entry: &Expected, level: Level) -> Vec<Mismatch> {
    let report = verify_all(std::slice::from_ref(entry), root, &Policy::at(level)).unwrap();
    report.findings.into_iter().map(|finding| finding.what).collect()
}

#[test]
fn build_ids_of_all_lengths_and_a_changed_byte_of_code() {
    let Some(dir) = workshop() else { return };
    for length in [8, 16, 20, 64] {
        let id = |byte: &str| format!("-Wl,--build-id=0x{}", byte.repeat(length));
        build(dir.path(), "lib.so", 1, &[&id("11")]);
        let entry = expect(dir.path(), "lib.so", Level::Auto);
        assert_eq!(entry.cookie.build_id.as_ref().unwrap().as_bytes(), vec![0x11; length]);
        assert_eq!(differences(dir.path(), &entry, Level::Auto), []);

        build(dir.path(), "lib.so", 2, &[&id("22")]);
        let [Mismatch::BuildId { found: Some(found), .. }, Mismatch::Blake3 { .. }] =
            &differences(dir.path(), &entry, Level::Auto)[..]
        else {
            panic!("{length}: {:?}", differences(dir.path(), &entry, Level::Auto));
        };
        assert_eq!(found.as_bytes(), vec![0x22; length]);

        // The same id over other code: only the contents tell.
        build(dir.path(), "lib.so", 2, &[&id("11")]);
        assert_eq!(differences(dir.path(), &entry, Level::BuildId), []);
        let found = differences(dir.path(), &entry, Level::Auto);
        assert!(matches!(found[..], [Mismatch::Blake3 { .. }]), "{length}: {found:?}");
    }
}

#[test]
fn linkers_own_build_ids() {
    let Some(dir) = workshop() else { return };
    for (style, length) in [("md5", 16), ("uuid", 16), ("sha1", 20)] {
        let path = build(dir.path(), "lib.so", 1, &[&format!("-Wl,--build-id={style}")]);
        let entry = expect(dir.path(), "lib.so", Level::BuildId);
        assert_eq!(entry.cookie.build_id.as_ref().unwrap().as_bytes().len(), length, "{style}");
        // Debug information goes, the build-id stays.
        if Command::new("strip").arg(&path).status().is_ok_and(|status| status.success()) {
            let stripped = expect(dir.path(), "lib.so", Level::BuildId);
            assert_eq!(stripped.cookie.build_id, entry.cookie.build_id);
            assert!(stripped.cookie.size < entry.cookie.size);
        }
    }
}

#[test]
fn a_stripped_build_id_differs_from_the_one_recorded() {
    let Some(dir) = workshop() else { return };
    let path = build(dir.path(), "lib.so", 1, &["-Wl,--build-id=sha1"]);
    let mut entry = expect(dir.path(), "lib.so", Level::BuildId);
    build(dir.path(), "lib.so", 1, &["-Wl,--build-id=none"]);
    entry.cookie.size = Some(fs::metadata(&path).unwrap().len());
    let found = differences(dir.path(), &entry, Level::BuildId);
    assert!(matches!(found[..], [Mismatch::BuildId { found: None, .. }]), "{found:?}");
    // The other way round: none was recorded, so there is none to compare.
    let without = expect(dir.path(), "lib.so", Level::BuildId);
    assert_eq!(without.cookie.build_id, None);
    let report = verify_all(&[without], dir.path(), &Policy::at(Level::BuildId)).unwrap();
    assert_eq!(report.verdict(), Verdict::Same);
}
