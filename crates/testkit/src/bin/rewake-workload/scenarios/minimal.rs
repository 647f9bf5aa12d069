//! The least a process can have: registers, a stack, a heap, a few words of memory.

use crate::{
    stage::{Check, Stage, ensure_eq},
    sys::{self, proc, signal},
};

/// Asleep in sigsuspend, with one thread.
pub(crate) fn minimal(stage: &Stage) -> Check {
    let heap: Vec<u64> = (0..10_000).map(|n| n * n).collect();
    let local = std::hint::black_box([0x1122_3344_5566_7788_u64; 16]);
    let before = (sys::pid(), sys::tid(), sys::fs_base(), sys::robust_list()?, std::env::current_exe()?);
    let session = (nix::unistd::getsid(None)?, nix::unistd::getpgrp());
    let auxv = std::fs::read("/proc/self/auxv")?;
    let command_line = std::fs::read("/proc/self/cmdline")?;
    let environment = std::fs::read("/proc/self/environ")?;
    let mappings = proc::mappings()?;

    stage.freeze_in_sigsuspend()?;

    ensure_eq!(
        (sys::pid(), sys::tid(), sys::fs_base(), sys::robust_list()?, std::env::current_exe()?),
        before,
        "pid, tid, fs base, robust list, executable"
    );
    ensure_eq!((nix::unistd::getsid(None)?, nix::unistd::getpgrp()), session, "session and group");
    ensure_eq!(signal::mask()? & signal::bit(libc::SIGTERM), signal::bit(libc::SIGTERM), "SIGTERM blocked");
    ensure_eq!(std::hint::black_box(local), [0x1122_3344_5566_7788_u64; 16], "stack");
    for (n, value) in (0..).zip(&heap) {
        ensure_eq!(*value, n * n, "heap word {n}");
    }
    ensure_eq!(std::fs::read("/proc/self/auxv")?, auxv, "auxv");
    ensure_eq!(std::fs::read("/proc/self/cmdline")?, command_line, "command line");
    ensure_eq!(std::fs::read("/proc/self/environ")?, environment, "environment");
    proc::check_mappings(&mappings)
}

/// The same program as a shell sees it: stopped by SIGSTOP from outside while a thread counts. Whether it stays
/// stopped until SIGCONT is for the outside to see; here nothing may be lost.
pub(crate) fn stopped(stage: &Stage) -> Check {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static END: AtomicBool = AtomicBool::new(false);
    let counter = std::thread::spawn(|| {
        let mut own = 0;
        while !END.load(SeqCst) {
            own += 1;
            if COUNT.fetch_add(1, SeqCst) + 1 != own {
                return Err(own);
            }
            std::thread::yield_now();
        }
        Ok(own)
    });
    stage.freeze_in_sigsuspend()?;
    let seen = COUNT.load(SeqCst);
    while COUNT.load(SeqCst) < seen + 1000 && !counter.is_finished() {
        std::thread::yield_now();
    }
    END.store(true, SeqCst);
    let counted = counter.join().map_err(|_| crate::stage::Failure::new("the counting thread panicked"))?;
    ensure_eq!(counted, Ok(COUNT.load(SeqCst)), "count");
    Ok(())
}
