//! Processor state of a thread that spins without a system call.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::{
    stage::{Check, Failure, Stage, ensure_eq},
    sys::{
        self, mem,
        spin::{Controls, VECTORS, spin},
    },
};

/// General registers, all vector registers of this processor, control words, the x87 stack.
pub(crate) fn registers(stage: &Stage) -> Check {
    static PHASE: AtomicU32 = AtomicU32::new(0);
    let general = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| mem::pattern(121, n, 0));
    let vectors: [u8; VECTORS] =
        mem::bytes(122, VECTORS).try_into().map_err(|_| Failure::new("too few bytes"))?;
    // Flush to zero and rounding towards zero, all exceptions masked.
    let controls = Controls { mxcsr: 0xff80, x87: 0x0f7f, top: 0.0 };
    let spinner = std::thread::spawn(move || {
        let (mut general, mut vectors, mut controls) = (general, vectors, controls);
        spin(&mut general, &mut vectors, &mut controls, &PHASE);
        (general, vectors, controls)
    });
    while PHASE.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    let frozen = stage.freeze();
    PHASE.store(2, SeqCst);
    let stored = spinner.join().map_err(|_| Failure::new("the thread panicked"))?;
    frozen?;
    ensure_eq!(stored.0, general, "general registers");
    ensure_eq!(stored.2, Controls { top: std::f64::consts::PI, ..controls }, "control words and x87 stack");
    for (number, (now, before)) in stored.1.chunks(16).zip(vectors.chunks(16)).enumerate() {
        ensure_eq!(now, before, "vector registers, 16 bytes from {}", number * 16);
    }
    Ok(())
}

/// The base addresses of FS, which the C library uses, and GS, which is free for programs.
pub(crate) fn segment_bases(stage: &Stage) -> Check {
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_GET_GS: u64 = 0x1004;
    let word = Box::new(0x5555_u64);
    let address = std::ptr::from_ref(&*word) as u64;
    let gs = || {
        let mut base = 0_u64;
        // SAFETY: the kernel writes eight bytes.
        unsafe { sys::raw(libc::SYS_arch_prctl, [ARCH_GET_GS, &raw mut base as u64, 0, 0, 0, 0]) }
            .map(|_| base)
    };
    // SAFETY: nothing else in this program uses GS.
    unsafe { sys::raw(libc::SYS_arch_prctl, [ARCH_SET_GS, address, 0, 0, 0, 0]) }?;
    let before = (sys::fs_base(), gs()?);
    stage.freeze()?;
    ensure_eq!((sys::fs_base(), gs()?), before, "FS and GS base");
    let found: u64;
    // SAFETY: GS points to the word, which is alive.
    unsafe { std::arch::asm!("mov {}, gs:[0]", out(reg) found, options(nostack, readonly)) };
    ensure_eq!(found, *word, "word at GS");
    Ok(())
}

/// The area in which the kernel tells a thread its processor, and the list of mutexes it holds.
pub(crate) fn rseq(stage: &Stage) -> Check {
    let before = (sys::thread::rseq_area(), sys::robust_list()?);
    sys::thread::check_rseq()?;
    stage.freeze()?;
    ensure_eq!((sys::thread::rseq_area(), sys::robust_list()?), before, "rseq area and robust list");
    sys::thread::check_rseq()
}
