//! pipe(2) and fifo(7): the open ends, and what is queued between them.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, tee};
use nix::unistd::{pipe2, read};
use rewake_images::proto::{FdTypes, FifoEntry, FileEntry, PipeDataEntry, PipeEntry};

use super::{OpenFile, entry};
use crate::error::{DumpError, Result};
use crate::sys;

/// The number of a pipe in the images. Inode numbers of pipes are counted from boot and fit for a very long time.
pub(super) fn pipe_id(file: &OpenFile) -> Result<u32> {
    u32::try_from(file.stat.st_ino).map_err(|_| DumpError::Call {
        pid: file.pid,
        call: "fstat",
        object: format!("pipe {}", file.stat.st_ino),
        source: Errno::EOVERFLOW,
    })
}

pub(super) fn survey_pipe(file: &OpenFile, id: u32) -> Result<FileEntry> {
    let pipe =
        PipeEntry { id, pipe_id: pipe_id(file)?, flags: file.flags, fown: file.fown, ..Default::default() };
    Ok(FileEntry { pipe: Some(pipe.into()), ..entry(FdTypes::Pipe, id) })
}

/// `regf_id` is the file entry with the path.
pub(super) fn survey_fifo(file: &OpenFile, id: u32, regf_id: u32) -> Result<FileEntry> {
    let fifo = FifoEntry { id, pipe_id: pipe_id(file)?, regf_id: Some(regf_id) };
    Ok(FileEntry { fifo: Some(fifo.into()), ..entry(FdTypes::Fifo, id) })
}

/// What is queued in a pipe, and its capacity. Nothing is taken out. `file` is an end that can be read.
pub(super) fn contents(file: &OpenFile) -> Result<(PipeDataEntry, Vec<u8>)> {
    let failed = |call| DumpError::call(file.pid, call, format!("the pipe of descriptor {}", file.fd));
    let size = sys::pipe_size(file.dup.as_fd()).map_err(failed("F_GETPIPE_SZ"))?;
    let queued = sys::bytes_queued(file.dup.as_fd()).map_err(failed("FIONREAD"))?;
    let mut bytes = Vec::new();
    if queued > 0 {
        // A copy takes as many slots as the original, however small the pieces are.
        let (from, to) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe2"))?;
        sys::set_pipe_size(to.as_fd(), size).map_err(failed("F_SETPIPE_SZ"))?;
        let wanted = usize::try_from(queued).expect("a u32");
        let copied = tee(&file.dup, &to, wanted, SpliceFFlags::SPLICE_F_NONBLOCK).map_err(failed("tee"))?;
        drop(to);
        bytes = vec![0; copied];
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty()) {
            match read(&from, rest).map_err(failed("read"))? {
                0 => break,
                n => at += n,
            }
        }
        if at != wanted {
            return Err(failed("tee")(Errno::EIO));
        }
    }
    let entry = PipeDataEntry { pipe_id: pipe_id(file)?, bytes: queued, size: Some(size) };
    Ok((entry, bytes))
}

/// Whether this end can be read.
pub(crate) fn readable(file: &OpenFile) -> bool {
    file.flags & libc::O_ACCMODE.unsigned_abs() != libc::O_WRONLY.unsigned_abs()
        && file.flags & libc::O_PATH.unsigned_abs() == 0
}

/// Packet mode: each write is read back as one piece, which the images have no place for.
pub(super) fn packets(file: &OpenFile) -> bool {
    file.flags & libc::O_DIRECT.unsigned_abs() != 0
}

/// Whether somebody outside holds the other end: this one is not at its end, though no descriptor of ours is the other.
pub(crate) fn other_end_is_open(file: &OpenFile) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(file.dup.as_fd(), PollFlags::empty())];
    if poll(&mut fds, PollTimeout::ZERO).is_err() {
        return true;
    }
    let [end] = &fds;
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    !end.revents().is_some_and(|events| events.intersects(gone))
}
