//! One stopped thread.

use nix::unistd::Pid;

use crate::arch::Regs;
use crate::error::{Result, TraceeError};
use crate::mem::TaskMem;
use crate::sys;

/// Which queue of pending signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingQueue {
    /// Sent to the thread.
    Thread,
    /// Sent to the process: any of its threads may take them.
    Process,
}

/// A `siginfo_t` as the kernel lays it out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawSiginfo(pub [u8; 128]);

impl RawSiginfo {
    /// Number of the signal.
    #[must_use]
    pub fn signal(&self) -> i32 {
        let [a, b, c, d, ..] = self.0;
        i32::from_ne_bytes([a, b, c, d])
    }
}

impl std::fmt::Debug for RawSiginfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawSiginfo(signal {})", self.signal())
    }
}

/// Registration of a restartable sequence area. rseq(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rseq {
    /// Address of the thread's `struct rseq`.
    pub ptr: u64,
    /// Its size in bytes, as registered.
    pub size: u32,
    /// Signature before abort handlers.
    pub signature: u32,
    /// Flags of the registration.
    pub flags: u32,
}

/// What a thread is let go with.
#[derive(Debug, Clone)]
pub struct FinalState {
    /// General registers.
    pub regs: Regs,
    /// Extended state (`NT_X86_XSTATE`), `None` to leave it as it is.
    pub xstate: Option<Vec<u8>>,
    /// Blocked signals.
    pub sigmask: u64,
}

/// A thread in a ptrace stop.
#[derive(Debug)]
pub struct Tracee {
    tid: Pid,
    /// As they were when it was stopped, moved to the abort handler if it was inside a restartable sequence.
    saved: Regs,
    saved_mask: u64,
    stop_signal: Option<i32>,
    rseq: Option<Rseq>,
    /// Registers or mask are no longer those it was stopped with.
    pub(crate) touched: bool,
    pub(crate) quiet: bool,
    pub(crate) final_state: Option<FinalState>,
}

impl Tracee {
    /// Takes note of a thread that has just stopped.
    pub(crate) fn stopped(tid: Pid, stop_signal: Option<i32>, mem: &TaskMem) -> Result<Self> {
        let mut saved = sys::regs(tid).map_err(TraceeError::ptrace(tid, "PTRACE_GETREGSET"))?;
        let saved_mask = sys::sigmask(tid).map_err(TraceeError::ptrace(tid, "PTRACE_GETSIGMASK"))?;
        // Kernels before 5.13 cannot tell. There, a thread inside a sequence is not noticed.
        let rseq = sys::rseq(tid).ok().filter(|r| r.ptr != 0).map(|r| Rseq {
            ptr: r.ptr,
            size: r.size,
            signature: r.signature,
            flags: r.flags,
        });
        let mut touched = false;
        if let Some(abort) = rseq.and_then(|r| abort_handler(&r, saved.ip, mem)) {
            // The first remote call would make the kernel forget the sequence, and putting the old address back would
            // then finish it without the abort the program relies on.
            saved.ip = abort;
            touched = true;
        }
        Ok(Self { tid, saved, saved_mask, stop_signal, rseq, touched, quiet: false, final_state: None })
    }

    /// Its thread id.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// The registers it was stopped with: those to record. A thread inside a restartable sequence stands at its abort
    /// handler, where the kernel would have put it.
    #[must_use]
    pub fn saved_regs(&self) -> &Regs {
        &self.saved
    }

    /// The signals it had blocked.
    #[must_use]
    pub fn saved_sigmask(&self) -> u64 {
        self.saved_mask
    }

    /// The signal of the job-control stop it is in, `None` if it was running.
    #[must_use]
    pub fn stop_signal(&self) -> Option<i32> {
        self.stop_signal
    }

    /// Its restartable sequence area, `None` if it has none.
    #[must_use]
    pub fn rseq(&self) -> Option<Rseq> {
        self.rseq
    }

    /// Extended state: FPU, SSE, AVX and so on, in the processor's XSAVE layout.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn xstate(&self) -> Result<Vec<u8>> {
        sys::xstate(self.tid).map_err(TraceeError::ptrace(self.tid, "PTRACE_GETREGSET"))
    }

    /// The signals waiting in a queue, oldest first. They stay there.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn pending(&self, queue: PendingQueue) -> Result<Vec<RawSiginfo>> {
        const AT_ONCE: usize = 64;
        let mut all = Vec::new();
        loop {
            let mut infos = [[0; 128]; AT_ONCE];
            let offset = all.len() as u64;
            let count = sys::peek_siginfo(self.tid, queue == PendingQueue::Process, offset, &mut infos)
                .map_err(TraceeError::ptrace(self.tid, "PTRACE_PEEKSIGINFO"))?;
            all.extend(infos.into_iter().take(count).map(RawSiginfo));
            if count < AT_ONCE {
                return Ok(all);
            }
        }
    }

    /// What to let it go with, instead of what it was stopped with.
    pub fn set_final(&mut self, state: FinalState) {
        self.final_state = Some(state);
    }

    /// Blocks everything but the trap that ends a remote call.
    pub(crate) fn silence(&mut self) -> Result<()> {
        if !self.quiet {
            const SIGTRAP_BIT: u64 = 1 << (libc::SIGTRAP - 1);
            sys::set_sigmask(self.tid, !SIGTRAP_BIT)
                .map_err(TraceeError::ptrace(self.tid, "PTRACE_SETSIGMASK"))?;
            (self.quiet, self.touched) = (true, true);
        }
        Ok(())
    }

    /// Puts everything in place for the thread to go on.
    pub(crate) fn settle(&self) -> Result<()> {
        let failed = |request| TraceeError::ptrace(self.tid, request);
        let (regs, mask) = match &self.final_state {
            Some(state) => {
                if let Some(xstate) = &state.xstate {
                    sys::set_xstate(self.tid, xstate).map_err(failed("PTRACE_SETREGSET (xstate)"))?;
                }
                (&state.regs, state.sigmask)
            }
            None if self.touched => (&self.saved, self.saved_mask),
            None => return Ok(()),
        };
        sys::set_regs(self.tid, regs).map_err(failed("PTRACE_SETREGSET"))?;
        sys::set_sigmask(self.tid, mask).map_err(failed("PTRACE_SETSIGMASK"))
    }
}

/// Where the kernel would send a thread that stands at `ip` inside a restartable sequence. rseq(2): the area holds, at
/// offset 8, the address of `struct rseq_cs { u32 version, flags; u64 start, length, abort }`.
fn abort_handler(rseq: &Rseq, ip: u64, mem: &TaskMem) -> Option<u64> {
    let descriptor = mem.read_u64(rseq.ptr + 8).ok().filter(|&d| d != 0)?;
    let start = mem.read_u64(descriptor.checked_add(8)?).ok()?;
    let length = mem.read_u64(descriptor.checked_add(16)?).ok()?;
    let abort = mem.read_u64(descriptor.checked_add(24)?).ok()?;
    (ip.wrapping_sub(start) < length).then_some(abort)
}
