//! What waitpid(2) says of a traced thread.

use nix::unistd::Pid;

use crate::error::{Result, TraceeError};
use crate::sys;

/// A wait status, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The thread ended.
    Ended,
    /// It stands because it was interrupted, or has just been made: `PTRACE_EVENT_STOP` with SIGTRAP.
    Interrupted,
    /// It takes part in a job-control stop by this signal.
    Group(i32),
    /// It has made a thread: `PTRACE_EVENT_CLONE`.
    Cloned,
    /// Another ptrace event.
    Event(i32),
    /// Entry to or exit from a system call (with `PTRACE_O_TRACESYSGOOD`).
    Syscall,
    /// It is about to receive this signal.
    Signal(i32),
}

impl Stop {
    pub(crate) fn of(status: i32) -> Self {
        const EVENT_STOP: i32 = 128;
        if !libc::WIFSTOPPED(status) {
            return Self::Ended;
        }
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            EVENT_STOP if signal == libc::SIGTRAP => Self::Interrupted,
            EVENT_STOP => Self::Group(signal),
            libc::PTRACE_EVENT_CLONE => Self::Cloned,
            0 if signal == libc::SIGTRAP | 0x80 => Self::Syscall,
            0 => Self::Signal(signal),
            event => Self::Event(event),
        }
    }
}

/// How a thread ended.
pub(crate) fn died(tid: Pid, status: i32) -> TraceeError {
    let how = if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit code {}", libc::WEXITSTATUS(status))
    };
    TraceeError::Died { tid, how }
}

/// Waits until an interrupted thread stands, delivering signals that come before. Gives the signal of the job-control
/// stop it was in, if it was in one.
pub(crate) fn wait_stop(tid: Pid) -> Result<Option<i32>> {
    loop {
        let status = sys::wait(tid).map_err(TraceeError::ptrace(tid, "waitpid"))?;
        let signal = match Stop::of(status) {
            Stop::Ended => return Err(died(tid, status)),
            Stop::Interrupted => return Ok(None),
            Stop::Group(signal) => return Ok(Some(signal)),
            // It had begun to take this signal; it stops again before it runs.
            Stop::Signal(signal) => signal,
            Stop::Cloned | Stop::Event(_) | Stop::Syscall => 0,
        };
        // Any stop that is entered after the interrupt uses it up.
        sys::interrupt(tid).map_err(TraceeError::ptrace(tid, "PTRACE_INTERRUPT"))?;
        sys::cont(tid, signal).map_err(TraceeError::ptrace(tid, "PTRACE_CONT"))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_seen_on_linux() {
        assert_eq!(Stop::of(0x80_057f), Stop::Interrupted);
        assert_eq!(Stop::of(0x80_137f), Stop::Group(libc::SIGSTOP));
        assert_eq!(Stop::of(0x3_057f), Stop::Cloned);
        assert_eq!(Stop::of(0x857f), Stop::Syscall);
        assert_eq!(Stop::of(0x057f), Stop::Signal(libc::SIGTRAP));
        assert_eq!(Stop::of(0x000b), Stop::Ended);
        assert_eq!(Stop::of(0x0300), Stop::Ended);
    }
}
