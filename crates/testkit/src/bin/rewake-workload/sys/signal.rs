//! Signals as the kernel sees them: no cached state, no hidden handler.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::raw;

/// Bytes of the kernel's signal set.
const SET: u64 = 8;

static TERMINATES: AtomicU32 = AtomicU32::new(0);

/// What rt_sigaction takes and gives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// The bit of a signal in the kernel's set.
pub(crate) fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The action of one signal, as the kernel has it.
pub(crate) fn action(signal: i32) -> Result<Action, Errno> {
    let mut old = Action::default();
    // SAFETY: the kernel writes one Action.
    unsafe { raw(libc::SYS_rt_sigaction, [signal as u64, 0, &raw mut old as u64, SET, 0, 0]) }?;
    Ok(old)
}

/// Sets the action of one signal, every word as given.
pub(crate) fn set_action(signal: i32, new: Action) -> Result<(), Errno> {
    // SAFETY: the kernel reads one Action; handlers given are this program's functions.
    unsafe { raw(libc::SYS_rt_sigaction, [signal as u64, &raw const new as u64, 0, SET, 0, 0]) }.map(drop)
}

/// The address to which a handler returns: the C library's own, learnt from a handler set through it.
pub(crate) fn restorer() -> Result<u64, Errno> {
    count(libc::SIGWINCH)?;
    let action = action(libc::SIGWINCH)?;
    set_action(libc::SIGWINCH, Action::default())?;
    Ok(action.restorer)
}

/// All actions of this process, signal 1 first.
pub(crate) fn actions() -> Result<Vec<Action>, Errno> {
    (1..=64).map(action).collect()
}

/// The signals blocked in this thread.
pub(crate) fn mask() -> Result<u64, Errno> {
    let mut mask = 0_u64;
    // SAFETY: the kernel writes one set.
    unsafe { raw(libc::SYS_rt_sigprocmask, [0, 0, &raw mut mask as u64, SET, 0, 0]) }?;
    Ok(mask)
}

/// Blocks exactly these signals in this thread.
pub(crate) fn set_mask(mask: u64) -> Result<(), Errno> {
    let how = libc::SIG_SETMASK as u64;
    // SAFETY: the kernel reads one set.
    unsafe { raw(libc::SYS_rt_sigprocmask, [how, &raw const mask as u64, 0, SET, 0, 0]) }.map(drop)
}

/// Blocks these signals besides those blocked already.
pub(crate) fn block(signals: &[i32]) -> Result<(), Errno> {
    set_mask(signals.iter().fold(mask()?, |mask, signal| mask | bit(*signal)))
}

/// Signal, code, value of a signal that was waiting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Taken {
    pub(crate) signal: i32,
    pub(crate) code: i32,
    /// Sender, or timer id.
    pub(crate) who: i32,
    /// Its uid, or overrun count.
    pub(crate) second: i32,
    pub(crate) value: u64,
}

/// Takes the next of these signals, waiting for at most `nanoseconds`; None when there was none.
pub(crate) fn take(set: u64, nanoseconds: Option<u64>) -> Result<Option<Taken>, Errno> {
    let mut info = [0_u8; 128];
    let limit = nanoseconds.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    });
    let limit_address = limit.as_ref().map_or(0, |limit| std::ptr::from_ref(limit) as u64);
    let arguments = [&raw const set as u64, info.as_mut_ptr() as u64, limit_address, SET, 0, 0];
    // SAFETY: the kernel reads a set and a timespec and writes one siginfo of 128 bytes.
    match unsafe { raw(libc::SYS_rt_sigtimedwait, arguments) } {
        Ok(signal) => {
            let word = |at: usize| i32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
            let value = u64::from(word(24) as u32) | u64::from(word(28) as u32) << 32;
            Ok(Some(Taken { signal: signal as i32, code: word(8), who: word(16), second: word(20), value }))
        }
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sleeps until SIGTERM is there, which is blocked. This call is not restarted by the kernel after a stop.
pub(crate) fn await_terminate() -> Result<(), Errno> {
    loop {
        match take(bit(libc::SIGTERM), None) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

extern "C" fn count_terminate(_signal: i32) {
    TERMINATES.fetch_add(1, Ordering::SeqCst);
}

/// Handles SIGTERM by counting it.
pub(crate) fn count_terminates() -> Result<(), Errno> {
    count(libc::SIGTERM)
}

fn count(signal: i32) -> Result<(), Errno> {
    handle(signal, count_terminate, nix::sys::signal::SaFlags::empty())
}

/// Installs a handler through the C library.
pub(crate) fn handle(
    signal: i32,
    handler: extern "C" fn(i32),
    flags: nix::sys::signal::SaFlags,
) -> Result<(), Errno> {
    use nix::sys::signal::{SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::Handler(handler), flags, SigSet::empty());
    // SAFETY: the handlers of this program only touch atomics.
    unsafe { sigaction(Signal::try_from(signal)?, &action) }.map(drop)
}

/// Sleeps in sigsuspend, with SIGTERM let through, until its handler has run.
pub(crate) fn suspend_until_terminate() -> Result<(), Errno> {
    let inside = mask()? & !bit(libc::SIGTERM);
    while TERMINATES.load(Ordering::SeqCst) == 0 {
        // SAFETY: the kernel reads one set.
        match unsafe { raw(libc::SYS_rt_sigsuspend, [&raw const inside as u64, SET, 0, 0, 0, 0]) } {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Queues a signal with a whole siginfo, as only a process itself may do: to the process, or to one thread.
pub(crate) fn queue(thread: Option<i32>, info: &Info) -> Result<(), Errno> {
    let (pid, address) = (super::pid() as u64, std::ptr::from_ref(info) as u64);
    let signal = info.signal as u64;
    let done = match thread {
        // SAFETY: the kernel reads one siginfo, which Info is.
        None => unsafe { raw(libc::SYS_rt_sigqueueinfo, [pid, signal, address, 0, 0, 0]) },
        // SAFETY: as above.
        Some(tid) => unsafe { raw(libc::SYS_rt_tgsigqueueinfo, [pid, tid as u64, signal, address, 0, 0]) },
    };
    done.map(drop)
}

/// A siginfo in the layout of signals that carry a value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Info {
    pub(crate) signal: i32,
    pub(crate) errno: i32,
    pub(crate) code: i32,
    pub(crate) pad: i32,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) value: u64,
    pub(crate) rest: [u64; 12],
}

impl Info {
    pub(crate) fn new(signal: i32, code: i32, value: u64) -> Self {
        let uid = nix::unistd::getuid().as_raw();
        Self { signal, errno: 0, code, pad: 0, pid: super::pid(), uid, value, rest: [0; 12] }
    }
}
