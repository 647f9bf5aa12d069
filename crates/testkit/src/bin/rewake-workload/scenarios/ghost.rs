//! Open files and directories that lost their last name, or never had one.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom},
    os::fd::AsRawFd,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    time::{Duration, SystemTime},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    unistd::linkat,
};

use crate::{
    stage::{At, Check, Stage, ensure, ensure_eq},
    sys::{self, mem},
};

/// A file that lost its last name while open and while mapped.
pub(crate) fn ghost(stage: &Stage) -> Check {
    let (path, empty) = (stage.path("ghost"), stage.path("empty"));
    let contents = mem::bytes(77, 3 * 4096 + 100);
    fs::write(&path, &contents)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    // Images hold microseconds.
    let changed = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456);
    File::options().write(true).open(&path)?.set_modified(changed)?;
    let mut first = File::options().read(true).write(true).open(&path)?;
    first.seek(SeekFrom::Start(5000))?;
    let second = File::open(&path)?;
    let nothing = File::create(&empty)?;
    let mapped = mem::Area::map(0, 4, mem::RW, libc::MAP_SHARED, first.as_raw_fd(), 0).at("map the ghost")?;
    fs::remove_file(&path)?;
    fs::remove_file(&empty)?;
    // With bits that a usual umask takes away.
    let fifo = stage.path("ghost-fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    fs::set_permissions(&fifo, fs::Permissions::from_mode(0o666))?;
    let pipe = File::options().read(true).write(true).open(&fifo)?;
    fs::remove_file(&fifo)?;

    stage.freeze()?;

    ensure_eq!(pipe.metadata()?.mode() & 0o7777, 0o666, "mode of the named pipe");
    ensure!(!fifo.exists(), "the name of the pipe came back");
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
    const SIZE: u64 = 3 << 30;
    let path = stage.path("sparse");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    file.set_len(SIZE)?;
    let pieces = [(0, 10), (70 << 20, 5000), (SIZE - 100, 100)];
    for (number, (at, len)) in (0..).zip(pieces) {
        file.write_all_at(&mem::bytes(number, len), at)?;
    }
    file.sync_all()?;
    let room = file.metadata()?.blocks();
    fs::remove_file(&path)?;

    stage.freeze()?;

    for (number, (at, len)) in (0..).zip(pieces) {
        let mut read = vec![0; len];
        file.read_exact_at(&mut read, at)?;
        ensure!(read == mem::bytes(number, len), "contents at {at}");
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

/// A file that never had a name.
pub(crate) fn unnamed(stage: &Stage) -> Check {
    let file = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(stage.path("."))?;
    let contents = mem::bytes(78, 9000);
    file.write_all_at(&contents, 0)?;

    stage.freeze()?;

    let mut read = vec![0; contents.len()];
    file.read_exact_at(&mut read, 0)?;
    ensure!(read == contents, "contents differ");
    // Now it gets one.
    let (name, own) = (stage.path("named"), format!("/proc/self/fd/{}", file.as_raw_fd()));
    linkat(AT_FDCWD, own.as_str(), AT_FDCWD, &name, AtFlags::AT_SYMLINK_FOLLOW).at("linkat")?;
    ensure!(fs::read(&name)? == contents, "contents under the name differ");
    Ok(())
}

/// Extended attributes of a deleted file.
pub(crate) fn ghost_attributes(stage: &Stage) -> Check {
    let path = stage.path("described");
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    let fd = file.as_raw_fd() as u64;
    let (name, value) = (c"user.rewake".as_ptr() as u64, [1_u8, 0, 2]);
    // SAFETY: the kernel reads a string and three bytes.
    let set = unsafe { sys::raw(libc::SYS_fsetxattr, [fd, name, value.as_ptr() as u64, 3, 0, 0]) };
    if set == Err(Errno::EOPNOTSUPP) {
        // The file system has none.
        return stage.freeze();
    }
    set.at("fsetxattr")?;
    fs::remove_file(&path)?;

    stage.freeze()?;

    let mut read = [0_u8; 8];
    // SAFETY: the kernel reads a string and writes at most eight bytes.
    let got = unsafe { sys::raw(libc::SYS_fgetxattr, [fd, name, read.as_mut_ptr() as u64, 8, 0, 0]) };
    ensure_eq!(got, Ok(3), "length of the attribute");
    ensure_eq!(read[..3], value, "the attribute");
    Ok(())
}

/// Files in a directory that was deleted as well, that directory itself, and another to stand in.
pub(crate) fn ghost_directory(stage: &Stage) -> Check {
    let (outer, stood_in) = (stage.path("outer"), stage.path("stood-in"));
    let inner = outer.join("inner");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&inner)?;
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o1751))?;
    let paths = ["a", "b"].map(|name| inner.join(name));
    let files =
        paths.each_ref().map(|path| File::options().read(true).write(true).create_new(true).open(path));
    let [a, b] = files;
    let (a, b) = (a?, b?);
    a.write_all_at(b"in a", 0)?;
    b.write_all_at(b"in b", 0)?;
    let directory = File::open(&inner)?;
    for path in &paths {
        fs::remove_file(path)?;
    }
    fs::remove_dir(&inner)?;
    fs::remove_dir(&outer)?;
    fs::create_dir(&stood_in)?;
    let back = std::env::current_dir()?;
    std::env::set_current_dir(&stood_in)?;
    fs::remove_dir(&stood_in)?;

    stage.freeze()?;

    ensure!(!outer.exists() && !stood_in.exists(), "the directories came back");
    for (file, text) in [(&a, b"in a"), (&b, b"in b")] {
        let mut read = [0; 4];
        file.read_exact_at(&mut read, 0)?;
        ensure_eq!(&read, text, "contents");
        ensure_eq!(file.metadata()?.nlink(), 0, "names of a file");
    }
    let stat = directory.metadata()?;
    ensure!(stat.is_dir(), "the directory is none");
    ensure_eq!((stat.nlink(), stat.mode() & 0o7777), (0, 0o1751), "names and mode of the directory");
    ensure_eq!(
        std::env::current_dir().map_err(|e| e.kind()),
        Err(std::io::ErrorKind::NotFound),
        "where it stands"
    );
    ensure_eq!(fs::metadata(".")?.nlink(), 0, "names of where it stands");
    Ok(std::env::set_current_dir(back)?)
}
