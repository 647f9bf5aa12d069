//! What belongs to one thread.

use std::{
    os::fd::{BorrowedFd, RawFd},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use nix::errno::Errno;

use super::{mem::Area, raw};
use crate::stage::{Check, ensure, ensure_eq};

/// An alternate signal stack as the kernel has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AltStack {
    pub(crate) start: u64,
    pub(crate) flags: i32,
    pub(crate) length: u64,
}

pub(crate) fn alt_stack() -> Result<AltStack, Errno> {
    let mut old = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: the kernel writes one stack_t.
    unsafe { raw(libc::SYS_sigaltstack, [0, &raw mut old as u64, 0, 0, 0, 0]) }?;
    // Whether the thread is on it right now is not a property of the stack.
    Ok(AltStack {
        start: old.ss_sp as u64,
        flags: old.ss_flags & !libc::SS_ONSTACK,
        length: old.ss_size as u64,
    })
}

pub(crate) fn set_alt_stack(area: Area) -> Result<(), Errno> {
    let length = area.end() - area.start;
    let new = libc::stack_t { ss_sp: area.start as *mut libc::c_void, ss_flags: 0, ss_size: length as usize };
    // SAFETY: the area stays mapped and is used for nothing else.
    unsafe { raw(libc::SYS_sigaltstack, [&raw const new as u64, 0, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn pthread_self() -> u64 {
    // SAFETY: no arguments.
    unsafe { libc::pthread_self() }
}

/// Sends a signal to this very thread through the C library, which uses the tid it remembers.
pub(crate) fn signal_self(signal: i32) -> Result<(), Errno> {
    // SAFETY: this thread exists.
    match unsafe { libc::pthread_kill(pthread_self(), signal) } {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}

/// A descriptor that outlives the call, as all of a scenario do.
pub(crate) fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: scenarios keep the descriptors they hand to their threads open to the end.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

const FUTEX_WAIT_PRIVATE: u64 = 128;
const FUTEX_WAKE_PRIVATE: u64 = 129;

/// Sleeps in a futex as long as the word has this value.
pub(crate) fn futex_wait_while(word: &AtomicU32, value: u32) -> Result<(), Errno> {
    while word.load(SeqCst) == value {
        match futex_wait(word, value, None) {
            Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// One futex call, with a relative limit in nanoseconds or none.
pub(crate) fn futex_wait(word: &AtomicU32, value: u32, limit: Option<u64>) -> Result<(), Errno> {
    let limit = limit.map(timespec);
    let address = limit.as_ref().map_or(0, |limit| std::ptr::from_ref(limit) as u64);
    let arguments = [word.as_ptr() as u64, FUTEX_WAIT_PRIVATE, u64::from(value), address, 0, 0];
    // SAFETY: a live word and a live timespec or null.
    unsafe { raw(libc::SYS_futex, arguments) }.map(drop)
}

pub(crate) fn futex_wake_all(word: &AtomicU32) {
    let arguments = [word.as_ptr() as u64, FUTEX_WAKE_PRIVATE, i32::MAX as u64, 0, 0, 0];
    // SAFETY: a live word. Waking nobody is no error.
    let _ = unsafe { raw(libc::SYS_futex, arguments) };
}

/// One nanosleep, begun again if it was cut short.
pub(crate) fn sleep(nanoseconds: u64) -> Result<(), Errno> {
    match nanosleep(nanoseconds) {
        Err(Errno::EINTR) => Ok(()),
        other => other,
    }
}

/// One nanosleep call.
pub(crate) fn nanosleep(nanoseconds: u64) -> Result<(), Errno> {
    let time = timespec(nanoseconds);
    // SAFETY: the kernel reads one timespec.
    unsafe { raw(libc::SYS_nanosleep, [&raw const time as u64, 0, 0, 0, 0, 0]) }.map(drop)
}

pub(crate) fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanoseconds / 1_000_000_000) as i64,
        tv_nsec: (nanoseconds % 1_000_000_000) as i64,
    }
}

/// Address of this thread's rseq area, if the C library has registered one.
pub(crate) fn rseq_area() -> Option<u64> {
    // SAFETY: a static string.
    let size = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
    // SAFETY: a static string.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    if size.is_null() || offset.is_null() {
        return None;
    }
    // SAFETY: glibc defines it as an unsigned int.
    let size = unsafe { size.cast::<u32>().read() };
    // SAFETY: glibc defines it as a ptrdiff_t.
    let offset = unsafe { offset.cast::<isize>().read() };
    (size != 0).then(|| super::fs_base().wrapping_add_signed(offset as i64))
}

/// Checks that the kernel keeps this thread's rseq area up to date: the processor number in it must be that which
/// the system call tells, unless the thread moved in between.
pub(crate) fn check_rseq() -> Check {
    let Some(area) = rseq_area() else { return Ok(()) };
    for _ in 0..1000 {
        let before = processor();
        // SAFETY: registered with the kernel, which writes it only while this thread is in the kernel.
        let [start, id] = unsafe { std::ptr::read_volatile(area as *const [u32; 2]) };
        if before == processor() {
            ensure_eq!((start, id), (before, before), "processor numbers in the rseq area");
            // SAFETY: no arguments.
            let told = unsafe { libc::sched_getcpu() };
            ensure!(told >= 0, "sched_getcpu gives {told}");
            return Ok(());
        }
    }
    Err(crate::stage::Failure::new("the thread never stays on one processor"))
}

fn processor() -> u32 {
    let mut number = 0_u32;
    // SAFETY: the kernel writes one unsigned int.
    let _ = unsafe { raw(libc::SYS_getcpu, [&raw mut number as u64, 0, 0, 0, 0, 0]) };
    number
}
