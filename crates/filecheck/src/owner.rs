//! Which package a file belongs to, as far as dpkg or rpm know. For the advice beside a finding: a library that differs
//! was most likely upgraded.
//!
//! dpkg's lists are text and are read directly, so this works on any root, also one that cannot run programs here. rpm's
//! data base has had three formats: the machine's own `rpm` is asked, if there is one and the root has a data base.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where dpkg keeps a list of files per package, below the root.
const LISTS: &str = "var/lib/dpkg/info";

/// Bytes read of a list; the longest of a distribution have a few MiB.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// Where rpm keeps its data base, below the root; the first is that of old distributions.
const DATA_BASES: [&str; 2] = ["var/lib/rpm", "usr/lib/sysimage/rpm"];

/// Paths asked rpm about at most: each is a process.
const MAX_ASKED: usize = 100;

/// The packages that own these paths, for those that are owned. On a system without dpkg and rpm nothing is.
pub fn packages<'a>(root: &Path, paths: impl IntoIterator<Item = &'a Path>) -> BTreeMap<PathBuf, String> {
    let mut sought: BTreeMap<Vec<u8>, &Path> = BTreeMap::new();
    for path in paths {
        for spelling in spellings(path) {
            sought.insert(spelling, path);
        }
    }
    let mut owners = BTreeMap::new();
    let Ok(entries) = fs::read_dir(root.join(LISTS)) else {
        let asked: BTreeSet<&Path> = sought.into_values().take(MAX_ASKED).collect();
        return by_rpm(Path::new("rpm"), root, asked);
    };
    let mut lists: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    lists.sort();
    for list in lists.iter().filter(|list| list.extension() == Some(OsStr::new("list"))) {
        let Some(package) = list.file_stem().and_then(OsStr::to_str) else { continue };
        for path in listed(list, &sought) {
            owners.entry(path.to_owned()).or_insert_with(|| package.to_owned());
        }
    }
    owners
}

/// Asks rpm, if the root has its data base.
fn by_rpm(program: &Path, root: &Path, paths: BTreeSet<&Path>) -> BTreeMap<PathBuf, String> {
    if !DATA_BASES.iter().any(|place| root.join(place).is_dir()) {
        return BTreeMap::new();
    }
    let ask = |path: &Path| {
        let mut rpm = Command::new(program);
        rpm.arg("--root")
            .arg(root)
            .args(["--query", "--queryformat", "%{NAME}\\n", "--file", "--"])
            .arg(path);
        let output = rpm.stdin(Stdio::null()).output().ok().filter(|output| output.status.success())?;
        let package = String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned();
        Some((path.to_owned(), package))
    };
    paths.into_iter().filter_map(ask).collect()
}

/// A path as it is and as the lists may have it: with `/usr` merged into the root, both names are in use.
fn spellings(path: &Path) -> Vec<Vec<u8>> {
    let bytes = path.as_os_str().as_bytes();
    let other = match bytes.strip_prefix(b"/usr") {
        Some(short)
            if short.starts_with(b"/lib") || short.starts_with(b"/bin") || short.starts_with(b"/sbin") =>
        {
            Some(short.to_vec())
        }
        Some(_) => None,
        None => Some([b"/usr", bytes].concat()),
    };
    std::iter::once(bytes.to_vec()).chain(other).collect()
}

/// The sought paths that a list has. A list that cannot be read has none: this is advice, no proof.
fn listed<'a>(list: &Path, sought: &BTreeMap<Vec<u8>, &'a Path>) -> Vec<&'a Path> {
    let regular = fs::symlink_metadata(list).is_ok_and(|metadata| metadata.is_file());
    let Some(file) = regular.then(|| File::open(list).ok()).flatten() else { return Vec::new() };
    let lines = BufReader::new(file.take(MAX_LIST_BYTES)).split(b'\n');
    lines.map_while(Result::ok).filter_map(|line| sought.get(&line).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rpm_is_asked_where_it_has_a_data_base() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let program = dir.path().join("rpm");
        let script = "#!/bin/sh\n[ \"$1\" = --root ] && [ \"$8\" = /lib/x.so ] && echo libx || exit 1\n";
        fs::write(&program, script).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("to be run");
        let paths = || BTreeSet::from(["/lib/x.so", "/etc/none"].map(Path::new));
        assert!(by_rpm(&program, dir.path(), paths()).is_empty(), "no data base");
        fs::create_dir_all(dir.path().join("usr/lib/sysimage/rpm")).expect("a data base");
        let owners = by_rpm(&program, dir.path(), paths());
        assert_eq!(owners, BTreeMap::from([("/lib/x.so".into(), "libx".to_owned())]));
    }

    #[test]
    fn owners_by_either_spelling() {
        let root = tempfile::TempDir::new().expect("a temporary directory");
        let lists = root.path().join(LISTS);
        fs::create_dir_all(&lists).expect("its folders");
        let write = |name: &str, text: &str| fs::write(lists.join(name), text).expect("a list");
        write("libc6:amd64.list", "/.\n/usr\n/usr/lib/libc.so.6\n");
        write("old.list", "/lib/libold.so\n/etc/old\n");
        write("old.md5sums", "/etc/other\n");
        let paths =
            ["/lib/libc.so.6", "/usr/lib/libold.so", "/etc/old", "/etc/other", "/usr/libx"].map(Path::new);
        let owners = packages(root.path(), paths);
        let found: Vec<(&str, &str)> =
            owners.iter().map(|(path, package)| (path.to_str().expect("ascii"), package.as_str())).collect();
        assert_eq!(
            found,
            [("/etc/old", "old"), ("/lib/libc.so.6", "libc6:amd64"), ("/usr/lib/libold.so", "old"),]
        );
        assert!(packages(&root.path().join("nowhere"), paths).is_empty());
    }
}
