//! Files that stay open once they were compared.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use rewake_filecheck::{Cookie, Expected, Hashing, Level, Opening, Policy, Role, Verdict, Verifier};
use tempfile::TempDir;

const FROM_START: Opening = Opening { flags: libc::O_RDONLY, position: 0 };

fn expect(id: u32, path: PathBuf, role: Role) -> Expected {
    let cookie = Cookie::of_path(&path, Level::Auto.parts(role), &mut Hashing::unlimited()).unwrap();
    Expected { id, path, cookie, role, users: Vec::new() }
}

fn text(file: Option<File>) -> String {
    let mut text = String::new();
    file.unwrap().read_to_string(&mut text).unwrap();
    text
}

fn verify(root: &Path, entries: &[Expected], how: Opening) -> (Verdict, Vec<Option<File>>) {
    let policy = Policy::default();
    let mut verifier = Verifier::new(root, &policy).unwrap();
    let (report, opened) = verifier.verify_opened(entries, |_| Some(how)).unwrap();
    (report.verdict(), opened)
}

#[test]
fn it_is_the_very_file_that_was_compared() {
    let dir = TempDir::new().unwrap();
    let code = Role { executable: true, writable: false };
    let entries: Vec<Expected> = (0..200)
        .map(|n| {
            let path = dir.path().join(format!("file-{n}"));
            fs::write(&path, format!("contents {n}")).unwrap();
            // Some are read to be compared, some only looked at.
            expect(n, path, if n % 3 == 0 { code } else { Role::default() })
        })
        .collect();
    let (verdict, opened) = verify(Path::new("/"), &entries, Opening { position: 9, ..FROM_START });
    assert_eq!(verdict, Verdict::Same);
    for entry in &entries {
        fs::write(entry.path.with_extension("new"), "another").unwrap();
        fs::rename(entry.path.with_extension("new"), &entry.path).unwrap();
    }
    let texts: Vec<String> = opened.into_iter().map(text).collect();
    assert_eq!(texts, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    let entries = ["fifo", "directory", "gone", "link"].map(|name| {
        fs::write(path(name), "").unwrap();
        expect(1, path(name), Role::default())
    });
    for name in ["fifo", "directory", "gone", "link"] {
        fs::remove_file(path(name)).unwrap();
    }
    // Opening it for reading would wait for a writer.
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("fifo", path("link")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    let (verdict, opened) = verify(Path::new("/"), &entries, FROM_START);
    assert_eq!(verdict, Verdict::Differs);
    assert!(opened.iter().all(Option::is_none), "{opened:?}");
    let writer = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path("fifo"));
    assert_eq!(writer.unwrap_err().raw_os_error(), Some(libc::ENXIO), "nobody reads");
}

#[test]
fn in_another_root_and_what_cannot_be_opened() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "contents").unwrap();
    let mut entry = expect(1, dir.path().join("file"), Role::default());
    entry.path = "/file".into();
    let entries = [entry];
    let (verdict, mut opened) = verify(dir.path(), &entries, FROM_START);
    assert_eq!((verdict, text(opened.remove(0)).as_str()), (Verdict::Same, "contents"));
    // Compared all the same.
    for how in [Opening { flags: libc::O_DIRECTORY, position: 0 }, Opening { position: -1, ..FROM_START }] {
        let (verdict, opened) = verify(dir.path(), &entries, how);
        assert!(matches!((verdict, opened.as_slice()), (Verdict::Same, [None])), "{how:?}");
    }
}
