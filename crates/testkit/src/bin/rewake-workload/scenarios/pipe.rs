//! Pipes and FIFOs with data in flight.

use std::os::fd::OwnedFd;

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::stat::Mode,
    unistd::{mkfifo, pipe2, write},
};

use crate::{
    stage::{At, Check, Stage, ensure, ensure_eq},
    sys::{fd, mem},
};

/// Full, half full, empty and one-ended pipes.
pub(crate) fn pipe(stage: &Stage) -> Check {
    let half = pipe2(OFlag::O_CLOEXEC)?;
    let contents = mem::bytes(5, 10_000);
    ensure_eq!(write(&half.1, &contents)?, contents.len(), "write");
    let full = pipe2(OFlag::O_NONBLOCK)?;
    let size = fcntl(&full.0, FcntlArg::F_SETPIPE_SZ(1 << 17))?;
    let filling = mem::bytes(6, size as usize);
    ensure_eq!(write(&full.1, &filling)?, filling.len(), "fill");
    let empty = pipe2(OFlag::empty())?;
    let (no_writer, gone) = pipe2(OFlag::empty())?;
    write(&gone, b"last words")?;
    drop(gone);
    let (gone, no_reader) = pipe2(OFlag::empty())?;
    drop(gone);
    let second_reader = half.0.try_clone()?;
    let table = fd::table()?;

    stage.freeze()?;

    fd::check_table(&table)?;
    ensure_eq!(fd::read(&half.0, 4_000)?, contents[..4_000], "first part");
    ensure_eq!(fd::read(&second_reader, 1 << 16)?, contents[4_000..], "the rest, by the other number");
    ensure_eq!(fcntl(&full.0, FcntlArg::F_GETPIPE_SZ)?, size, "size");
    ensure_eq!(write(&full.1, b"x"), Err(Errno::EAGAIN), "write to a full pipe");
    ensure_eq!(drain(&full.0)?, filling, "contents of the full pipe");
    write(&empty.1, b"new")?;
    ensure_eq!(fd::read(&empty.0, 9)?, b"new", "through the empty pipe");
    ensure_eq!(fd::read(&no_writer, 99)?, b"last words", "pipe without writer");
    ensure_eq!(fd::read(&no_writer, 99)?, b"", "its end");
    ensure_eq!(write(&no_reader, b"x"), Err(Errno::EPIPE), "pipe without reader");
    Ok(())
}

/// A pipe that keeps what each write wrote apart.
pub(crate) fn pipe_packets(stage: &Stage) -> Check {
    let packets = pipe2(OFlag::O_DIRECT | OFlag::O_NONBLOCK)?;
    let table = fd::table()?;
    stage.freeze()?;
    fd::check_table(&table)?;
    write(&packets.1, b"one")?;
    write(&packets.1, b"two")?;
    ensure_eq!(fd::read(&packets.0, 99)?, b"one", "first packet");
    ensure_eq!(fd::read(&packets.0, 99)?, b"two", "second packet");
    Ok(())
}

fn drain(end: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut all = Vec::new();
    loop {
        match fd::read(end, 1 << 16) {
            Ok(bytes) => all.extend(bytes),
            Err(Errno::EAGAIN) => return Ok(all),
            Err(errno) => return Err(errno),
        }
    }
}

/// A FIFO open at both ends, one open for both, with data.
pub(crate) fn fifo(stage: &Stage) -> Check {
    let path = stage.path("fifo");
    mkfifo(&path, Mode::from_bits_retain(0o600))?;
    let both = fd::open(&path, libc::O_RDWR | libc::O_NONBLOCK)?;
    let reader = fd::open(&path, libc::O_RDONLY | libc::O_NONBLOCK)?;
    let writer = fd::open(&path, libc::O_WRONLY)?;
    write(&writer, b"in flight")?;
    let table = fd::table()?;

    stage.freeze()?;

    fd::check_table(&table)?;
    ensure_eq!(fd::read(&reader, 3)?, b"in ", "first part");
    ensure_eq!(fd::read(&both, 99)?, b"flight", "the rest, by the other end");
    write(&both, b"new").at("write")?;
    ensure_eq!(fd::read(&reader, 99)?, b"new", "through the FIFO");
    ensure!(path.exists(), "its name is gone");
    Ok(())
}
