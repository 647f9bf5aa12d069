//! Why a dump failed.

use std::io;

use nix::errno::Errno;
use nix::unistd::Pid;
use rewake_images::ImageError;
use rewake_memdump::CaptureError;
use rewake_tracee::TraceeError;

use crate::preflight::Obstacle;

/// A dump that was not made. The task runs on as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The task holds something that cannot be dumped. Nothing was frozen.
    #[error("{}", describe(.obstacles))]
    Obstacles {
        /// All of them.
        obstacles: Vec<Obstacle>,
    },
    /// A file of /proc could not be read, or did not hold what it should.
    #[error("pid {pid}: cannot read {file}")]
    Proc {
        /// The task.
        pid: Pid,
        /// File in its directory of /proc.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call of ours failed.
    #[error("pid {pid}: {call} of {object}")]
    Call {
        /// The task.
        pid: Pid,
        /// Name of the system call.
        call: &'static str,
        /// What it was about.
        object: String,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// A system call run by the task failed.
    #[error("pid {pid}: {call} run by the task")]
    Remote {
        /// The task.
        pid: Pid,
        /// Name of the system call.
        call: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// The task could not be controlled.
    #[error("cannot control pid {pid}")]
    Tracee {
        /// The task.
        pid: Pid,
        /// Why.
        #[source]
        source: TraceeError,
    },
    /// Its memory could not be read.
    #[error("cannot capture the memory of pid {pid}")]
    Capture {
        /// The task.
        pid: Pid,
        /// Why.
        #[source]
        source: CaptureError,
    },
    /// [`crate::DumpOptions::progress`] wanted it to end.
    #[error("cancelled: the process goes on, and no checkpoint was made")]
    Cancelled,
    /// [`crate::dump_in_rounds`] with [`crate::DumpOptions::memory_target`], which takes the memory of one round.
    #[error("the memory of several rounds cannot go to one place: pre-dump and dump one by one")]
    RoundsElsewhere,
    /// The checkpoint could not be written.
    #[error("cannot write the checkpoint")]
    Image(#[source] ImageError),
}

/// Result of this crate.
pub type Result<T, E = DumpError> = std::result::Result<T, E>;

fn describe(obstacles: &[Obstacle]) -> String {
    let mut text = String::from("cannot be dumped:");
    for obstacle in obstacles {
        text.push_str(&format!("\n  {obstacle}"));
    }
    text
}

impl DumpError {
    pub(crate) fn proc(pid: Pid, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Proc { pid, file, source }
    }

    pub(crate) fn call(
        pid: Pid,
        call: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(Errno) -> Self {
        let object = object.into();
        move |source| Self::Call { pid, call, object, source }
    }

    pub(crate) fn capture(pid: Pid) -> impl Fn(CaptureError) -> Self + Copy {
        move |source| match source {
            CaptureError::Cancelled => Self::Cancelled,
            source => Self::Capture { pid, source },
        }
    }

    pub(crate) fn tracee(pid: Pid) -> impl FnOnce(TraceeError) -> Self {
        move |source| Self::Tracee { pid, source }
    }
}

impl From<ImageError> for DumpError {
    fn from(source: ImageError) -> Self {
        Self::Image(source)
    }
}
