//! A Linux process under control: all threads stopped, registers and signal queues, and system calls run in its context.
//!
//! Nothing is linked into the process and no program is injected: system calls are driven from outside with ptrace(2).
//! A [`ThreadGroup`] that is dropped, for whatever reason, puts back what it changed and lets the process go on.
//!
//! ```no_run
//! use nix::unistd::Pid;
//! use rewake_tracee::{Release, ThreadGroup};
//!
//! let mut group = ThreadGroup::seize(Pid::from_raw(1234))?;
//! let brk = group.remote()?.call(libc::SYS_brk, &[0])?;
//! println!("{} threads, heap up to {brk:#x}", group.threads().len());
//! group.release(Release::Resume)?;
//! # Ok::<(), rewake_tracee::TraceeError>(())
//! ```
//!
//! Two traps are closed here that a caller need not know: a remote call ends with a SIGTRAP, which would change the
//! program's own handling of that signal, and it makes the kernel forget that a thread was inside a restartable sequence.
//!
//! x86-64 only so far.

mod arch;
mod call;
mod cgroup;
mod drive;
mod error;
mod group;
mod mem;
mod names;
mod pin;
mod remote;
mod seizing;
mod status;
mod stop;
mod sys;
mod tracee;
mod vdso;
mod xstate;

pub use arch::{Regs, USER_CS_64};
pub use call::Call;
pub use error::{Result, TraceeError};
pub use group::{Release, ThreadGroup};
pub use mem::TaskMem;
pub use remote::{Remote, SCRATCH_LEN};
pub use tracee::{FinalState, PendingQueue, RawSiginfo, Rseq, Tracee};
pub use vdso::find_instruction;
pub use xstate::{XSTATE_BV, XSTATE_MIN, XstatePart};
