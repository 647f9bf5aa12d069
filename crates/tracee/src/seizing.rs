//! Stopping threads until a process has none that runs.

use std::collections::HashSet;
use std::marker::PhantomData;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::{Result, TraceeError};
use crate::group::ThreadGroup;
use crate::mem::TaskMem;
use crate::status::ProcStatus;
use crate::stop::wait_stop;
use crate::sys;
use crate::tracee::Tracee;

/// Threads stopped so far. Dropped, it lets them go.
#[derive(Debug)]
pub(crate) struct Seizing {
    pid: Pid,
    options: libc::c_ulong,
    /// Every thread of them, with the signal of the job-control stop it was in.
    stopped: Vec<(Pid, Option<i32>)>,
    known: HashSet<Pid>,
}

impl Seizing {
    pub(crate) fn new(pid: Pid, options: libc::c_ulong) -> Self {
        // Whether a thread has a filter costs more to find out than suspending it.
        let options = options | sys::OPT_SYSGOOD | sys::OPT_SUSPEND_SECCOMP;
        Self { pid, options, stopped: Vec::new(), known: HashSet::new() }
    }

    /// Stops the threads of the list that do not stand yet. True if there were any, so that they may have made others.
    pub(crate) fn stop(&mut self, tids: &[Pid]) -> Result<bool> {
        let mut fresh = Vec::new();
        let mut outcome = Ok(false);
        for &tid in tids {
            if self.known.contains(&tid) {
                continue;
            }
            match self.seize(tid) {
                Ok(true) => fresh.push(tid),
                Ok(false) => outcome = outcome.and(Ok(true)),
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
        }
        if !fresh.is_empty() {
            outcome = outcome.and(Ok(true));
        }
        // Also after an error: none may be left with an interrupt nobody waits for.
        for tid in fresh {
            match wait_stop(tid) {
                Ok(signal) => {
                    self.known.insert(tid);
                    self.stopped.push((tid, signal));
                }
                Err(TraceeError::Died { .. }) => {}
                Err(e) => outcome = outcome.and(Err(e)),
            }
        }
        outcome
    }

    /// Whether a process with that status has no other threads than those that stand.
    pub(crate) fn has_all(&self, status: &ProcStatus) -> bool {
        status.threads == self.stopped.len()
    }

    /// Begins to stop a thread. False if it has ended since it was listed.
    fn seize(&mut self, tid: Pid) -> Result<bool> {
        let fewer = self.options & !sys::OPT_SUSPEND_SECCOMP;
        let seized = match sys::seize(tid, self.options) {
            // Suspending seccomp takes CAP_SYS_ADMIN.
            Err(Errno::EPERM | Errno::EINVAL) if self.options != fewer => {
                sys::seize(tid, fewer).inspect(|()| self.options = fewer)
            }
            seized => seized,
        };
        match seized {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(false),
            // Also the answer for a thread that is ending.
            Err(Errno::EPERM) if self.has_ended(tid)? => return Ok(false),
            Err(source) => {
                return Err(TraceeError::Ptrace { tid, request: "PTRACE_SEIZE", source });
            }
        }
        match sys::interrupt(tid).map_err(TraceeError::ptrace(tid, "PTRACE_INTERRUPT")) {
            // The wait will tell, and has to remove it.
            Ok(()) | Err(TraceeError::Died { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    fn has_ended(&self, tid: Pid) -> Result<bool> {
        match ProcStatus::of_thread(self.pid, tid) {
            // Of a process whose first thread has ended, /proc lists it for as long as there are others.
            Ok(status) if status.zombie && tid == self.pid => Err(TraceeError::Zombie { pid: tid }),
            Ok(status) => Ok(status.zombie),
            Err(TraceeError::Gone { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// All of them, with what they were doing.
    pub(crate) fn into_group(mut self, stub: bool) -> Result<ThreadGroup> {
        let pid = self.pid;
        // Not before they stand: with execve(2) they would get another memory.
        let mem = TaskMem::open(pid)?;
        let status = ProcStatus::read(pid)?;
        if !self.known.contains(&pid) {
            return Err(TraceeError::Zombie { pid });
        }
        // Stable: the others stay in the order /proc lists them.
        self.stopped.sort_by_key(|&(tid, _)| tid != pid);
        let mut threads = Vec::with_capacity(self.stopped.len());
        for &(tid, signal) in &self.stopped {
            threads.push(Tracee::stopped(tid, signal, &mem)?);
        }
        self.stopped.clear();
        Ok(ThreadGroup {
            pid,
            threads,
            mem,
            scratch: None,
            instruction: None,
            sigtrap_ignored: status.sigtrap_ignored,
            unfiltered: self.options & sys::OPT_SUSPEND_SECCOMP != 0,
            // One of ours that has executed nothing.
            undispatched: stub,
            stub,
            released: false,
            not_send: PhantomData,
        })
    }
}

impl Drop for Seizing {
    fn drop(&mut self) {
        for &(tid, _) in &self.stopped {
            let _ = sys::detach(tid);
        }
    }
}
