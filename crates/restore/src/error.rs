//! Why a restore failed.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use rewake_images::ImageError;
use rewake_tracee::TraceeError;

/// A restore that did not happen. Nothing of the process is left; the checkpoint is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The checkpoint cannot be read.
    #[error("cannot read the checkpoint")]
    Image(#[from] ImageError),
    /// It holds what cannot be restored.
    #[error("{object} cannot be restored: {reason}")]
    Unsupported {
        /// What it is.
        object: String,
        /// Why not.
        reason: String,
    },
    /// An entry refers to one that is not there, or says what cannot be.
    #[error("{object}: {what}")]
    Inconsistent {
        /// The entry.
        object: String,
        /// What is wrong with it.
        what: String,
    },
    /// Files are not what they were when the process was dumped.
    #[error("files are not known to be those of the dump:\n{report}")]
    Files {
        /// Every difference, and whatever could not be checked.
        report: Box<rewake_filecheck::Report>,
    },
    /// What the checkpoint says of its files cannot be used.
    #[error("cannot check the files of the checkpoint")]
    FileCheck(#[from] rewake_filecheck::CookieError),
    /// A process or thread id is taken.
    #[error("pid {pid} is in use")]
    PidInUse {
        /// The id.
        pid: u32,
    },
    /// Somebody else holds a lock that the process held.
    #[error("cannot take the lock on {path}: somebody else holds one", path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A system call of ours failed.
    #[error("{call} for {object}")]
    Call {
        /// Name of the system call.
        call: &'static str,
        /// What it was about.
        object: String,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// A system call run by the new process failed.
    #[error("pid {pid}: {call} for {object}")]
    Remote {
        /// The process or thread.
        pid: u32,
        /// Name of the system call.
        call: &'static str,
        /// What it was about.
        object: String,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// Memory that the checkpoint lacks did not come.
    #[error("cannot fetch memory of pid {pid} at {vaddr:#x}")]
    Fetch {
        /// The process.
        pid: u32,
        /// The address.
        vaddr: u64,
        /// Why.
        #[source]
        source: rewake_memdump::SourceError,
    },
    /// The new process could not be controlled.
    #[error("cannot control pid {pid}")]
    Tracee {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: TraceeError,
    },
}

/// Result of this crate.
pub type Result<T, E = RestoreError> = std::result::Result<T, E>;

impl RestoreError {
    pub(crate) fn file(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, action, source }
    }

    pub(crate) fn call(call: &'static str, object: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let object = object.into();
        move |source| Self::Call { call, object, source }
    }

    pub(crate) fn tracee(pid: u32) -> impl FnOnce(TraceeError) -> Self {
        move |source| Self::Tracee { pid, source }
    }

    pub(crate) fn unsupported(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { object: object.into(), reason: reason.into() }
    }

    pub(crate) fn inconsistent(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Inconsistent { object: object.into(), what: what.into() }
    }
}
