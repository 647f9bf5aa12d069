//! All threads of one process, stopped.

use std::marker::PhantomData;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Result, TraceeError};
use crate::mem::TaskMem;
use crate::remote::{Remote, Scratch};
use crate::status::{self, ProcStatus};
use crate::stop::{Stop, wait_stop};
use crate::sys;
use crate::tracee::Tracee;

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It goes on; one that was in a job-control stop stays in it.
    Resume,
    /// It is left in a job-control stop (SIGSTOP).
    Stop,
    /// It is killed, and has ended when the call returns.
    Kill,
}

/// Every thread of a process in a ptrace stop, the first thread first. Belongs to the thread that made it: the kernel
/// takes ptrace requests from no other.
///
/// Dropped, it puts back what it changed and lets the process go on; a stub is killed instead.
#[derive(Debug)]
pub struct ThreadGroup {
    pid: Pid,
    pub(crate) threads: Vec<Tracee>,
    pub(crate) mem: TaskMem,
    pub(crate) scratch: Option<Scratch>,
    /// SIGTRAP is ignored: the trap of a remote call makes the kernel forget that.
    pub(crate) sigtrap_ignored: bool,
    /// There was such a trap.
    pub(crate) trapped: bool,
    pub(crate) remote_used: bool,
    stub: bool,
    released: bool,
    not_send: PhantomData<*const ()>,
}

impl ThreadGroup {
    /// Stops every thread of `pid`.
    ///
    /// All are interrupted before any is waited for, and the list of threads is read again until it holds no new one.
    ///
    /// # Errors
    /// [`TraceeError::Gone`], [`TraceeError::Zombie`], [`TraceeError::KernelThread`], [`TraceeError::Myself`],
    /// [`TraceeError::Traced`]; [`TraceeError::Ptrace`] without the right to trace it. Threads seized before the error
    /// are let go.
    pub fn seize(pid: Pid) -> Result<Self> {
        let status = check(pid)?;
        let mut options = sys::OPT_SYSGOOD;
        if status.seccomp {
            options |= sys::OPT_SUSPEND_SECCOMP;
        }
        let mut group = Self::empty(pid, &status, false)?;
        loop {
            let mut fresh = Vec::new();
            for tid in status::threads(pid)? {
                if group.threads.iter().any(|t| t.tid() == tid) {
                    continue;
                }
                match seize_thread(tid, options) {
                    Ok(()) => fresh.push(tid),
                    // It ended between the listing and now.
                    Err(TraceeError::Died { .. }) => {}
                    Err(e) => {
                        for tid in fresh {
                            let _ = wait_stop(tid).map(|_| sys::detach(tid));
                        }
                        return Err(e);
                    }
                }
            }
            if fresh.is_empty() {
                break;
            }
            group.collect(fresh)?;
        }
        match group.threads.iter().position(|t| t.tid() == pid) {
            Some(leader) => group.threads.swap(0, leader),
            None => return Err(TraceeError::Zombie { pid }),
        }
        Ok(group)
    }

    /// Stops `pid`, a child of ours with one thread. It dies with us, and threads it makes are stopped as well.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn seize_stub(pid: Pid) -> Result<Self> {
        let status = ProcStatus::read(pid)?;
        let options = sys::OPT_SYSGOOD | sys::OPT_EXITKILL | sys::OPT_TRACECLONE;
        let mut group = Self::empty(pid, &status, true)?;
        seize_thread(pid, options)?;
        group.collect(vec![pid])?;
        Ok(group)
    }

    fn empty(pid: Pid, status: &ProcStatus, stub: bool) -> Result<Self> {
        Ok(Self {
            pid,
            threads: Vec::new(),
            mem: TaskMem::open(pid)?,
            scratch: None,
            sigtrap_ignored: status.sigtrap_ignored,
            trapped: false,
            remote_used: false,
            stub,
            released: false,
            not_send: PhantomData,
        })
    }

    /// Waits for threads that were interrupted.
    pub(crate) fn collect(&mut self, tids: Vec<Pid>) -> Result<()> {
        // An error here must not leave the rest running under an interrupt nobody waits for.
        let mut failed = None;
        for tid in tids {
            match wait_stop(tid).and_then(|signal| Tracee::stopped(tid, signal, &self.mem)) {
                Ok(thread) => self.threads.push(thread),
                Err(TraceeError::Died { .. }) => {}
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its threads, the first one first.
    #[must_use]
    pub fn threads(&self) -> &[Tracee] {
        &self.threads
    }

    /// Its threads, to say what they go on with.
    pub fn threads_mut(&mut self) -> impl Iterator<Item = &mut Tracee> {
        self.threads.iter_mut()
    }

    /// Its first thread.
    ///
    /// # Panics
    /// Never: a group has at least this one.
    #[must_use]
    pub fn leader(&self) -> &Tracee {
        self.threads.first().expect("a group has at least its first thread")
    }

    /// The thread `tid`.
    pub fn thread_mut(&mut self, tid: Pid) -> Option<&mut Tracee> {
        self.threads.iter_mut().find(|t| t.tid() == tid)
    }

    /// Its memory.
    #[must_use]
    pub fn mem(&self) -> &TaskMem {
        &self.mem
    }

    /// A way to run system calls in its context. Maps a scratch area where the kernel chooses, at the first use.
    ///
    /// # Errors
    /// Any error of a remote call; [`TraceeError::NoVdso`].
    pub fn remote(&mut self) -> Result<Remote<'_>> {
        Remote::new(self, None)
    }

    /// As [`Self::remote`], with the scratch area at `addr`, where nothing may be mapped.
    ///
    /// # Errors
    /// As [`Self::remote`].
    pub fn remote_at(&mut self, addr: u64) -> Result<Remote<'_>> {
        Remote::new(self, Some(addr))
    }

    /// Lets the process go.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`]: the rest of the threads is let go all the same.
    pub fn release(mut self, how: Release) -> Result<()> {
        self.let_go(how)
    }

    fn let_go(&mut self, how: Release) -> Result<()> {
        self.released = true;
        if how == Release::Kill {
            return self.kill();
        }
        let mut outcome = Ok(());
        if self.remote_used {
            outcome = self.clean_up();
        }
        for thread in &self.threads {
            let settled = thread.settle();
            if outcome.is_ok() {
                outcome = settled;
            }
        }
        if how == Release::Stop {
            let _ = kill(self.pid, Signal::SIGSTOP);
        }
        for thread in &self.threads {
            let tid = thread.tid();
            let detached = sys::detach(tid).map_err(TraceeError::ptrace(tid, "PTRACE_DETACH"));
            if outcome.is_ok() {
                outcome = detached;
            }
        }
        outcome
    }

    fn clean_up(&mut self) -> Result<()> {
        Remote::resume(self)?.drop_scratch()
    }

    fn kill(&mut self) -> Result<()> {
        let failed = |source| TraceeError::Ptrace { tid: self.pid, request: "SIGKILL", source };
        match kill(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => return Err(failed(e)),
        }
        let ours = ProcStatus::read(self.pid).is_ok_and(|status| status.parent == Some(Pid::this()));
        // The kernel reports the first thread last.
        for thread in self.threads.iter().rev() {
            let tid = thread.tid();
            if ours && !self.stub && tid == self.pid {
                // A child of the caller's own: the caller will want to wait for it.
                return sys::wait_ended(tid).map_err(TraceeError::ptrace(tid, "waitid"));
            }
            while sys::wait(tid).is_ok_and(|status| Stop::of(status) != Stop::Ended) {}
        }
        Ok(())
    }
}

impl Drop for ThreadGroup {
    fn drop(&mut self) {
        if !self.released {
            let how = if self.stub { Release::Kill } else { Release::Resume };
            if let Err(error) = self.let_go(how) {
                tracing::warn!(pid = self.pid.as_raw(), %error, "could not let go cleanly");
            }
        }
    }
}

fn seize_thread(tid: Pid, options: libc::c_ulong) -> Result<()> {
    let seized = match sys::seize(tid, options) {
        // Suspending seccomp takes CAP_SYS_ADMIN; remote calls then depend on what the filter allows.
        Err(Errno::EPERM | Errno::EINVAL) if options & sys::OPT_SUSPEND_SECCOMP != 0 => {
            sys::seize(tid, options & !sys::OPT_SUSPEND_SECCOMP)
        }
        seized => seized,
    };
    seized.map_err(TraceeError::ptrace(tid, "PTRACE_SEIZE"))?;
    sys::interrupt(tid).map_err(TraceeError::ptrace(tid, "PTRACE_INTERRUPT"))
}

fn check(pid: Pid) -> Result<ProcStatus> {
    if pid == Pid::this() {
        return Err(TraceeError::Myself { pid });
    }
    let status = ProcStatus::read(pid)?;
    if status.kernel_thread {
        return Err(TraceeError::KernelThread { pid });
    }
    if status.zombie {
        return Err(TraceeError::Zombie { pid });
    }
    match status.tracer {
        Some(tracer) => Err(TraceeError::Traced { pid, tracer }),
        None => Ok(status),
    }
}
