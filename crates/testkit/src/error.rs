//! What can go wrong while a workload is driven.

use std::{io, path::PathBuf, time::Duration};

use nix::{errno::Errno, unistd::Pid};

/// A workload could not be started, watched or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestkitError {
    /// A file or directory operation failed.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A system call on a process failed.
    #[error("{call} on pid {pid}")]
    Process {
        /// Name of the system call.
        call: &'static str,
        /// The process it was about.
        pid: Pid,
        /// Why it failed.
        #[source]
        source: Errno,
    },
    /// The program ended before it said that it was ready.
    #[error("workload {scenario} ended before it was ready ({status}): {said}")]
    EndedEarly {
        /// Its scenario.
        scenario: String,
        /// How it ended.
        status: String,
        /// Its result and standard error, as far as there was any.
        said: String,
    },
    /// The program did not get where it should in the time given.
    #[error("workload {scenario} (pid {pid}) is not {awaited} after {waited:?}")]
    Timeout {
        /// Its scenario.
        scenario: String,
        /// Its pid.
        pid: Pid,
        /// What was waited for.
        awaited: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// The program ended without leaving a result: a signal killed it.
    #[error("workload {scenario} (pid {pid}) ended without a result: {said}")]
    NoResult {
        /// Its scenario.
        scenario: String,
        /// Its pid.
        pid: Pid,
        /// Its standard error.
        said: String,
    },
    /// The workload program itself could not be built or asked.
    #[error("{command} failed: {said}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        said: String,
    },
}
