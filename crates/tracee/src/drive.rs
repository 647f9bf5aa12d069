//! Making a stopped thread execute something, and noticing when it is through.

use nix::unistd::Pid;

use crate::arch::Regs;
use crate::error::{Result, TraceeError};
use crate::stop::{Stop, died};
use crate::sys;
use crate::tracee::{Mask, RawSiginfo, Tracee};

/// How a thread is sent off, and so what ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Until it executes a breakpoint.
    Run,
    /// One instruction.
    Step,
    /// Until it enters a system call, or comes out of one.
    ToSyscall,
}

impl Tracee {
    /// Sends the thread off with these registers.
    pub(crate) fn start(&mut self, regs: &Regs, how: Resume) -> Result<()> {
        // Stops at system calls are no signals: nothing has to get through.
        self.block(if how == Resume::ToSyscall { Mask::All } else { Mask::AllButTrap })?;
        self.move_to(regs)?;
        resume(self.tid(), how, 0)
    }

    /// Waits until the thread is through, at `end`, whatever else happens to it meanwhile. Threads it makes are added to
    /// `cloned`.
    pub(crate) fn await_end(&mut self, how: Resume, end: u64, cloned: &mut Vec<Pid>) -> Result<Regs> {
        let tid = self.tid();
        loop {
            let status = sys::wait(tid).map_err(TraceeError::ptrace(tid, "waitpid"))?;
            let again_with = match Stop::of(status) {
                Stop::Ended => return Err(died(tid, status)),
                Stop::Syscall if how == Resume::ToSyscall => return self.regs(),
                Stop::Signal(libc::SIGTRAP) if how != Resume::ToSyscall => {
                    let info = sys::siginfo(tid).map_err(TraceeError::ptrace(tid, "PTRACE_GETSIGINFO"))?;
                    let (info, regs) = (RawSiginfo(info), self.regs()?);
                    let foreign = info.code() <= 0;
                    if foreign {
                        // Somebody sent it, or it waited for the program to unblock it. It is queued again at the end.
                        self.held.push(info);
                    }
                    // A SIGTRAP that is pending already swallows that of a breakpoint: the place counts.
                    match (regs.ip == end, foreign) {
                        (true, _) => return Ok(regs),
                        (false, true) => 0,
                        (false, false) => {
                            return Err(TraceeError::UnexpectedStop { tid, status, ip: regs.ip });
                        }
                    }
                }
                // The kernel reports a synchronous signal (a SIGSEGV, say) that waits in the queue although it is
                // blocked. Handed back, it is put at the end of the queue. SIGSTOP cannot be blocked: handed back, it
                // begins a job-control stop.
                Stop::Signal(signal) if self.is_blocked(signal)? => signal,
                Stop::Cloned => {
                    cloned.push(self.made_thread()?);
                    0
                }
                // The interrupt that stopped it, when a job-control stop came first; or the beginning or end of one.
                Stop::Interrupted | Stop::Group(_) => 0,
                Stop::Syscall | Stop::Signal(_) | Stop::Event(_) => {
                    let ip = self.regs().map_or(0, |regs| regs.ip);
                    return Err(TraceeError::UnexpectedStop { tid, status, ip });
                }
            };
            resume(tid, how, again_with)?;
        }
    }

    /// Goes on to the next stop of a run from system call to system call.
    pub(crate) fn next_syscall_stop(&mut self) -> Result<Regs> {
        resume(self.tid(), Resume::ToSyscall, 0)?;
        self.await_end(Resume::ToSyscall, 0, &mut Vec::new())
    }

    /// From a system call stop into one the kernel knows how to leave: only from there does it restart the system call
    /// that the program was in, once the program's registers are put back.
    pub(crate) fn leave_syscall_stop(&self) -> Result<()> {
        let tid = self.tid();
        sys::interrupt(tid).map_err(TraceeError::ptrace(tid, "PTRACE_INTERRUPT"))?;
        resume(tid, Resume::Run, 0)?;
        crate::stop::wait_stop(tid).map(drop)
    }

    /// Not a signal that our own fault has forced on the thread: the kernel unblocks such a one.
    fn is_blocked(&self, signal: i32) -> Result<bool> {
        Ok(signal == libc::SIGSTOP || self.sigmask()? >> (signal - 1) & 1 == 1)
    }

    fn made_thread(&self) -> Result<Pid> {
        let message = sys::event_message(self.tid());
        let tid = message.map_err(TraceeError::ptrace(self.tid(), "PTRACE_GETEVENTMSG"))?;
        Ok(Pid::from_raw(i32::try_from(tid).expect("thread ids are ints")))
    }
}

fn resume(tid: Pid, how: Resume, signal: i32) -> Result<()> {
    match how {
        Resume::Run => sys::cont(tid, signal).map_err(TraceeError::ptrace(tid, "PTRACE_CONT")),
        Resume::Step => sys::step(tid, signal).map_err(TraceeError::ptrace(tid, "PTRACE_SINGLESTEP")),
        Resume::ToSyscall => {
            sys::cont_to_syscall(tid, signal).map_err(TraceeError::ptrace(tid, "PTRACE_SYSCALL"))
        }
    }
}
