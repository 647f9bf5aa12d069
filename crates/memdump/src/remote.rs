//! Memory of another process, by several ways.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::error::CaptureError;
use crate::query::PAGE_SIZE;

/// Memory that can be read by address.
pub trait RemoteMemory {
    /// Reads from `addr` on into `buf`; returns how many bytes were read, which may be fewer than asked for if what
    /// follows cannot be read.
    ///
    /// # Errors
    /// EFAULT or EIO if already the first byte cannot be read, ESRCH if the process is gone.
    fn read_at(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Reads pieces (address, length) one behind the other into `buf`, which is as long as they are together; returns
    /// how many bytes were read before something could not be.
    ///
    /// # Errors
    /// As [`RemoteMemory::read_at`].
    fn read_pieces(&self, pieces: &[(u64, u64)], buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        for &(addr, len) in pieces {
            let rest = buf.get_mut(done..).unwrap_or_default();
            let part_len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let part = rest.get_mut(..part_len).unwrap_or_default();
            match self.read_at(addr, part) {
                Ok(read) => {
                    done += read;
                    if read < part_len {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// Memory by process_vm_readv(2): the fastest way, which honours protections as the process itself has to.
#[derive(Debug, Clone, Copy)]
pub struct ProcessVm {
    pid: Pid,
}

impl ProcessVm {
    /// The memory of `pid`.
    pub fn new(pid: Pid) -> Self {
        Self { pid }
    }
}

impl RemoteMemory for ProcessVm {
    fn read_at(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
        let len = u64::try_from(buf.len()).expect("usize is at most 64 bits");
        self.read_pieces(&[(addr, len)], buf)
    }

    fn read_pieces(&self, pieces: &[(u64, u64)], buf: &mut [u8]) -> io::Result<usize> {
        let word = |value: u64| usize::try_from(value).map_err(|_| io::Error::from(Errno::EFAULT));
        let remote = pieces
            .iter()
            .map(|&(base, len)| Ok(RemoteIoVec { base: word(base)?, len: word(len)? }))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(process_vm_readv(self.pid, &mut [IoSliceMut::new(buf)], &remote)?)
    }
}

/// Memory by `/proc/PID/mem`: slower, but reads areas whose protection forbids it, too.
#[derive(Debug)]
pub struct ProcMem {
    file: File,
}

impl ProcMem {
    /// Opens the memory of `pid`. The file stays with this address space, also after an exec.
    ///
    /// # Errors
    /// [`CaptureError::Died`], [`CaptureError::Proc`] without permission.
    pub fn open(pid: Pid) -> Result<Self, CaptureError> {
        let path = PathBuf::from(format!("/proc/{pid}/mem"));
        let file = File::open(&path).map_err(|source| CaptureError::proc(pid, path, source))?;
        Ok(Self { file })
    }
}

impl RemoteMemory for ProcMem {
    fn read_at(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.file.read_at(buf, addr) {
            // There is no end of the file; nothing is read when the address space is gone.
            Ok(0) if !buf.is_empty() => Err(Errno::ESRCH.into()),
            other => other,
        }
    }
}

/// A shared memory object, read by the position in it.
#[derive(Debug)]
pub struct ObjectMemory<'a> {
    object: &'a File,
}

impl<'a> ObjectMemory<'a> {
    /// Reads `object`, opened through [`crate::Area::map_files`] or duplicated from a descriptor.
    pub fn new(object: &'a File) -> Self {
        Self { object }
    }
}

impl RemoteMemory for ObjectMemory<'_> {
    fn read_at(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.object.read_at(buf, addr)?;
        let Some(rest) = buf.get_mut(read..).filter(|rest| !rest.is_empty()) else { return Ok(read) };
        // The last page of an object whose size is no multiple of a page holds zeros behind its end.
        let end = addr.saturating_add(u64::try_from(read).expect("usize is at most 64 bits"));
        let tail = usize::try_from(end.next_multiple_of(PAGE_SIZE) - end).expect("less than a page");
        let zeros = tail.min(rest.len());
        if read + zeros == 0 {
            return Err(Errno::EFAULT.into());
        }
        rest.iter_mut().take(zeros).for_each(|byte| *byte = 0);
        Ok(read + zeros)
    }
}

/// Memory written down in advance, for tests and replays.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Recorded {
    /// No memory at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `bytes` at `addr`. What overlaps earlier pieces is found at the piece that starts last.
    #[must_use]
    pub fn with(mut self, addr: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.pages.insert(addr, bytes.into());
        self
    }

    /// The recorded bytes from `addr` to the end of their piece.
    fn piece_at(&self, addr: u64) -> Option<&[u8]> {
        let (start, bytes) = self.pages.range(..=addr).next_back()?;
        bytes.get(usize::try_from(addr - start).ok()?..).filter(|rest| !rest.is_empty())
    }
}

impl RemoteMemory for Recorded {
    fn read_at(&self, addr: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = addr.saturating_add(u64::try_from(done).expect("usize is at most 64 bits"));
            let Some(piece) = self.piece_at(at) else {
                return if done == 0 { Err(Errno::EFAULT.into()) } else { Ok(done) };
            };
            for (to, from) in rest.iter_mut().zip(piece) {
                *to = *from;
                done += 1;
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_memory_reads_across_pieces_and_stops_at_holes() {
        let memory = Recorded::new().with(10, *b"abc").with(13, *b"de").with(20, *b"x");
        let mut buf = [0; 8];
        assert_eq!(memory.read_at(11, &mut buf).unwrap(), 4);
        assert_eq!(&buf[..4], b"bcde");
        assert_eq!(memory.read_at(15, &mut buf).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(memory.read_at(9, &mut buf).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn pieces_are_read_up_to_the_first_that_fails() {
        let memory = Recorded::new().with(10, *b"abc").with(20, *b"xyz");
        let mut buf = [0; 6];
        assert_eq!(memory.read_pieces(&[(20, 3), (10, 3)], &mut buf).unwrap(), 6);
        assert_eq!(&buf, b"xyzabc");
        assert_eq!(memory.read_pieces(&[(21, 3), (10, 3)], &mut buf).unwrap(), 2);
        assert!(memory.read_pieces(&[(0, 3), (10, 3)], &mut buf).is_err());
    }

    #[test]
    fn both_ways_read_our_own_memory() {
        let text = *b"some memory of our own";
        let addr = u64::try_from(text.as_ptr().addr()).unwrap();
        let mem = ProcMem::open(Pid::this()).unwrap();
        for memory in [&ProcessVm::new(Pid::this()) as &dyn RemoteMemory, &mem] {
            let mut buf = [0; 22];
            assert_eq!(memory.read_at(addr, &mut buf).unwrap(), 22);
            assert_eq!(buf, text);
        }
    }

    #[test]
    fn an_object_ends_with_its_last_page() {
        let mut object = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut object, b"abc").unwrap();
        let memory = ObjectMemory::new(&object);
        let mut buf = [9; 8];
        assert_eq!(memory.read_at(1, &mut buf).unwrap(), 8);
        assert_eq!(buf, *b"bc\0\0\0\0\0\0");
        assert_eq!(memory.read_at(PAGE_SIZE - 3, &mut buf).unwrap(), 3);
        assert!(memory.read_at(PAGE_SIZE, &mut buf).is_err());
    }
}
