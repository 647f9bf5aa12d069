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

    /// Where it came from: `si_code`, positive for what the kernel itself sent.
    #[must_use]
    pub fn code(&self) -> i32 {
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = self.0;
        i32::from_ne_bytes([a, b, c, d])
    }

    /// The queue such a signal is put into: kill(2) and sigqueue(3) address the process, everything else a thread.
    pub(crate) fn queue(&self) -> PendingQueue {
        match self.code() {
            libc::SI_USER | libc::SI_QUEUE => PendingQueue::Process,
            _ => PendingQueue::Thread,
        }
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

/// Which signals a thread has blocked just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// Those it was stopped with, or was given since.
    Own,
    /// All but SIGTRAP, which ends a run of remote calls.
    AllButTrap,
    /// All.
    All,
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
    /// The registers are not the saved ones.
    moved: bool,
    mask: Mask,
    /// SIGTRAPs of others that came between remote calls, to be queued again.
    pub(crate) held: Vec<RawSiginfo>,
    final_state: Option<FinalState>,
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
        if let Some(rseq) = rseq
            && let Some(abort) = abort_handler(&rseq, saved.ip, mem)
        {
            // The first remote call would make the kernel forget the sequence, and putting the old address back would
            // then finish it without the abort the program relies on. So abort now, as the kernel does on its way back
            // to the program: first the address, then the word, so that nothing can be lost in between.
            saved.ip = abort;
            sys::set_regs(tid, &saved).map_err(TraceeError::ptrace(tid, "PTRACE_SETREGSET"))?;
            mem.write(rseq.ptr + RSEQ_CS, &[0; 8])?;
        }
        let (held, final_state) = (Vec::new(), None);
        Ok(Self {
            tid,
            saved,
            saved_mask,
            stop_signal,
            rseq,
            moved: false,
            mask: Mask::Own,
            held,
            final_state,
        })
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

    /// It is in a job-control stop.
    #[must_use]
    pub fn is_group_stopped(&self) -> bool {
        self.stop_signal.is_some()
    }

    /// Its registers as they are now. Between remote calls they are the saved ones.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn regs(&self) -> Result<Regs> {
        sys::regs(self.tid).map_err(self.failed("PTRACE_GETREGSET"))
    }

    /// Gives it other registers, also for going on.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        sys::set_regs(self.tid, regs).map_err(self.failed("PTRACE_SETREGSET"))?;
        self.saved = *regs;
        Ok(())
    }

    /// The signals it blocks now. Between remote calls they are the saved ones.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn sigmask(&self) -> Result<u64> {
        sys::sigmask(self.tid).map_err(self.failed("PTRACE_GETSIGMASK"))
    }

    /// Makes it block other signals, also when it goes on.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn set_sigmask(&mut self, mask: u64) -> Result<()> {
        sys::set_sigmask(self.tid, mask).map_err(self.failed("PTRACE_SETSIGMASK"))?;
        (self.saved_mask, self.mask) = (mask, Mask::Own);
        Ok(())
    }

    /// Extended state: FPU, SSE, AVX and so on, in the processor's XSAVE layout.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`], [`TraceeError::Died`].
    pub fn xstate(&self) -> Result<Vec<u8>> {
        sys::xstate(self.tid).map_err(self.failed("PTRACE_GETREGSET"))
    }

    /// Gives it another extended state: of the full length, and with no part the processor does not have.
    ///
    /// # Errors
    /// [`TraceeError::Ptrace`] with `EFAULT` for another length and `EINVAL` for an unknown part;
    /// [`TraceeError::Died`].
    pub fn set_xstate(&mut self, xstate: &[u8]) -> Result<()> {
        sys::set_xstate(self.tid, xstate).map_err(self.failed("PTRACE_SETREGSET (xstate)"))
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
                .map_err(self.failed("PTRACE_PEEKSIGINFO"))?;
            all.extend(infos.into_iter().take(count).map(RawSiginfo));
            if count < AT_ONCE {
                all.extend(self.held.iter().copied().filter(|info| info.queue() == queue));
                return Ok(all);
            }
        }
    }

    /// What to let it go with, instead of what it was stopped with.
    pub fn set_final(&mut self, state: FinalState) {
        self.final_state = Some(state);
    }

    fn failed(&self, request: &'static str) -> impl FnOnce(nix::errno::Errno) -> TraceeError + use<> {
        TraceeError::ptrace(self.tid, request)
    }

    /// Blocks signals for remote calls.
    pub(crate) fn block(&mut self, mask: Mask) -> Result<()> {
        const SIGTRAP_BIT: u64 = 1 << (libc::SIGTRAP - 1);
        if self.mask != mask {
            let bits = match mask {
                Mask::Own => self.saved_mask,
                Mask::AllButTrap => !SIGTRAP_BIT,
                Mask::All => u64::MAX,
            };
            sys::set_sigmask(self.tid, bits).map_err(self.failed("PTRACE_SETSIGMASK"))?;
            self.mask = mask;
        }
        Ok(())
    }

    /// Sets it up with registers for remote calls.
    pub(crate) fn move_to(&mut self, regs: &Regs) -> Result<()> {
        self.moved = true;
        sys::set_regs(self.tid, regs).map_err(self.failed("PTRACE_SETREGSET"))
    }

    /// Puts registers and mask back. Done after every run, so that the program is unharmed if we die before the next.
    pub(crate) fn put_back(&mut self) -> Result<()> {
        if self.moved {
            sys::set_regs(self.tid, &self.saved).map_err(self.failed("PTRACE_SETREGSET"))?;
            self.moved = false;
        }
        self.block(Mask::Own)
    }

    /// Puts everything in place for the thread to go on.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let Some(state) = self.final_state.clone() else {
            return self.put_back();
        };
        if let Some(xstate) = &state.xstate {
            self.set_xstate(xstate)?;
        }
        self.set_regs(&state.regs)?;
        self.moved = false;
        self.set_sigmask(state.sigmask)
    }
}

/// Where `struct rseq` has the address of the descriptor of the sequence the thread is in. rseq(2).
const RSEQ_CS: u64 = 8;

/// Where the kernel would send a thread that stands at `ip` inside a restartable sequence. The descriptor is
/// `struct rseq_cs { u32 version, flags; u64 start, length, abort }`.
fn abort_handler(rseq: &Rseq, ip: u64, mem: &TaskMem) -> Option<u64> {
    let descriptor = mem.read_u64(rseq.ptr.checked_add(RSEQ_CS)?).ok().filter(|&d| d != 0)?;
    let start = mem.read_u64(descriptor.checked_add(8)?).ok()?;
    let length = mem.read_u64(descriptor.checked_add(16)?).ok()?;
    let abort = mem.read_u64(descriptor.checked_add(24)?).ok()?;
    (ip.wrapping_sub(start) < length).then_some(abort)
}
