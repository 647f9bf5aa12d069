//! pipe(2) and fifo(7).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::{pipe2, write};
use rewake_images::proto::{PipeDataEntry, PipeEntry, RegFileEntry};

use crate::error::{RestoreError, Result};
use crate::sys;

/// A pipe while its ends are being opened.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Kept open until all ends are: a pipe nobody has open loses its contents.
    held: Held,
    /// Whether the ends that pipe2(2) made, for reading and for writing, were given away.
    given: (bool, bool),
}

/// What open(2) adds to the flags on 64-bit machines, and pipe2(2) does not.
const O_LARGEFILE: u32 = 0o100_000;

#[derive(Debug)]
enum Held {
    Ends(OwnedFd, OwnedFd),
    Fifo(#[expect(dead_code, reason = "held open")] OwnedFd),
}

/// Creates a pipe and puts back what was queued in it.
pub(super) fn create(pipe_id: u32, data: Option<&(PipeDataEntry, Vec<u8>)>) -> Result<Pipe> {
    let object = || format!("pipe {pipe_id}");
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).map_err(RestoreError::call("pipe2", object()))?;
    fill(&write_end, data, &object())?;
    Ok(Pipe { held: Held::Ends(read_end, write_end), given: (false, false) })
}

/// Opens a named pipe so that it keeps its contents, and puts back what was queued in it.
pub(super) fn hold_fifo(path: &Path, data: Option<&(PipeDataEntry, Vec<u8>)>) -> Result<Pipe> {
    let flags = (libc::O_RDWR | libc::O_NONBLOCK).unsigned_abs();
    let fifo: OwnedFd = super::open_with(path, flags)?.into();
    fill(&fifo, data, &path.display().to_string())?;
    Ok(Pipe { held: Held::Fifo(fifo), given: (false, false) })
}

fn fill(end: &OwnedFd, data: Option<&(PipeDataEntry, Vec<u8>)>, object: &str) -> Result<()> {
    let Some((entry, bytes)) = data else { return Ok(()) };
    if let Some(size) = entry.size {
        sys::fcntl_int(end.as_fd(), libc::F_SETPIPE_SZ, size.cast_signed())
            .map_err(RestoreError::call("fcntl(F_SETPIPE_SZ)", object))?;
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        // What was in the pipe fits it, or the image lies: then this must not wait for a reader.
        sys::fcntl_int(end.as_fd(), libc::F_SETFL, libc::O_NONBLOCK)
            .map_err(RestoreError::call("fcntl(F_SETFL)", object))?;
        let written = write(end, rest).map_err(RestoreError::call("write", object))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}

impl Pipe {
    /// An end of it.
    pub(super) fn open(&mut self, entry: &PipeEntry) -> Result<OwnedFd> {
        let Held::Ends(read_end, write_end) = &self.held else {
            return Err(RestoreError::inconsistent(
                format!("pipe {}", entry.pipe_id),
                "it is a named pipe as well",
            ));
        };
        let access = entry.flags & libc::O_ACCMODE.unsigned_abs();
        let writes = access == libc::O_WRONLY.unsigned_abs();
        let end = if writes { write_end } else { read_end };
        let given = if writes { &mut self.given.1 } else { &mut self.given.0 };
        // Each entry is an open file of its own. The first of each side is the one pipe2(2) made; others were opened
        // anew, which O_LARGEFILE tells, and so they are again.
        let made = access != libc::O_RDWR.unsigned_abs() && entry.flags & O_LARGEFILE == 0;
        let opened = if made && !std::mem::replace(given, true) {
            end.try_clone().map_err(RestoreError::file("a pipe", "duplicate"))?
        } else {
            // Packet mode is no way to open one.
            super::reopen(end.as_fd(), entry.flags & !libc::O_DIRECT.unsigned_abs())?
        };
        super::set_status(&opened, entry.flags, entry.id)?;
        Ok(opened)
    }

    /// An end of a named pipe. Held open for reading and writing, no open waits for another.
    pub(super) fn open_fifo(&mut self, path: &Path, reg: &RegFileEntry) -> Result<OwnedFd> {
        let fd: OwnedFd = super::open_with(path, reg.flags)?.into();
        Ok(fd)
    }
}
