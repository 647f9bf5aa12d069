//! Why memory could not be captured.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;

/// Memory that could not be surveyed or captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// There is no such process, or it ended while it was looked at.
    #[error("process {pid} is gone")]
    Died {
        /// The process.
        pid: Pid,
    },
    /// The process replaced its program (execve) while its memory was read.
    #[error("process {pid} has begun to run another program")]
    Replaced {
        /// The process.
        pid: Pid,
    },
    /// A thread of the kernel or a zombie: there is no user memory.
    #[error("process {pid} has no memory of its own")]
    NoMemory {
        /// The process.
        pid: Pid,
    },
    /// A file under `/proc/PID` cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Proc {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A list of mappings does not look as the kernel writes it.
    #[error("line {line} of the mappings: {problem}")]
    Malformed {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Reading the list of mappings failed half-way.
    #[error("cannot read line {line} of the mappings")]
    MapsRead {
        /// The line, counted from 1.
        line: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// This kernel lacks the `PAGEMAP_SCAN` call that was asked for explicitly.
    #[error("the kernel has no PAGEMAP_SCAN (it came with Linux 6.7)")]
    NoPagemapScan {
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The page tables of a range cannot be read.
    #[error("cannot scan the pages {:#x}-{:#x} of process {pid}", range.start, range.end)]
    Scan {
        /// The process.
        pid: Pid,
        /// The addresses.
        range: Range<u64>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A page that should be there can be read in no way.
    #[error("cannot read the memory of process {pid} at {addr:#x}")]
    Unreadable {
        /// The process.
        pid: Pid,
        /// The first address that could not be read.
        addr: u64,
        /// What the kernel said to the last attempt.
        #[source]
        source: io::Error,
    },
    /// The pages of the parent checkpoint cannot be read.
    #[error("cannot compare with the parent checkpoint at {addr:#x}")]
    Parent {
        /// Where in the memory of the process.
        addr: u64,
        /// What is wrong with the parent.
        #[source]
        source: rewake_images::ImageError,
    },
    /// Pages nobody needs cannot be given back to the file system.
    #[error("cannot free pages of {}", path.display())]
    Dedup {
        /// The pages file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Image(#[from] rewake_images::ImageError),
    /// The captured pages cannot be written, for example because the disk is full.
    #[error("cannot write captured pages at offset {offset}")]
    Write {
        /// Where in the output.
        offset: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The captured pages cannot be handed over.
    #[error("cannot store captured pages")]
    Sink {
        /// What the sink says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was to end early.
    #[error("cancelled")]
    Cancelled,
}

impl CaptureError {
    /// The error of a failed `/proc/PID` access, telling a dead process from other causes.
    pub(crate) fn proc(pid: Pid, path: PathBuf, source: io::Error) -> Self {
        if is_gone(&source) { Self::Died { pid } } else { Self::Proc { path, source } }
    }
}

/// Whether `error` says that the process is not there any more.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
