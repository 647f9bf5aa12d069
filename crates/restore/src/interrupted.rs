//! Threads that were interrupted in a system call, and make it again.
//!
//! An image has such a thread right before the call. Put there as it stands, the thread would take a signal that comes before
//! it first runs as if it had not been in the call yet: the handler runs, and then pause(2) waits for another. So it is put back
//! into the call, interrupted, and the kernel does what it would have done: make the call again if there is no signal, and else
//! end it with EINTR where signal(7) says so.

use rewake_tracee::Regs;

/// Restarted if no handler ran, or one with SA_RESTART.
const ERESTARTSYS: u32 = 512;
/// Restarted always.
const ERESTARTNOINTR: u32 = 513;
/// Restarted if no handler ran.
const ERESTARTNOHAND: u32 = 514;
/// As that, but the kernel would go on where it was, which it has forgotten.
const ERESTART_RESTARTBLOCK: u32 = 516;
/// `syscall`
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Puts the thread back into the call that its registers stand before.
///
/// `recorded` is how the kernel wanted to go on with it. Checkpoints of CRIU do not say; there `code` gives the bytes at the
/// instruction pointer, and the call has to be one that is known to wait.
pub(crate) fn into_call(regs: &mut Regs, recorded: Option<u32>, code: impl FnOnce() -> Option<[u8; 2]>) {
    // Nothing but an interruption leaves the number of the call in both.
    if regs.orig_ax != regs.ax || regs.orig_ax.cast_signed() < 0 {
        return;
    }
    let how = recorded.or_else(|| waits(regs.orig_ax).filter(|_| code() == Some(SYSCALL)));
    let how = match how {
        Some(code @ (ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND)) => code,
        Some(ERESTART_RESTARTBLOCK) => ERESTARTNOHAND,
        _ => return,
    };
    regs.ip = regs.ip.wrapping_add(SYSCALL.len() as u64);
    regs.ax = (-i64::from(how)).cast_unsigned();
}

/// How the kernel goes on with a system call in which a thread waited, for those that CRIU leaves to be made again.
fn waits(nr: u64) -> Option<u32> {
    match libc::c_long::try_from(nr).ok()? {
        libc::SYS_pause
        | libc::SYS_rt_sigsuspend
        | libc::SYS_select
        | libc::SYS_pselect6
        | libc::SYS_ppoll => Some(ERESTARTNOHAND),
        libc::SYS_read | libc::SYS_readv | libc::SYS_futex | libc::SYS_wait4 | libc::SYS_waitid => {
            Some(ERESTARTSYS)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: u64 = libc::SYS_pause as u64;

    fn regs(orig_ax: u64, ax: u64) -> Regs {
        Regs { orig_ax, ax, ip: 0x1000, ..Default::default() }
    }

    #[test]
    fn what_was_recorded_is_what_the_kernel_finds() {
        for (code, found) in [(512, -512_i64), (513, -513), (514, -514), (516, -514)] {
            let mut regs = regs(PAUSE, PAUSE);
            into_call(&mut regs, Some(code), || None);
            assert_eq!((regs.ip, regs.ax.cast_signed(), regs.orig_ax), (0x1002, found, PAUSE));
        }
    }

    #[test]
    fn without_a_record_the_instruction_and_the_call_must_fit() {
        let found = |nr: u64, code: Option<[u8; 2]>| {
            let mut regs = regs(nr, nr);
            into_call(&mut regs, None, || code);
            (regs.ip, regs.ax.cast_signed())
        };
        assert_eq!(found(PAUSE, Some(SYSCALL)), (0x1002, -514));
        assert_eq!(found(libc::SYS_read as u64, Some(SYSCALL)), (0x1002, -512));
        assert_eq!(found(PAUSE, Some([0x90, 0x90])).0, 0x1000);
        assert_eq!(found(PAUSE, None).0, 0x1000);
        assert_eq!(found(libc::SYS_getpid as u64, Some(SYSCALL)).0, 0x1000);
    }

    #[test]
    fn others_stay_as_they_are() {
        for (orig_ax, ax) in [(u64::MAX, u64::MAX), (PAUSE, 0), (u64::MAX, PAUSE), (0, 7)] {
            let mut regs = regs(orig_ax, ax);
            into_call(&mut regs, Some(514), || Some(SYSCALL));
            assert_eq!((regs.ip, regs.ax), (0x1000, ax));
        }
        let mut regs = regs(PAUSE, PAUSE);
        into_call(&mut regs, Some(4), || Some(SYSCALL));
        assert_eq!(regs.ip, 0x1000, "no code of the kernel's");
    }
}
