//! Open regular files, directories and plain devices: whatever opens again by its name.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, SystemTime},
};

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{self, fd},
};

/// Offsets of their own and shared ones, flags, numbers.
pub(crate) fn regfile(stage: &Stage) -> Check {
    let (path, log) = (stage.path("data"), stage.path("log"));
    fs::write(&path, "0123456789")?;
    let flagged = [
        libc::O_RDONLY,
        libc::O_WRONLY | libc::O_CLOEXEC,
        libc::O_RDWR | libc::O_APPEND,
        libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC,
        libc::O_RDWR | libc::O_DSYNC,
        libc::O_RDWR | libc::O_SYNC | libc::O_NOATIME,
        libc::O_RDONLY | libc::O_NOFOLLOW,
    ]
    .into_iter()
    .map(|flags| fd::open(&path, flags))
    .collect::<Result<Vec<_>, _>>()?;
    let mut first = File::open(&path)?;
    first.seek(SeekFrom::Start(3))?;
    let mut twin = first.try_clone()?;
    const HIGH: i32 = 900;
    // SAFETY: a number that nothing here uses.
    let high = unsafe { nix::unistd::dup3_raw(&first, HIGH, nix::fcntl::OFlag::O_CLOEXEC) }.at("dup3")?;
    let mut second = File::open(&path)?;
    second.seek(SeekFrom::Start(7))?;
    // A position behind the end is a position like any other.
    let mut beyond = File::open(&path)?;
    beyond.seek(SeekFrom::Start(1 << 40))?;
    let mut appended = File::options().create(true).append(true).open(&log)?;
    appended.write_all(b"before ")?;
    let table = fd::table()?;

    stage.freeze()?;

    fd::check_table(&table)?;
    ensure_eq!(fd::read(&first, 2)?, b"34", "read through the first");
    ensure_eq!(fd::read(&twin, 1)?, b"5", "the twin goes on from there");
    ensure_eq!(fd::read(&high, 1)?, b"6", "and so does descriptor 900");
    ensure_eq!(fd::read(&second, 9)?, b"789", "the second has its own offset");
    twin.rewind()?;
    ensure_eq!(first.stream_position()?, 0, "rewound with its twin");
    ensure_eq!(beyond.stream_position()?, 1 << 40, "far behind the end");
    fs::write(&log, "replaced ")?;
    appended.write_all(b"after")?;
    ensure_eq!(fs::read_to_string(&log)?, "replaced after", "appended");
    let [read_only, write_only, append, ..] = flagged.as_slice() else {
        return Err(Failure::new("flags are missing"));
    };
    ensure_eq!(nix::unistd::write(read_only, b"x"), Err(Errno::EBADF), "write to O_RDONLY");
    ensure_eq!(fd::read(write_only, 1), Err(Errno::EBADF), "read from O_WRONLY");
    ensure_eq!(nix::unistd::write(write_only, b"X"), Ok(1), "write to O_WRONLY");
    ensure_eq!(nix::unistd::write(append, b"Y"), Ok(1), "write to O_APPEND");
    ensure_eq!(fs::read_to_string(&path)?, "X123456789Y", "contents");
    Ok(())
}

/// Descriptors that are only names, which no read or write goes through.
pub(crate) fn path_only(stage: &Stage) -> Check {
    let inside = stage.path("inside");
    fs::create_dir(&inside)?;
    fs::write(inside.join("file"), "found")?;
    let dir = fd::open(&inside, libc::O_PATH | libc::O_DIRECTORY)?;
    let file = fd::open(inside.join("file"), libc::O_PATH | libc::O_CLOEXEC)?;
    let table = fd::table()?;
    stage.freeze()?;
    fd::check_table(&table)?;
    ensure_eq!(fd::read(&file, 1), Err(Errno::EBADF), "read from O_PATH");
    ensure_eq!(fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd()))?, "found", "opened again");
    let there = nix::fcntl::openat(&dir, "file", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
    ensure_eq!(fd::read(there.at("openat through an O_PATH directory")?, 9)?, b"found", "read");
    Ok(())
}

/// A directory read halfway, and another to stand in.
pub(crate) fn directory(stage: &Stage) -> Check {
    let (listed, inside) = (stage.path("listed"), stage.path("inside"));
    fs::create_dir(&listed)?;
    fs::create_dir(&inside)?;
    let names: BTreeSet<String> = (0..300).map(|n| format!("entry-with-a-longish-name-{n}")).collect();
    for name in &names {
        File::create(listed.join(name))?;
    }
    let reading = fd::open(&listed, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)?;
    let mut all = entries(&reading, 4096)?;
    ensure!(all.len() > 10 && all.len() < 290, "one call gives {} entries", all.len());
    std::env::set_current_dir(&inside)?;
    let table = fd::table()?;

    stage.freeze()?;

    fd::check_table(&table)?;
    loop {
        let more = entries(&reading, 4096)?;
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    let count = all.len();
    let found: BTreeSet<String> = all.into_iter().filter(|name| !name.starts_with('.')).collect();
    ensure_eq!(count, names.len() + 2, "entries, each once");
    ensure_eq!(found, names, "entries");
    ensure_eq!(std::env::current_dir()?, inside, "working directory");
    File::create("here")?;
    ensure!(inside.join("here").exists(), "a file created in the working directory is not there");
    Ok(())
}

/// Names from one call of getdents64(2).
fn entries(dir: &OwnedFd, room: usize) -> Result<Vec<String>, Failure> {
    let mut bytes = vec![0_u8; room];
    let arguments = [dir.as_raw_fd() as u64, bytes.as_mut_ptr() as u64, room as u64, 0, 0, 0];
    // SAFETY: the kernel writes at most `room` bytes.
    let got = unsafe { sys::raw(libc::SYS_getdents64, arguments) }?;
    let mut rest = &bytes[..got as usize];
    let mut names = Vec::new();
    while !rest.is_empty() {
        // struct linux_dirent64: inode, offset, length of the record, type, name.
        let length = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let name = rest[19..length].split(|&byte| byte == 0).next().unwrap_or_default();
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = &rest[length..];
    }
    Ok(names)
}

/// Devices without state.
pub(crate) fn device(stage: &Stage) -> Check {
    let open = ["null", "zero", "full", "random", "urandom"]
        .map(|name| fd::open(format!("/dev/{name}"), libc::O_RDWR | libc::O_NONBLOCK));
    let open: Vec<OwnedFd> = open.into_iter().collect::<Result<_, _>>()?;
    let table = fd::table()?;
    stage.freeze()?;
    fd::check_table(&table)?;
    let [null, zero, full, random, urandom] = open.as_slice() else {
        return Err(Failure::new("devices are missing"));
    };
    ensure_eq!(fd::read(null, 9), Ok(Vec::new()), "read /dev/null");
    ensure_eq!(nix::unistd::write(null, b"gone"), Ok(4), "write /dev/null");
    ensure_eq!(fd::read(zero, 9), Ok(vec![0; 9]), "read /dev/zero");
    ensure_eq!(nix::unistd::write(full, b"x"), Err(Errno::ENOSPC), "write /dev/full");
    for device in [random, urandom] {
        let [one, two] = [fd::read(device, 32)?, fd::read(device, 32)?];
        ensure!(one.len() == 32 && one != two, "random bytes repeat");
    }
    Ok(())
}

/// Two numbers of one open file stay one open file; two opens of one file stay two.
pub(crate) fn shared_open_file(stage: &Stage) -> Check {
    let path = stage.path("data");
    fs::write(&path, "0123456789")?;
    let one = fd::open(&path, libc::O_RDWR)?;
    let same = one.try_clone()?;
    let other = fd::open(&path, libc::O_RDWR)?;
    let before = (fd::same_open_file(&one, &same)?, fd::same_open_file(&one, &other)?);
    ensure_eq!(before, (true, false), "before");
    // Close-on-exec belongs to the number, not to the open file.
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(&same, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let table = fd::table()?;
    stage.freeze()?;
    fd::check_table(&table)?;
    ensure_eq!((fd::same_open_file(&one, &same)?, fd::same_open_file(&one, &other)?), before, "shared");
    fcntl(&one, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND))?;
    ensure!(fd::status(same.as_fd())? & libc::O_APPEND != 0, "flags of one open file differ");
    ensure!(fd::status(other.as_fd())? & libc::O_APPEND == 0, "flags of two open files are one");
    Ok(())
}

/// A file that lost its last name while open and while mapped.
pub(crate) fn ghost(stage: &Stage) -> Check {
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    let (path, empty) = (stage.path("ghost"), stage.path("empty"));
    let contents = sys::mem::bytes(77, 3 * 4096 + 100);
    fs::write(&path, &contents)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    // Images hold microseconds.
    let changed = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456);
    File::options().write(true).open(&path)?.set_modified(changed)?;
    let mut first = File::options().read(true).write(true).open(&path)?;
    first.seek(SeekFrom::Start(5000))?;
    let second = File::open(&path)?;
    let nothing = File::create(&empty)?;
    let mapped = sys::mem::Area::map(0, 4, sys::mem::RW, libc::MAP_SHARED, first.as_raw_fd(), 0)
        .at("map the ghost")?;
    fs::remove_file(&path)?;
    fs::remove_file(&empty)?;

    stage.freeze()?;

    ensure!(!path.exists() && !empty.exists(), "the names came back");
    ensure_eq!(first.stream_position()?, 5000, "offset");
    let mut read = vec![0; contents.len()];
    second.read_exact_at(&mut read, 0)?;
    ensure!(read == contents, "contents differ");
    let stat = first.metadata()?;
    ensure_eq!(
        (stat.nlink(), stat.len(), stat.mode() & 0o7777),
        (0, contents.len() as u64, 0o640),
        "metadata"
    );
    ensure_eq!(stat.modified()?, changed, "time of the last change");
    ensure_eq!(nothing.metadata()?.len(), 0, "length of the empty one");
    ensure_eq!(stat.ino(), second.metadata()?.ino(), "inode of both");
    mapped.write(0, 0, 0x4242);
    let mut word = [0; 8];
    second.read_exact_at(&mut word, 0)?;
    ensure_eq!(u64::from_ne_bytes(word), 0x4242, "what was written through the mapping");
    Ok(())
}

/// A deleted file with holes: they stay holes, and take no room in the checkpoint.
pub(crate) fn ghost_holes(stage: &Stage) -> Check {
    use std::os::unix::fs::{FileExt, MetadataExt};
    const SIZE: u64 = 3 << 30;
    let path = stage.path("sparse");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(SIZE)?;
    let pieces = [(0, 10), (70 << 20, 5000), (SIZE - 100, 100)];
    for (number, (at, len)) in (0..).zip(pieces) {
        file.write_all_at(&sys::mem::bytes(number, len), at)?;
    }
    file.sync_all()?;
    let room = file.metadata()?.blocks();
    fs::remove_file(&path)?;

    stage.freeze()?;

    for (number, (at, len)) in (0..).zip(pieces) {
        let mut read = vec![0; len];
        file.read_exact_at(&mut read, at)?;
        ensure!(read == sys::mem::bytes(number, len), "contents at {at}");
    }
    let mut byte = [1];
    file.read_exact_at(&mut byte, 1 << 30)?;
    ensure_eq!(byte, [0], "in a hole");
    file.sync_all()?;
    let stat = file.metadata()?;
    ensure_eq!(stat.len(), SIZE, "length");
    ensure!(stat.blocks() <= room, "{} blocks, {room} before", stat.blocks());
    Ok(())
}

/// Who is signalled when there is something to read, and by which signal.
pub(crate) fn owner(stage: &Stage) -> Check {
    use sys::signal;
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    let number = libc::SIGRTMIN() + 6;
    signal::block(&[number])?;
    let (reader, writer) = nix::unistd::pipe()?;
    let fcntl = |command: i32, argument: i32| {
        let arguments = [reader.as_raw_fd() as u64, command as u64, argument as u64, 0, 0, 0];
        // SAFETY: only used with commands that take an integer.
        unsafe { sys::raw(libc::SYS_fcntl, arguments) }
    };
    fcntl(libc::F_SETOWN, sys::pid()).at("F_SETOWN")?;
    fcntl(F_SETSIG, number).at("F_SETSIG")?;
    fcntl(libc::F_SETFL, libc::O_ASYNC).at("O_ASYNC")?;
    let before = (fcntl(libc::F_GETOWN, 0)?, fcntl(F_GETSIG, 0)?, fcntl(libc::F_GETFL, 0)?);
    stage.freeze()?;
    ensure_eq!(
        (fcntl(libc::F_GETOWN, 0)?, fcntl(F_GETSIG, 0)?, fcntl(libc::F_GETFL, 0)?),
        before,
        "owner, signal, flags"
    );
    nix::unistd::write(&writer, b"x")?;
    let taken = signal::take(signal::bit(number), Some(20_000_000_000))?;
    ensure!(taken.is_some(), "no signal for what was written");
    Ok(())
}

/// A file that never had a name.
pub(crate) fn unnamed(stage: &Stage) -> Check {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(stage.path("."))?;
    let contents = sys::mem::bytes(78, 9000);
    file.write_all_at(&contents, 0)?;
    stage.freeze()?;
    let mut read = vec![0; contents.len()];
    file.read_exact_at(&mut read, 0)?;
    ensure!(read == contents, "contents differ");
    Ok(())
}
