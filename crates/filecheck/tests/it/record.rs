//! Recording as a policy asks, and stamping a checkpoint that has less.

use std::fs;
use std::path::Path;

use rewake_filecheck::open::Held;
use rewake_filecheck::record::asked;
use rewake_filecheck::{
    Budget, Cookie, CookieError, Expected, Hashing, Level, Mismatch, Part, Parts, Policy, Role, Verdict,
    record, stamp, verify_all,
};
use tempfile::TempDir;

use crate::elf::Elf;

const CODE: Role = Role { executable: true, writable: false };

#[test]
fn what_is_asked_of_whom() {
    let mut policy = Policy::default();
    policy.add_rules("grow:/var/log/**\nwarn:/opt/**").unwrap();
    let asked = |path: &str, role| asked(&policy, Path::new(path), role);
    let everything = Parts { blake3: true, verity: true, ..Parts::BUILD_ID };
    assert_eq!(asked("/lib/x.so", CODE), everything);
    assert_eq!(asked("/opt/x.so", CODE), everything);
    assert_eq!(asked("/var/log/x.so", CODE), Parts::SIZE);
    assert_eq!(asked("/data", Role::default()), Parts::BUILD_ID);
    assert_eq!(asked("/jit", Role { executable: true, writable: true }), Parts::BUILD_ID);
    for level in ["checksum", "blake3"] {
        let level: Level = level.parse().unwrap();
        assert_eq!(level.parts(Role { executable: false, writable: true }), Parts::BUILD_ID);
        assert_ne!(level.parts(Role::default()), Parts::BUILD_ID);
    }
}

#[test]
fn one_part_that_cannot_be_had_does_not_lose_the_others() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("lib.so");
    fs::write(&path, Elf::with_build_id(true, false, &[5; 20]).bytes()).unwrap();
    let held = Held::at(&path).unwrap();
    let mut hashing = Hashing::unlimited().with_budget(Budget { bytes: Some(8), until: None });
    let recorded = record(&held, Level::Auto.parts(CODE), &mut hashing);
    assert_eq!(recorded.cookie.build_id.as_ref().unwrap().as_bytes(), [5; 20]);
    assert_eq!((recorded.cookie.blake3, recorded.cookie.size.is_some()), (None, true));
    assert!(matches!(recorded.lacking[..], [(Part::Blake3, CookieError::BudgetBytes { .. })]));
    let findings = recorded.findings(3, &path);
    assert!(matches!(findings[0].what, Mismatch::Unreadable { part: Part::Blake3, .. }));
}

#[test]
fn a_checkpoint_of_another_tool_is_stamped() {
    let dir = TempDir::new().unwrap();
    let image = |id| Elf::with_build_id(true, false, &[id; 20]).bytes();
    let mut entries = Vec::new();
    for (id, name) in (1..).zip(["good.so", "upgraded.so", "gone.so"]) {
        let path = dir.path().join(name);
        fs::write(&path, image(1)).unwrap();
        let cookie = Cookie::of_path(&path, Parts::BUILD_ID, &mut Hashing::unlimited()).unwrap();
        let path = Path::new("/").join(name);
        entries.push(Expected { id, path, cookie, role: CODE, ..Expected::default() });
    }
    fs::write(dir.path().join("upgraded.so"), image(2)).unwrap();
    fs::remove_file(dir.path().join("gone.so")).unwrap();
    let before = entries.clone();

    let policy = Policy::default();
    let (own, report, _) = stamp(&mut entries, dir.path(), &policy, Hashing::unlimited()).unwrap();
    let found: Vec<(u32, &Mismatch)> =
        report.findings.iter().map(|finding| (finding.id, &finding.what)).collect();
    assert!(matches!(found[..], [(2, Mismatch::BuildId { .. }), (3, Mismatch::Missing)]), "{report}");
    assert_eq!(own.len(), 1);
    assert_eq!(entries[0].cookie.blake3.unwrap().as_bytes(), blake3::hash(&image(1)).as_bytes());
    assert_eq!(
        entries[1..].iter().map(|entry| &entry.cookie).collect::<Vec<_>>(),
        [&before[1].cookie, &before[2].cookie]
    );

    // Code changed, size and build-id kept: the stamp notices, the original cookie did not.
    let mut patched = image(1);
    *patched.last_mut().unwrap() ^= 1;
    fs::write(dir.path().join("good.so"), patched).unwrap();
    assert_eq!(verify_all(&before[..1], dir.path(), &policy).unwrap().verdict(), Verdict::Same);
    assert_eq!(verify_all(&entries[..1], dir.path(), &policy).unwrap().verdict(), Verdict::Differs);
}
