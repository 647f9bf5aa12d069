//! Why a task could not be controlled.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::names::syscall_name;

/// A task that cannot be controlled, or no longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceeError {
    /// There is no such process.
    #[error("there is no process {pid}")]
    Gone {
        /// The process asked for.
        pid: Pid,
    },
    /// The process has ended and waits for its parent to notice.
    #[error("process {pid} is a zombie")]
    Zombie {
        /// The process.
        pid: Pid,
    },
    /// A thread of the kernel, which has no memory of its own.
    #[error("{pid} is a kernel thread")]
    KernelThread {
        /// The thread.
        pid: Pid,
    },
    /// The id is that of a thread, not of a process.
    #[error("{tid} is a thread of process {process}")]
    NotAProcess {
        /// The thread.
        tid: Pid,
        /// The process it belongs to.
        process: Pid,
    },
    /// A process cannot trace itself.
    #[error("{pid} is this very process")]
    Myself {
        /// The process.
        pid: Pid,
    },
    /// Somebody else (a debugger, strace) traces it.
    #[error("process {pid} is traced by {tracer}")]
    Traced {
        /// The process.
        pid: Pid,
        /// Who traces it.
        tracer: Pid,
    },
    /// The process is in a frozen control group, and would not run before somebody thaws that.
    #[error("process {pid} is in the frozen control group {}", cgroup.display())]
    Frozen {
        /// The process.
        pid: Pid,
        /// Directory of the group.
        cgroup: PathBuf,
    },
    /// A thread has its system calls dispatched to a handler of its own, which remote calls would be as well:
    /// prctl(PR_SET_SYSCALL_USER_DISPATCH).
    #[error("thread {tid} handles system calls itself (PR_SET_SYSCALL_USER_DISPATCH)")]
    UserDispatch {
        /// The thread.
        tid: Pid,
    },
    /// A ptrace(2) request failed.
    #[error("{request} of thread {tid}")]
    Ptrace {
        /// The thread.
        tid: Pid,
        /// Name of the request.
        request: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// A thread ended while it was held.
    #[error("thread {tid} died ({how})")]
    Died {
        /// The thread.
        tid: Pid,
        /// Its exit code or signal.
        how: String,
    },
    /// A thread stopped for a reason that does not belong here.
    #[error("thread {tid} stopped unexpectedly (wait status {status:#x}, instruction pointer {ip:#x})")]
    UnexpectedStop {
        /// The thread.
        tid: Pid,
        /// What waitpid(2) said.
        status: i32,
        /// Where it stands.
        ip: u64,
    },
    /// A file of /proc could not be used.
    #[error("pid {pid}: cannot {action} {file}")]
    Proc {
        /// The process.
        pid: Pid,
        /// What was tried.
        action: &'static str,
        /// File in its directory of /proc.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Memory of the task could not be read or written.
    #[error("pid {pid}: cannot {action} {len} bytes at {addr:#x}")]
    Memory {
        /// The process.
        pid: Pid,
        /// "read" or "write".
        action: &'static str,
        /// Where.
        addr: u64,
        /// How much.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The task has no code with a system call instruction that could be used.
    #[error("pid {pid} maps no vdso, so no system call can be run in it")]
    NoVdso {
        /// The process.
        pid: Pid,
    },
    /// The thread runs 32-bit code.
    #[error("thread {tid} is not in 64-bit mode (code segment {cs:#x})")]
    Not64Bit {
        /// The thread.
        tid: Pid,
        /// Its code segment selector.
        cs: u64,
    },
    /// The thread has a seccomp filter that would judge remote calls, and could kill the program for them.
    #[error("thread {tid} is under seccomp, which cannot be suspended without CAP_SYS_ADMIN")]
    Seccomp {
        /// The thread.
        tid: Pid,
    },
    /// A system call run in the task's context failed.
    #[error("{name} (system call {nr}) run by thread {tid}")]
    Remote {
        /// The thread.
        tid: Pid,
        /// Name of the call, `"?"` if it is not known here.
        name: &'static str,
        /// Number of the call.
        nr: i64,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// Result of this crate.
pub type Result<T, E = TraceeError> = std::result::Result<T, E>;

impl TraceeError {
    pub(crate) fn ptrace(tid: Pid, request: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| match source {
            Errno::ESRCH | Errno::ECHILD => {
                Self::Died { tid, how: format!("{request} finds no such thread") }
            }
            source => Self::Ptrace { tid, request, source },
        }
    }

    pub(crate) fn remote(tid: Pid, nr: i64) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Remote { tid, name: syscall_name(nr), nr, source }
    }

    pub(crate) fn proc(
        pid: Pid,
        action: &'static str,
        file: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| match source.kind() {
            io::ErrorKind::NotFound if file.starts_with("status") || file.starts_with("task") => {
                Self::Gone { pid }
            }
            _ => Self::Proc { pid, action, file, source },
        }
    }
}
