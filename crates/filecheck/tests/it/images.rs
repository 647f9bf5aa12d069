//! Cookies in the images, in our own file beside them, and in the cache between runs.

use std::fs::{self, File};
use std::num::NonZeroU32;

use rewake_filecheck::cookie::Verity;
use rewake_filecheck::{
    Blake3, BuildId, Collector, Cookie, CookieError, Crc32c, CrcMode, HashCache, Hashing, OwnCookies, Parts,
    Role, Use, format,
};
use rewake_images::proto::{FdinfoEntry, FsEntry, MmEntry, RegFileEntry, RemapFilePathEntry, VmaEntry};
use tempfile::TempDir;

fn full() -> Cookie {
    Cookie {
        size: Some(1234),
        mode: Some(0o100_755),
        build_id: BuildId::new(&[1, 2, 3, 4, 5, 6, 7, 8]),
        checksum: Some(Crc32c { mode: CrcMode::First(NonZeroU32::new(512).unwrap()), value: 0xdead_beef }),
        blake3: Some(Blake3::new([7; 32])),
        verity: Some(Verity { algorithm: 1, digest: vec![9; 32] }),
    }
}

fn entry(id: u32, name: &str, flags: i32) -> RegFileEntry {
    RegFileEntry { id, name: name.to_owned(), flags: flags.cast_unsigned(), ..RegFileEntry::default() }
}

#[test]
fn cookies_survive_the_image() {
    let mut stored = entry(1, "/lib/x.so", nix::libc::O_RDONLY);
    format::store(&full(), &mut stored);
    assert_eq!(stored.build_id, [0x0403_0201, 0x0807_0605]);
    assert_eq!(
        (stored.checksum, stored.checksum_config, stored.checksum_parameter),
        (Some(0xdead_beef), Some(5), Some(512))
    );
    let mut back = format::load(&stored).unwrap();
    let mut own = OwnCookies::default();
    own.insert(1, "/lib/x.so", &full());
    own.complete(1, "/lib/x.so", &mut back);
    assert_eq!(back, full());
    // A cookie with less clears what was there.
    format::store(&Cookie::default(), &mut stored);
    assert_eq!(stored, entry(1, "/lib/x.so", nix::libc::O_RDONLY));
}

#[test]
fn logs_have_no_size() {
    let mut stored = entry(1, "/var/log/x", nix::libc::O_WRONLY | nix::libc::O_APPEND);
    format::store(&full(), &mut stored);
    assert_eq!((stored.size, stored.mode), (None, Some(0o100_755)));
}

#[test]
fn checksums_nobody_can_repeat() {
    for (config, parameter) in [(0, Some(1)), (7, Some(1)), (5, Some(0)), (5, None), (6, None)] {
        let mut stored = entry(1, "/x", 0);
        (stored.checksum, stored.checksum_config, stored.checksum_parameter) =
            (Some(1), Some(config), parameter);
        let refused = format::load(&stored);
        assert!(matches!(refused, Err(CookieError::ChecksumConfig { .. })), "{config} {parameter:?}");
    }
    for mode in [CrcMode::Full, CrcMode::First(NonZeroU32::MIN), CrcMode::Period(NonZeroU32::MAX)] {
        let (config, parameter) = mode.to_format();
        assert_eq!(CrcMode::from_format(config, Some(parameter)).unwrap(), mode);
    }
}

#[test]
fn our_own_file() {
    let dir = TempDir::new().unwrap();
    assert!(OwnCookies::read(dir.path()).unwrap().is_empty());
    let mut own = OwnCookies::default();
    own.insert(5, "/lib/a b\n\"ü.so", &full());
    own.insert(6, "/only/size", &Cookie { size: Some(1), ..Cookie::default() });
    own.write(dir.path()).unwrap();
    own.write(dir.path()).unwrap();
    assert_eq!(OwnCookies::read(dir.path()).unwrap(), own);
    assert_eq!(own.len(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left behind");
    let mut other = Cookie::default();
    own.complete(5, "/lib/other.so", &mut other);
    own.complete(4, "/lib/a b\n\"ü.so", &mut other);
    assert_eq!(other, Cookie::default(), "another name or id is another file");
    OwnCookies::default().write(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn our_own_file_when_it_is_not_ours() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(rewake_filecheck::own::FILE_NAME);
    let twice = r#"{"version":1,"files":[{"id":1,"name":"a"},{"id":1,"name":"b"}]}"#;
    let short = r#"{"version":1,"files":[{"id":1,"name":"a","blake3":"12"}]}"#;
    let odd = r#"{"version":1,"files":[{"id":1,"name":"a","verity":{"algorithm":1,"digest":"123"}}]}"#;
    for text in ["", "[]", r#"{"version":2,"files":[]}"#, twice, short, &odd.replace("123", "12é")] {
        fs::write(&path, text).unwrap();
        let refused = OwnCookies::read(dir.path());
        assert!(matches!(refused, Err(CookieError::StoreContents { .. })), "{text}: {refused:?}");
    }
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(OwnCookies::read(dir.path()), Err(CookieError::StoreContents { .. })));
}

#[test]
fn users_and_roles_are_collected() {
    let mut collector = Collector::default();
    let vma = |id, prot, status: u32| VmaEntry {
        start: 0x1000,
        end: 0x2000,
        shmid: id,
        prot,
        status: 1 | status,
        ..VmaEntry::default()
    };
    collector.mapping(7, &vma(1, 5, 1 << 6));
    collector.mapping(7, &vma(1, 3, 1 << 6));
    collector.mapping(8, &vma(2, 3, 1 << 7));
    collector.mapping(8, &vma(3, 5, 1 << 7 | 1 << 14)); // a memfd
    collector.mapping(8, &vma(1, 3, 1 << 9)); // anonymous
    collector.descriptor(7, &FdinfoEntry { id: 3, fd: 9, r#type: 1, ..FdinfoEntry::default() });
    collector.descriptor(7, &FdinfoEntry { id: 3, fd: 10, r#type: 2, ..FdinfoEntry::default() });
    collector.memory(7, &MmEntry { exe_file_id: 4, ..MmEntry::default() });
    collector.directories(7, &FsEntry { cwd_id: 5, root_id: 6, umask: None });
    collector.remap(&RemapFilePathEntry { orig_id: 7, remap_id: 1, remap_type: Some(1) });
    let names =
        ["/lib", "/shared", "/open", "/exe", "/cwd", "/", "/gone (deleted)", "/proc/12/maps", "/proc/stat"];
    for (id, name) in (1..).zip(names) {
        collector.file(&entry(id, name, if id == 3 { nix::libc::O_RDWR } else { 0 })).unwrap();
    }
    let external = RegFileEntry { ext: Some(true), ..entry(20, "file[1:2]", 0) };
    collector.file(&external).unwrap();

    let list = collector.finish(&OwnCookies::default());
    let ids: Vec<u32> = list.iter().map(|file| file.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 9]);
    let role = |executable, writable| Role { executable, writable };
    let roles: Vec<Role> = list.iter().map(|file| file.role).collect();
    assert_eq!(roles[..4], [role(true, false), role(false, true), role(false, true), role(true, false)]);
    let shown: Vec<String> = list[0].users.iter().map(Use::to_string).collect();
    assert_eq!(shown, ["mapped r-xp at 0x1000 by 7", "mapped rw-p at 0x1000 by 7"]);
    assert_eq!(list[2].users, [Use::Descriptor { pid: 7, fd: 9 }]);
    assert_eq!(list[3].users, [Use::Executable { pid: 7 }]);
    assert_eq!(list[4].users, [Use::WorkingDirectory { pid: 7 }]);
}

#[test]
fn roles_belong_to_the_file_not_to_one_opening() {
    let mut collector = Collector::default();
    collector.file(&entry(1, "/db", nix::libc::O_RDONLY)).unwrap();
    collector.file(&entry(2, "/db", nix::libc::O_RDWR)).unwrap();
    collector.memory(7, &MmEntry { exe_file_id: 1, ..MmEntry::default() });
    let list = collector.finish(&OwnCookies::default());
    assert!(list.iter().all(|file| file.role == Role { executable: true, writable: true }), "{list:?}");
}

/// A file whose time stamps are old enough for its hash to be kept, if the file system is one of those.
fn settled_program() -> File {
    File::open("/bin/sh").unwrap()
}

#[test]
fn the_cache_only_makes_it_faster() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cache.json");
    let parts = Parts { blake3: true, ..Parts::SIZE };
    let file = settled_program();
    let mut first = Hashing::unlimited().with_cache(HashCache::read(&path).unwrap());
    let cookie = Cookie::of_file(&file, parts, &mut first).unwrap();
    assert_eq!(first.bytes_hashed(), cookie.size.unwrap());
    let cache = first.cache().unwrap();
    cache.write(&path).unwrap();
    if cache.is_empty() {
        println!("skipped: /bin/sh is on a file system whose hashes are not kept");
    } else {
        let mut second = Hashing::unlimited().with_cache(HashCache::read(&path).unwrap());
        assert_eq!(Cookie::of_file(&file, parts, &mut second).unwrap(), cookie);
        assert_eq!(second.bytes_hashed(), 0);
    }
    for damaged in ["", "{", "[1]", r#"{"version":9,"files":[]}"#] {
        fs::write(&path, damaged).unwrap();
        assert!(HashCache::read(&path).unwrap().is_empty());
    }
}

#[test]
fn young_files_are_not_kept() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("young"), b"contents").unwrap();
    let mut hashing = Hashing::unlimited().with_cache(HashCache::default());
    hashing.blake3(&File::open(dir.path().join("young")).unwrap()).unwrap();
    assert!(hashing.cache().unwrap().is_empty());
}

#[test]
fn known_files_need_no_reading() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("lib");
    fs::write(&path, b"contents").unwrap();
    let parts = Parts { blake3: true, checksum: Some(CrcMode::Full), ..Parts::SIZE };
    let mut hashing = Hashing::unlimited();
    let before = Cookie::of_path(&path, parts, &mut hashing).unwrap();
    hashing.known_only();
    assert_eq!(Cookie::of_path(&path, parts, &mut hashing).unwrap(), before);
    fs::write(&path, b"contentz!").unwrap();
    let refused = Cookie::of_path(&path, parts, &mut hashing);
    assert!(matches!(refused, Err(CookieError::NotHashed)), "{refused:?}");
}

#[test]
fn entries_written_by_criu_read_and_write_back() {
    let testdata = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/testdata/pipe00-h");
    let checkpoint = rewake_images::Checkpoint::open(testdata).unwrap();
    let files: Vec<rewake_images::proto::FileEntry> =
        checkpoint.read_all(rewake_images::Kind::Files, None).unwrap();
    let mut collector = Collector::default();
    let mut with_build_id = 0;
    for entry in files.iter().filter_map(|file| file.reg.as_ref()) {
        let cookie = format::load(entry).unwrap();
        with_build_id += usize::from(cookie.build_id.is_some());
        let mut again = entry.clone();
        format::store(&cookie, &mut again);
        assert_eq!(&again, entry);
        collector.file(entry).unwrap();
    }
    assert!(with_build_id > 0, "the libraries of that process have build-ids");
    let list = collector.finish(&OwnCookies::default());
    assert!(list.iter().all(|file| file.cookie.mode.is_some()));
}
