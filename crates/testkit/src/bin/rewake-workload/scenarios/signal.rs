//! Signals: what happens on them, which are blocked, which are waiting.

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Stage, ensure, ensure_eq},
    sys::{
        self,
        mem::{Area, PRIVATE, RW},
        signal::{self, Action, Info},
        thread,
    },
};

extern "C" fn nothing(_signal: i32) {}

/// Handlers, flags, masks of every signal that may have some.
pub(crate) fn sigaction(stage: &Stage) -> Check {
    let restorer = signal::restorer()?;
    const RESTORER: u64 = 0x0400_0000;
    let handler = nothing as extern "C" fn(i32) as usize as u64;
    for number in
        (1..=64).filter(|n| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGTERM, libc::SIGTRAP].contains(n))
    {
        let flags =
            [libc::SA_RESTART, libc::SA_SIGINFO, libc::SA_NODEFER, libc::SA_ONSTACK | libc::SA_RESETHAND];
        let flags = flags[number as usize % 4] as u64 | RESTORER;
        let mask = mem_mask(number);
        let action = match number % 5 {
            0 => Action { handler: libc::SIG_IGN as u64, flags: 0, restorer: 0, mask },
            1 => Action::default(),
            _ => Action { handler, flags, restorer, mask },
        };
        signal::set_action(number, action).at(format_args!("action of signal {number}"))?;
    }
    let before = signal::actions()?;
    stage.freeze()?;
    for (number, (now, before)) in (1..).zip(signal::actions()?.iter().zip(&before)) {
        ensure_eq!(now, before, "action of signal {number}");
    }
    Ok(())
}

/// SIGTRAP ignored and blocked: the trap a dumper causes must not show.
pub(crate) fn sigtrap(stage: &Stage) -> Check {
    signal::block(&[libc::SIGTRAP])?;
    signal::set_action(libc::SIGTRAP, Action { handler: libc::SIG_IGN as u64, ..Action::default() })?;
    let before = (signal::action(libc::SIGTRAP)?, signal::mask()?);
    stage.freeze()?;
    ensure_eq!((signal::action(libc::SIGTRAP)?, signal::mask()?), before, "action and mask of SIGTRAP");
    Ok(())
}

/// A fault that waits, blocked: the kernel reports it before any trap.
pub(crate) fn pending_fault(stage: &Stage) -> Check {
    signal::block(&[libc::SIGSEGV])?;
    const SEGV_MAPERR: i32 = 1;
    signal::queue(Some(sys::tid()), &Info::new(libc::SIGSEGV, SEGV_MAPERR, 0)).at("queue SIGSEGV")?;
    stage.freeze()?;
    let taken = signal::take(signal::bit(libc::SIGSEGV), Some(0))?;
    ensure_eq!(taken.map(|t| t.code), Some(SEGV_MAPERR), "SIGSEGV");
    Ok(())
}

fn mem_mask(number: i32) -> u64 {
    sys::mem::pattern(number as u64, 0, 0) & !(signal::bit(libc::SIGKILL) | signal::bit(libc::SIGSTOP))
}

/// What is blocked, and where handlers run.
pub(crate) fn sigmask(stage: &Stage) -> Check {
    let all_but = !(signal::bit(libc::SIGKILL) | signal::bit(libc::SIGSTOP) | signal::bit(libc::SIGHUP));
    signal::set_mask(all_but)?;
    thread::set_alt_stack(Area::anonymous(4, RW, PRIVATE)?)?;
    let before = (signal::mask()?, thread::alt_stack()?);
    ensure_eq!(before.0, all_but, "mask before");
    stage.freeze()?;
    ensure_eq!((signal::mask()?, thread::alt_stack()?), before, "mask and alternate stack");
    Ok(())
}

/// Waiting signals of the process and of one thread, with all that came along, in their order.
pub(crate) fn pending(stage: &Stage) -> Check {
    let [first, second] = [libc::SIGRTMIN() + 1, libc::SIGRTMIN() + 7];
    let signals = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD, first, second];
    signal::block(&signals)?;
    let queue = |thread, number, code, value| {
        signal::queue(thread, &Info::new(number, code, value)).at(format_args!("queue signal {number}"))
    };
    const SI_QUEUE: i32 = -1;
    const SI_USER: i32 = 0;
    let tid = Some(sys::tid());
    for n in 0..5 {
        queue(None, first, SI_QUEUE, 0xaaaa_bbbb_0000_0000 + n)?;
        queue(tid, second, SI_QUEUE, 0x1_0000 + n)?;
    }
    queue(tid, first, SI_QUEUE, 77)?;
    queue(None, libc::SIGUSR1, SI_USER, 0)?;
    queue(tid, libc::SIGUSR2, SI_QUEUE, 5)?;
    queue(None, libc::SIGUSR2, SI_QUEUE, 6)?;
    queue(None, libc::SIGCHLD, SI_USER, 0)?;

    stage.freeze()?;

    let take = |number| -> Result<_, Errno> { signal::take(signal::bit(number), Some(0)) };
    let mut own = Vec::new();
    let mut shared = Vec::new();
    // Of one signal, those of the thread come before those of the process.
    while let Some(taken) = take(first)? {
        ensure_eq!((taken.signal, taken.code, taken.who), (first, SI_QUEUE, sys::pid()), "real-time signal");
        if taken.value < 0x1_0000 { own.push(taken.value) } else { shared.push(taken.value) }
    }
    ensure_eq!(own, [77], "of the thread");
    ensure_eq!(shared, (0..5).map(|n| 0xaaaa_bbbb_0000_0000 + n).collect::<Vec<u64>>(), "of the process");
    for n in 0..5 {
        let taken = take(second)?.map(|taken| (taken.code, taken.value));
        ensure_eq!(taken, Some((SI_QUEUE, 0x1_0000 + n)), "second real-time signal");
    }
    ensure_eq!(take(second)?, None, "no more");
    let code = |taken: Option<signal::Taken>| taken.map(|t| (t.code, t.who));
    ensure_eq!(code(take(libc::SIGUSR1)?), Some((SI_USER, sys::pid())), "SIGUSR1");
    ensure_eq!(take(libc::SIGUSR2)?.map(|t| t.value), Some(5), "SIGUSR2 of the thread");
    ensure_eq!(take(libc::SIGUSR2)?.map(|t| t.value), Some(6), "SIGUSR2 of the process");
    ensure_eq!(code(take(libc::SIGCHLD)?), Some((SI_USER, sys::pid())), "SIGCHLD");
    for number in signals {
        ensure!(take(number)?.is_none(), "signal {number} is there once more");
    }
    Ok(())
}

/// Signals that wait for a thread other than the first, which has a mask of its own.
pub(crate) fn thread_pending(stage: &Stage) -> Check {
    use std::sync::mpsc::channel;
    let signals = [libc::SIGUSR1, libc::SIGRTMIN() + 2];
    signal::block(&signals)?;
    let (tell, hear) = channel();
    let (go, wait) = channel::<()>();
    let thread = std::thread::spawn(move || -> Check {
        signal::block(&[libc::SIGUSR2])?;
        let before = signal::mask()?;
        tell.send(sys::tid()).at("tell")?;
        wait.recv().at("wait")?;
        ensure_eq!(signal::mask()?, before, "mask of the thread");
        for value in 0..3 {
            let taken = signal::take(signal::bit(signals[1]), Some(0))?;
            ensure_eq!(taken.map(|t| t.value), Some(value), "real-time signal of the thread");
        }
        ensure_eq!(signal::take(signal::bit(signals[1]), Some(0))?, None, "no more of the thread");
        Ok(())
    });
    let tid = hear.recv().at("set-up of the thread")?;
    const SI_QUEUE: i32 = -1;
    for value in 0..3 {
        signal::queue(Some(tid), &Info::new(signals[1], SI_QUEUE, value)).at("queue")?;
    }
    signal::queue(Some(sys::tid()), &Info::new(libc::SIGUSR1, SI_QUEUE, 9)).at("queue")?;
    stage.freeze()?;
    ensure_eq!(signal::take(signal::bit(signals[1]), Some(0))?, None, "those of the thread");
    ensure_eq!(signal::take(signal::bit(libc::SIGUSR1), Some(0))?.map(|t| t.value), Some(9), "own signal");
    go.send(()).at("go")?;
    thread.join().map_err(|_| crate::stage::Failure::new("the thread panicked"))?
}
