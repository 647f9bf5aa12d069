//! Verification: every difference, every exception, other roots.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rewake_filecheck::cookie::Verity;
use rewake_filecheck::policy::PathRule;
use rewake_filecheck::{
    Budget, Cookie, CrcMode, Expected, Hashing, Level, Mismatch, Part, Parts, Policy, Report, Role, Severity,
    Use, Verdict, Verifier, verify_all,
};
use tempfile::TempDir;

use crate::elf::Elf;

const CODE: Role = Role { executable: true, writable: false };

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn write(&self, name: &str, contents: &[u8]) {
        fs::write(self.dir.path().join(name), contents).unwrap();
    }

    /// What a dump would have recorded of a file.
    fn expect(&self, id: u32, name: &str, role: Role, level: Level) -> Expected {
        let path = self.dir.path().join(name);
        let cookie = Cookie::of_path(&path, level.parts(role), &mut Hashing::unlimited()).unwrap();
        let users = vec![Use::Descriptor { pid: 7, fd: id }];
        Expected { id, path: Path::new("/").join(name), cookie, users, role }
    }

    fn verify(&self, entries: &[Expected], policy: &Policy) -> Report {
        verify_all(entries, self.dir.path(), policy).unwrap()
    }
}

fn library(id: u8, code: &[u8]) -> Vec<u8> {
    let mut elf = Elf::with_build_id(true, false, &[id; 20]);
    elf.tail = code.to_vec();
    elf.bytes()
}

fn whats(report: &Report) -> Vec<&Mismatch> {
    report.findings.iter().map(|finding| &finding.what).collect()
}

#[test]
fn the_same_files_are_the_same_at_every_level() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    place.write("data", b"data");
    for level in ["filesize", "buildid", "checksum", "checksum=full", "checksum=period:3", "blake3", "auto"] {
        let level: Level = level.parse().unwrap();
        let entries =
            [place.expect(1, "lib.so", CODE, level), place.expect(2, "data", Role::default(), level)];
        let report = place.verify(&entries, &Policy::at(level));
        assert_eq!((report.verdict(), report.findings.len(), report.files), (Verdict::Same, 0, 2), "{level}");
    }
}

#[test]
fn every_difference_is_listed() {
    let place = Place::new();
    for name in ["gone", "grown", "flipped", "rebuilt", "stripped", "mode", "fifo"] {
        place.write(name, &library(1, b"old!"));
    }
    let names = ["gone", "grown", "flipped", "rebuilt", "stripped", "mode", "fifo"];
    let entries: Vec<Expected> =
        (1..).zip(names).map(|(id, name)| place.expect(id, name, CODE, Level::Auto)).collect();
    fs::remove_file(place.dir.path().join("gone")).unwrap();
    place.write("grown", &library(1, b"old!+"));
    place.write("flipped", &library(1, b"old?"));
    place.write("rebuilt", &library(2, b"old!"));
    place.write("stripped", &vec![0; library(1, b"old!").len()]);
    fs::set_permissions(place.dir.path().join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(place.dir.path().join("fifo")).unwrap();
    nix::unistd::mkfifo(&place.dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    let report = place.verify(&entries, &Policy::default());
    assert_eq!(report.verdict(), Verdict::Differs);
    let size = library(1, b"old!").len() as u64;
    let found: Vec<(u32, &Mismatch)> =
        report.findings.iter().map(|finding| (finding.id, &finding.what)).collect();
    assert_eq!(found.len(), 9, "{report}");
    assert_eq!(found[0], (1, &Mismatch::Missing));
    assert_eq!(found[1], (2, &Mismatch::Size { expected: size, found: size + 1 }));
    assert!(matches!(found[2], (3, Mismatch::Blake3 { .. })));
    assert!(matches!(found[3], (4, Mismatch::BuildId { found: Some(_), .. })));
    assert!(matches!(found[4], (4, Mismatch::Blake3 { .. })));
    assert!(matches!(found[5], (5, Mismatch::BuildId { found: None, .. })));
    assert!(matches!(found[6], (5, Mismatch::Blake3 { .. })));
    assert!(matches!(found[7], (6, Mismatch::Mode { found: 0o100_600, .. })));
    assert_eq!(found[8], (7, &Mismatch::Type { expected: "regular file", found: "fifo" }));
    let text = report.to_string();
    for name in names {
        assert!(text.contains(&format!("/{name}\n    descriptor ")), "{text}");
    }
    assert!(text.contains(&format!("size differs: expected {size}, found {}", size + 1)), "{text}");
    assert!(text.ends_with("7 files checked: 7 differ, 0 could not be checked"), "{text}");
}

#[test]
fn a_level_compares_what_it_is_named_after() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    let all = Parts { build_id: true, checksum: Some(CrcMode::Full), blake3: true, verity: true };
    let path = place.dir.path().join("lib.so");
    let mut entry = place.expect(1, "lib.so", CODE, Level::FileSize);
    entry.cookie = Cookie::of_path(&path, all, &mut Hashing::unlimited()).unwrap();
    place.write("lib.so", &library(2, b"c0de"));
    let at = |level: &str| {
        let report = place.verify(std::slice::from_ref(&entry), &Policy::at(level.parse().unwrap()));
        report.findings.iter().map(|finding| finding.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(at("filesize"), []);
    assert!(matches!(at("buildid")[..], [Mismatch::BuildId { .. }]));
    assert!(matches!(at("checksum")[..], [Mismatch::BuildId { .. }, Mismatch::Checksum { .. }]));
    assert!(matches!(at("blake3")[..], [Mismatch::BuildId { .. }, Mismatch::Blake3 { .. }]));
    assert!(matches!(
        at("auto")[..],
        [Mismatch::BuildId { .. }, Mismatch::Checksum { .. }, Mismatch::Blake3 { .. }]
    ));
}

#[test]
fn what_was_not_recorded_is_not_passed_in_silence() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    let entry = place.expect(1, "lib.so", CODE, Level::BuildId);
    let report = place.verify(std::slice::from_ref(&entry), &Policy::at(Level::Blake3));
    assert_eq!(whats(&report), [&Mismatch::NotRecorded { part: Part::Blake3 }]);
    assert_eq!(report.verdict(), Verdict::Unchecked);
    let report = place.verify(std::slice::from_ref(&entry), &Policy::at("checksum".parse().unwrap()));
    assert_eq!(report.verdict(), Verdict::Unchecked);
    // By default a checkpoint that another tool made is fine, with a note.
    let report = place.verify(std::slice::from_ref(&entry), &Policy::default());
    assert_eq!((report.verdict(), report.findings[0].severity), (Verdict::Same, Severity::Note));
    assert!(report.to_string().starts_with("1 program files have no BLAKE3"), "{report}");
}

#[test]
fn exceptions() {
    let place = Place::new();
    for name in ["log", "other.log", "lib.so", "shrunk.log"] {
        place.write(name, b"12345678");
    }
    let level = Level::Blake3;
    let entries: Vec<Expected> = (1..)
        .zip(["log", "other.log", "lib.so", "shrunk.log"])
        .map(|(id, name)| place.expect(id, name, Role::default(), level))
        .collect();
    place.write("log", b"123456789");
    place.write("other.log", b"123456789");
    place.write("lib.so", b"123456789");
    place.write("shrunk.log", b"1");
    let mut policy = Policy::at(level);
    policy.add_rules("# rules\n\nignore:/log\nwarn:/lib*.so\ngrow:/**.log\n").unwrap();
    let report = place.verify(&entries, &policy);
    let found: Vec<_> =
        report.findings.iter().map(|finding| (finding.id, finding.severity, &finding.what)).collect();
    assert_eq!(
        found,
        [
            (1, Severity::Warning, &Mismatch::Skipped),
            (3, Severity::Warning, &Mismatch::Size { expected: 8, found: 9 }),
            (4, Severity::Differs, &Mismatch::Shrunk { expected: 8, found: 1 }),
        ]
    );
    assert!(report.to_string().contains("  warning: size differs"), "{report}");
}

#[test]
fn links_stay_inside_the_root() {
    let place = Place::new();
    fs::create_dir_all(place.dir.path().join("usr/lib")).unwrap();
    place.write("usr/lib/libx.so", &library(1, b"code"));
    symlink("/usr/lib", place.dir.path().join("lib")).unwrap();
    symlink("../../../../etc/passwd", place.dir.path().join("usr/outside")).unwrap();
    let mut entry = place.expect(1, "usr/lib/libx.so", CODE, Level::Auto);
    entry.path = PathBuf::from("/lib/libx.so");
    let mut outside = entry.clone();
    outside.path = PathBuf::from("/usr/outside");
    let report = place.verify(&[entry, outside], &Policy::default());
    assert_eq!(whats(&report), [&Mismatch::Missing]);
    assert_eq!(report.findings[0].path, Path::new("/usr/outside"));
}

#[test]
fn a_file_is_hashed_once() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    fs::hard_link(place.dir.path().join("lib.so"), place.dir.path().join("again.so")).unwrap();
    let entries =
        [place.expect(1, "lib.so", CODE, Level::Auto), place.expect(2, "again.so", CODE, Level::Auto)];
    let report = place.verify(&entries, &Policy::default());
    assert_eq!(report.verdict(), Verdict::Same);
    assert_eq!(report.bytes_hashed, library(1, b"code").len() as u64);
}

#[test]
fn beyond_the_budget_is_reported() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    let entry = place.expect(1, "lib.so", CODE, Level::Auto);
    let policy = Policy::default();
    let budget = Budget { bytes: Some(10), until: None };
    let report = Verifier::new(place.dir.path(), &policy)
        .unwrap()
        .with_hashing(Hashing::unlimited().with_budget(budget))
        .verify(&[entry])
        .unwrap();
    assert_eq!(report.verdict(), Verdict::Unchecked);
    assert!(matches!(whats(&report)[..], [Mismatch::Unreadable { part: Part::Blake3, .. }]));
}

fn measured(_: &fs::File) -> std::io::Result<Option<Verity>> {
    Ok(Some(Verity { algorithm: 1, digest: vec![1; 32] }))
}

#[test]
fn a_digest_of_the_kernel_spares_reading() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    let mut entry = place.expect(1, "lib.so", CODE, Level::Auto);
    entry.cookie.verity = measured(&fs::File::open("/dev/null").unwrap()).unwrap();
    let policy = Policy::default();
    let verify = |entry: &Expected, hashing: Hashing| {
        let mut verifier = Verifier::new(place.dir.path(), &policy).unwrap().with_hashing(hashing);
        verifier.verify(std::slice::from_ref(entry)).unwrap()
    };
    let report = verify(&entry, Hashing::unlimited().with_verity(measured));
    assert_eq!((report.verdict(), report.bytes_hashed), (Verdict::Same, 0));
    // Another digest may be another way of building the tree: the contents decide.
    entry.cookie.verity = Some(Verity { algorithm: 2, digest: vec![2; 64] });
    let report = verify(&entry, Hashing::unlimited().with_verity(measured));
    assert_eq!(report.verdict(), Verdict::Same);
    assert!(report.bytes_hashed > 0);
    // Nothing else to decide by.
    entry.cookie.blake3 = None;
    let report = verify(&entry, Hashing::unlimited().with_verity(measured));
    assert!(matches!(whats(&report)[..], [Mismatch::Verity { .. }]));
    let report = verify(&entry, Hashing::unlimited());
    assert_eq!(report.verdict(), Verdict::Unchecked);
}

#[test]
fn the_report_is_data() {
    let place = Place::new();
    place.write("lib.so", b"1");
    let mut entry = place.expect(1, "lib.so", CODE, Level::Auto);
    entry.users = vec![Use::Mapping {
        pid: 7,
        start: 0x7f00_0000_0000,
        end: 0x7f00_0000_1000,
        protection: "r-xp".into(),
    }];
    place.write("lib.so", b"22");
    let report = place.verify(&[entry], &Policy::default());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][0]["what"], serde_json::json!({"kind": "size", "expected": 1, "found": 2}));
    assert_eq!(json["findings"][0]["severity"], "differs");
    assert_eq!(json["findings"][0]["users"][0]["as"], "mapping");
    assert_eq!(json["findings"][0]["users"][0]["start"], "0x7f0000000000");
    assert!(report.to_string().contains("mapped r-xp at 0x7f0000000000 by 7"));
}

#[test]
fn rules_and_levels_read_back() {
    for text in
        ["filesize", "buildid", "checksum=1024", "checksum=full", "checksum=period:4096", "blake3", "auto"]
    {
        assert_eq!(text.parse::<Level>().unwrap().to_string(), text);
    }
    assert_eq!("checksum".parse::<Level>().unwrap().to_string(), "checksum=1024");
    assert_eq!("checksum-full".parse::<Level>().unwrap(), Level::Checksum(CrcMode::Full));
    for bad in ["", "size", "checksum=", "checksum=0", "checksum=period:", "blake3=1", "checksum-period"] {
        assert!(bad.parse::<Level>().is_err(), "{bad}");
    }
    for bad in ["ignore:", "relative/path", "grow:/var/[log", "warn:/x\\"] {
        assert!(bad.parse::<PathRule>().is_err(), "{bad}");
    }
    assert_eq!("/var/log/**".parse::<PathRule>().unwrap().action, rewake_filecheck::Action::Ignore);
}

#[test]
fn what_cannot_be_reached_is_unchecked() {
    let place = Place::new();
    place.write("lib.so", &library(1, b"code"));
    let mut entry = place.expect(1, "lib.so", CODE, Level::Auto);
    symlink("loop", place.dir.path().join("loop")).unwrap();
    entry.path = PathBuf::from("/loop");
    let report = place.verify(&[entry], &Policy::default());
    assert!(matches!(whats(&report)[..], [Mismatch::Unreadable { part: Part::Attributes, .. }]), "{report}");
    assert_eq!(report.verdict(), Verdict::Unchecked);
    assert!(report.to_string().contains("could not be checked: /loop: cannot open: "), "{report}");
}

#[test]
fn renames_never_mix_two_files() {
    let place = Place::new();
    let images = [library(1, &[b'a'; 300_000]), library(2, &[b'b'; 300_000])];
    place.write("lib.so", &images[0]);
    place.write("other.so", &images[1]);
    let known = images.each_ref().map(|image| blake3::hash(image));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let paths = ["lib.so", "other.so"].map(|name| place.dir.path().join(name));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for at in [0, 1] {
                    let new = paths[at].with_extension("new");
                    fs::copy(&paths[1 - at], &new).unwrap();
                    fs::rename(&new, &paths[at]).unwrap();
                }
            }
        });
        let mut taken = 0;
        for _ in 0..300 {
            let all = Parts { blake3: true, ..Parts::BUILD_ID };
            let Ok(cookie) = Cookie::of_path(&paths[0], all, &mut Hashing::unlimited()) else { continue };
            let id = cookie.build_id.unwrap().as_bytes()[0];
            assert_eq!(cookie.blake3.unwrap().as_bytes(), known[usize::from(id) - 1].as_bytes());
            taken += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(taken > 0);
    });
}

#[test]
fn overlays_show_what_is_on_top() {
    use nix::mount::{MsFlags, mount};
    let place = Place::new();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(place.dir.path().join(name)).unwrap();
    }
    place.write("lower/lib.so", &library(1, b"code"));
    let entry = {
        let mut entry = place.expect(1, "lower/lib.so", CODE, Level::Auto);
        entry.path = PathBuf::from("/lib.so");
        entry
    };
    let merged = place.dir.path().join("merged");
    let verify = || verify_all(std::slice::from_ref(&entry), &merged, &Policy::default()).unwrap();
    // A thread may have a mount namespace of its own; its end takes the mount away.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let path = |name| place.dir.path().join(name).display().to_string();
            let options =
                format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
            let none = None::<&str>;
            let mounted = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
                .and_then(|()| {
                    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                });
            if let Err(errno) = mounted {
                println!("skipped: no overlay can be mounted here: {errno}");
                return;
            }
            assert_eq!(verify().verdict(), Verdict::Same);
            fs::write(merged.join("lib.so"), library(1, b"c0de")).unwrap();
            assert!(matches!(whats(&verify())[..], [Mismatch::Blake3 { .. }]));
            fs::remove_file(merged.join("lib.so")).unwrap();
            assert_eq!(whats(&verify()), [&Mismatch::Missing]);
        });
    });
}
