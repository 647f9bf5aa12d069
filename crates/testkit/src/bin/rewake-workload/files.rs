//! Files with a name, and files that lost theirs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::fd;
use crate::harness::{Check, Frame, Scenario, ensure, same};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "files", needs_root: false, run: files },
    Scenario { name: "directories", needs_root: false, run: directories },
    Scenario { name: "devices", needs_root: false, run: devices },
];

/// Open regular files: offsets of their own and shared ones, flags, numbers.
fn files(frame: &mut Frame) -> Check {
    let path = frame.path("data");
    fs::write(&path, "0123456789").unwrap();
    let log = frame.path("log");
    let flagged = [
        libc::O_RDONLY,
        libc::O_WRONLY | libc::O_CLOEXEC,
        libc::O_RDWR | libc::O_APPEND,
        libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC,
        libc::O_RDWR | libc::O_DSYNC,
        libc::O_RDWR | libc::O_SYNC | libc::O_NOATIME,
        libc::O_RDONLY | libc::O_NOFOLLOW,
        libc::O_PATH,
    ]
    .map(|flags| fd::open(&path, flags));
    let mut first = File::open(&path).unwrap();
    first.seek(SeekFrom::Start(3)).unwrap();
    let mut twin = first.try_clone().unwrap();
    const HIGH: i32 = 900;
    fd::must(unsafe { libc::dup3(first.as_raw_fd(), HIGH, 0) });
    let mut second = File::open(&path).unwrap();
    second.seek(SeekFrom::Start(7)).unwrap();
    // A position behind the end is a position like any other.
    let mut beyond = File::open(&path).unwrap();
    beyond.seek(SeekFrom::Start(1 << 40)).unwrap();
    let mut appended = File::options().create(true).append(true).open(&log).unwrap();
    appended.write_all(b"before ").unwrap();
    let table = fd::table();

    frame.wait();
    same("descriptors", fd::table(), table)?;
    same("read through the first", fd::read(&first, 2), Ok(b"34".to_vec()))?;
    same("the twin goes on from there", fd::read(&twin, 1), Ok(b"5".to_vec()))?;
    same("and so does 900", fd::read(&HIGH, 1), Ok(b"6".to_vec()))?;
    same("the second has its own offset", fd::read(&second, 9), Ok(b"789".to_vec()))?;
    twin.rewind().unwrap();
    same("rewound with its twin", first.stream_position().unwrap(), 0)?;
    same("far behind the end", beyond.stream_position().unwrap(), 1 << 40)?;
    fs::write(&log, "replaced ").unwrap();
    appended.write_all(b"after").unwrap();
    same("appended", fs::read_to_string(&log).unwrap().as_str(), "replaced after")?;
    access_modes(&flagged)
}

/// What was opened for reading only cannot be written, and so on.
fn access_modes(flagged: &[OwnedFd; 8]) -> Check {
    let [read_only, write_only, append, .., path_only] = flagged;
    same("write to O_RDONLY", fd::write(read_only, b"x"), Err(libc::EBADF))?;
    same("read from O_WRONLY", fd::read(write_only, 1), Err(libc::EBADF))?;
    same("read from O_PATH", fd::read(path_only, 1), Err(libc::EBADF))?;
    same("write to O_WRONLY", fd::write(write_only, b"X"), Ok(1))?;
    same("write to O_APPEND", fd::write(append, b"Y"), Ok(1))?;
    let mut found = String::new();
    File::from(fd::reopen(path_only, libc::O_RDONLY)).read_to_string(&mut found).unwrap();
    same("contents", found.as_str(), "X123456789Y")
}

/// A directory read halfway, one only for its path, and one to stand in.
fn directories(frame: &mut Frame) -> Check {
    let listed = frame.path("listed");
    let inside = frame.path("inside");
    fs::create_dir(&listed).unwrap();
    fs::create_dir(&inside).unwrap();
    let names: BTreeSet<String> = (0..300).map(|n| format!("entry-with-a-longish-name-{n}")).collect();
    for name in &names {
        File::create(listed.join(name)).unwrap();
    }
    let reading = fd::open(&listed, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
    let half = entries(&reading, 4096);
    ensure(half.len() > 10 && half.len() < 290, "one call gives some entries, not all")?;
    let for_path = fd::open(&inside, libc::O_PATH | libc::O_DIRECTORY);
    std::env::set_current_dir(&inside).unwrap();
    let table = fd::table();

    frame.wait();
    same("descriptors", fd::table(), table)?;
    let mut all = half;
    loop {
        let more = entries(&reading, 4096);
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    let count = all.len();
    let found: BTreeSet<String> = all.into_iter().filter(|name| !name.starts_with('.')).collect();
    same("entries, each once", count, names.len() + 2)?;
    same("entries", found, names)?;
    File::create("here").unwrap();
    same("working directory", std::env::current_dir().unwrap(), inside.clone())?;
    ensure(inside.join("here").exists(), "a file created in the working directory is not there")?;
    let there = unsafe { libc::openat(for_path.as_raw_fd(), c"here".as_ptr(), libc::O_RDONLY) };
    ensure(there >= 0, "openat through an O_PATH directory fails")
}

/// Names from one call of getdents64(2).
fn entries(dir: &OwnedFd, room: usize) -> Vec<String> {
    let mut bytes = vec![0_u8; room];
    let got = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), bytes.as_mut_ptr(), room) };
    let mut rest = &bytes[..usize::try_from(got).unwrap()];
    let mut names = Vec::new();
    while !rest.is_empty() {
        // struct linux_dirent64: inode, offset, length of the record, type, name.
        let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let name = rest[19..len].split(|&byte| byte == 0).next().unwrap();
        names.push(String::from_utf8(name.to_vec()).unwrap());
        rest = &rest[len..];
    }
    names
}

/// Devices without state.
fn devices(frame: &mut Frame) -> Check {
    let names = ["null", "zero", "full", "random", "urandom"];
    let paths = names.map(|name| Path::new("/dev").join(name));
    let open = paths.clone().map(|path| fd::open(path, libc::O_RDWR | libc::O_NONBLOCK));
    let table = fd::table();
    frame.wait();
    same("descriptors", fd::table(), table)?;
    for (fd, path) in open.iter().zip(&paths) {
        let there = fs::metadata(path).unwrap();
        ensure(there.file_type().is_char_device(), "a device is none")?;
        same(path.to_str().unwrap(), fd::stat(fd).st_rdev, there.rdev())?;
    }
    let [null, zero, full, random, urandom] = &open;
    same("read /dev/null", fd::read(null, 9), Ok(Vec::new()))?;
    same("write /dev/null", fd::write(null, b"gone"), Ok(4))?;
    same("read /dev/zero", fd::read(zero, 9), Ok(vec![0; 9]))?;
    same("write /dev/full", fd::write(full, b"x"), Err(libc::ENOSPC))?;
    for fd in [random, urandom] {
        let [one, two] = [fd::read(fd, 32)?, fd::read(fd, 32)?];
        ensure(one.len() == 32 && one != two, "random bytes repeat")?;
    }
    Ok(())
}
