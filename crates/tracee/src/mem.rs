//! Memory of a task through /proc/PID/mem, which also reaches pages the task itself may not touch.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use nix::unistd::Pid;

use crate::error::{Result, TraceeError};

/// The memory of a process, open for reading and writing. proc_pid_mem(5).
#[derive(Debug)]
pub struct TaskMem {
    pid: Pid,
    file: File,
}

impl TaskMem {
    /// Opens the memory of `pid`.
    ///
    /// # Errors
    /// [`TraceeError::Proc`].
    pub fn open(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/mem");
        let file = OpenOptions::new().read(true).write(true).open(path);
        Ok(Self { pid, file: file.map_err(TraceeError::proc(pid, "open", "mem"))? })
    }

    /// Fills `buf` from `addr`.
    ///
    /// # Errors
    /// [`TraceeError::Memory`].
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len();
        self.file.read_exact_at(buf, addr).map_err(self.failed("read", addr, len))
    }

    /// The word at `addr`.
    ///
    /// # Errors
    /// [`TraceeError::Memory`].
    pub fn read_u64(&self, addr: u64) -> Result<u64> {
        let mut word = [0; 8];
        self.read(addr, &mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// Writes `bytes` to `addr`, whatever the protection of the pages.
    ///
    /// # Errors
    /// [`TraceeError::Memory`].
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, addr).map_err(self.failed("write", addr, bytes.len()))
    }

    fn failed(
        &self,
        action: &'static str,
        addr: u64,
        len: usize,
    ) -> impl FnOnce(std::io::Error) -> TraceeError {
        let pid = self.pid;
        move |source| TraceeError::Memory { pid, action, addr, len, source }
    }
}
