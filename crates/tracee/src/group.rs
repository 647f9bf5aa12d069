//! All threads of one process, stopped.

use std::marker::PhantomData;
use std::ops::Range;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arch::USER_CS_64;
use crate::cgroup;
use crate::error::{Result, TraceeError};
use crate::mem::TaskMem;
use crate::remote::Remote;
use crate::seizing::Seizing;
use crate::status::{self, ProcStatus};
use crate::stop::{Stop, died, wait_stop};
use crate::sys;
use crate::tracee::Tracee;
use crate::vdso;

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
    pub(crate) pid: Pid,
    pub(crate) threads: Vec<Tracee>,
    pub(crate) mem: TaskMem,
    /// Start of the area mapped for remote calls.
    pub(crate) scratch: Option<u64>,
    /// Address of a `syscall` instruction outside of it.
    pub(crate) instruction: Option<u64>,
    /// The program ignores SIGTRAP: the trap of a remote call makes the kernel forget that.
    pub(crate) sigtrap_ignored: bool,
    /// No thread has its system calls dispatched to itself.
    pub(crate) undispatched: bool,
    /// Seccomp does not judge remote calls, or there is none.
    pub(crate) unfiltered: bool,
    pub(crate) stub: bool,
    pub(crate) released: bool,
    pub(crate) not_send: PhantomData<*const ()>,
}

impl ThreadGroup {
    /// Stops every thread of `pid`.
    ///
    /// All are interrupted before any is waited for, and the list of threads is read again until it holds no new one.
    ///
    /// # Errors
    /// [`TraceeError::Gone`], [`TraceeError::Zombie`], [`TraceeError::KernelThread`], [`TraceeError::Myself`],
    /// [`TraceeError::Traced`], [`TraceeError::NotAProcess`], [`TraceeError::Frozen`]; [`TraceeError::Ptrace`] without the right to trace it.
    /// Threads seized before the error are let go.
    pub fn seize(pid: Pid) -> Result<Self> {
        check(pid)?;
        let mut seizing = Seizing::new(pid, 0);
        // How many there are the kernel tells at once, while listing them takes it a look at each.
        while seizing.stop(&status::threads(pid)?)? && !seizing.has_all(&ProcStatus::read(pid)?) {}
        seizing.into_group(false)
    }

    /// Stops `pid`, a child of ours with one thread. It dies with us, and threads it makes are stopped as well.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn seize_stub(pid: Pid) -> Result<Self> {
        let mut seizing = Seizing::new(pid, sys::OPT_EXITKILL | sys::OPT_TRACECLONE);
        seizing.stop(&[pid])?;
        seizing.into_group(true)
    }

    /// Takes in threads that stop by themselves because one of ours made them.
    pub(crate) fn collect(&mut self, tids: &[Pid]) -> Result<()> {
        tids.iter().try_for_each(|&tid| {
            let signal = wait_stop(tid)?;
            self.threads.push(Tracee::stopped(tid, signal, &self.mem)?);
            Ok(())
        })
    }

    /// That remote calls can be made and do no harm.
    pub(crate) fn check_remote(&mut self) -> Result<()> {
        if let Some(thread) = self.threads.iter().find(|t| t.saved_regs().cs != USER_CS_64) {
            return Err(TraceeError::Not64Bit { tid: thread.tid(), cs: thread.saved_regs().cs });
        }
        if self.scratch.is_none() {
            cgroup::check_runs(self.pid)?;
        }
        if !self.unfiltered {
            // Filters are inherited and never go away. So a thread that has as many as we have is, in all likelihood,
            // under those of the container we share with it, which let us make such calls as well.
            let ours = ProcStatus::read(Pid::this())?;
            for tid in self.threads.iter().map(Tracee::tid) {
                let theirs = ProcStatus::of_thread(self.pid, tid)?;
                if theirs.seccomp == 1 || theirs.seccomp_filters > ours.seccomp_filters {
                    return Err(TraceeError::Seccomp { tid });
                }
            }
            self.unfiltered = true;
        }
        if !self.undispatched {
            // Kernels before 6.4 do not tell.
            let dispatches = |tid: &Pid| sys::dispatches(*tid).unwrap_or(false);
            if let Some(tid) = self.threads.iter().map(Tracee::tid).find(dispatches) {
                return Err(TraceeError::UserDispatch { tid });
            }
            self.undispatched = true;
        }
        Ok(())
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

    pub(crate) fn leader_mut(&mut self) -> &mut Tracee {
        self.threads.first_mut().expect("a group has at least its first thread")
    }

    /// The thread `tid`.
    #[must_use]
    pub fn thread(&self, tid: Pid) -> Option<&Tracee> {
        self.threads.iter().find(|t| t.tid() == tid)
    }

    /// The thread `tid`, to say what it goes on with.
    pub fn thread_mut(&mut self, tid: Pid) -> Option<&mut Tracee> {
        self.threads.iter_mut().find(|t| t.tid() == tid)
    }

    /// Its memory.
    #[must_use]
    pub fn mem(&self) -> &TaskMem {
        &self.mem
    }

    /// Says where its vdso is: that takes a look at all mappings, which the caller may have had.
    ///
    /// # Errors
    /// [`TraceeError::NoVdso`] if there is no `syscall` instruction; [`TraceeError::Memory`].
    pub fn set_vdso(&mut self, vdso: Range<u64>) -> Result<()> {
        self.instruction = Some(vdso::find_syscall_in(self.pid, &self.mem, vdso)?);
        Ok(())
    }

    /// A way to run system calls in its context. Maps a scratch area where the kernel chooses, at the first use.
    ///
    /// # Errors
    /// Any error of a remote call; [`TraceeError::NoVdso`], [`TraceeError::Not64Bit`], [`TraceeError::Seccomp`],
    /// [`TraceeError::Frozen`], [`TraceeError::UserDispatch`].
    pub fn remote(&mut self) -> Result<Remote<'_>> {
        Remote::new(self, None)
    }

    /// As [`Self::remote`], with the scratch area at `addr`, where nothing may be mapped. One that is somewhere else is moved.
    ///
    /// # Errors
    /// As [`Self::remote`]; [`TraceeError::Remote`] with `EEXIST` if something is mapped there.
    pub fn remote_at(&mut self, addr: impl Into<Option<u64>>) -> Result<Remote<'_>> {
        Remote::new(self, addr.into())
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
        let mut outcome = match self.scratch {
            Some(_) => Remote::bare(self).and_then(Remote::finish),
            None => Ok(()),
        };
        // If the process was killed meanwhile, the first thread ends last.
        for thread in self.threads.iter_mut().rev() {
            outcome = outcome.and(settle(thread, self.pid));
        }
        if how == Release::Stop {
            let _ = kill(self.pid, Signal::SIGSTOP);
        }
        for tid in self.threads.iter().rev().map(Tracee::tid) {
            outcome = outcome.and(match sys::detach(tid) {
                Err(Errno::ESRCH) => bury(tid, self.pid),
                done => done.map_err(TraceeError::ptrace(tid, "PTRACE_DETACH")),
            });
        }
        outcome
    }

    fn kill(&mut self) -> Result<()> {
        match kill(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(source) => {
                return Err(TraceeError::Ptrace { tid: self.pid, request: "SIGKILL", source });
            }
        }
        // The kernel reports the first thread last.
        for tid in self.threads.iter().rev().map(Tracee::tid) {
            while sys::wait_peek(tid) == Ok(false) {
                let _ = sys::wait(tid);
            }
            if self.stub || !is_callers_child(tid, self.pid) {
                let _ = sys::wait(tid);
            }
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

/// Puts everything in place for the thread to go on, wherever it is.
fn settle(thread: &mut Tracee, pid: Pid) -> Result<()> {
    match thread.settle() {
        // It is dead, or was left running by something that failed.
        Err(TraceeError::Died { .. }) => {
            let tid = thread.tid();
            // Fails for a thread that is about to end, which the wait then tells.
            let _ = sys::interrupt(tid);
            bury(tid, pid)?;
            thread.settle()
        }
        settled => settled,
    }
}

/// Removes a thread that has ended, as its tracer has to. `Ok` if it has stopped instead.
fn bury(tid: Pid, pid: Pid) -> Result<()> {
    let failed = || TraceeError::ptrace(tid, "waitpid");
    if sys::wait_peek(tid).map_err(failed())? && is_callers_child(tid, pid) {
        return Err(TraceeError::Died { tid, how: "it was killed".to_owned() });
    }
    let status = sys::wait(tid).map_err(failed())?;
    if Stop::of(status) == Stop::Ended { Err(died(tid, status)) } else { Ok(()) }
}

/// The caller will want to wait for the end of a child of its own; it must find it.
fn is_callers_child(tid: Pid, pid: Pid) -> bool {
    tid == pid && ProcStatus::read(pid).is_ok_and(|status| status.parent == Some(Pid::this()))
}

fn check(pid: Pid) -> Result<()> {
    if pid == Pid::this() {
        return Err(TraceeError::Myself { pid });
    }
    let status = ProcStatus::read(pid)?;
    if let Some(process) = status.process.filter(|&process| process != pid) {
        return Err(TraceeError::NotAProcess { tid: pid, process });
    }
    if status.kernel_thread {
        return Err(TraceeError::KernelThread { pid });
    }
    if status.zombie {
        return Err(TraceeError::Zombie { pid });
    }
    match status.tracer {
        Some(tracer) => Err(TraceeError::Traced { pid, tracer }),
        None => cgroup::check_stops(pid),
    }
}
