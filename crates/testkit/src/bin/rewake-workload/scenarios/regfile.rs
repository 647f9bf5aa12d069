//! Open regular files, directories and plain devices: whatever opens again by its name.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
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
