//! Eight threads, each with everything a thread has of its own, waiting in four different ways.

use std::{
    cell::Cell,
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{self, mem::Area, mem::PRIVATE, mem::RW, robust::RobustMutex, signal, thread},
};

const THREADS: usize = 8;
const ALT_PAGES: u64 = 16;

static GO: AtomicU32 = AtomicU32::new(0);
static ON_ALT_STACK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
    static TICKS: Cell<u64> = const { Cell::new(0) };
}

/// What must be the same in a thread afterwards.
#[derive(Debug, Eq, PartialEq)]
struct Identity {
    tid: i32,
    cached: u64,
    fs_base: u64,
    robust_list: (u64, u64),
    clear_tid: Result<u64, Errno>,
    mask: u64,
    alt_stack: thread::AltStack,
    name: String,
    rseq: Option<u64>,
    own: u64,
}

fn identity() -> Result<Identity, Failure> {
    let mut clear_tid = 0_u64;
    let address = &raw mut clear_tid as u64;
    // SAFETY: the kernel writes one pointer.
    let asked = unsafe { sys::raw(libc::SYS_prctl, [libc::PR_GET_TID_ADDRESS as u64, address, 0, 0, 0, 0]) };
    Ok(Identity {
        tid: sys::tid(),
        cached: thread::pthread_self(),
        fs_base: sys::fs_base(),
        robust_list: sys::robust_list()?,
        clear_tid: asked.map(|_| clear_tid),
        mask: signal::mask()?,
        alt_stack: thread::alt_stack()?,
        name: std::fs::read_to_string(format!("/proc/self/task/{}/comm", sys::tid()))?,
        rseq: thread::rseq_area(),
        own: OWN.get(),
    })
}

extern "C" fn note_stack(_signal: i32) {
    let local = 0_u8;
    let here = &raw const local as u64;
    if thread::alt_stack().is_ok_and(|stack| (stack.start..stack.start + stack.length).contains(&here)) {
        ON_ALT_STACK.fetch_add(1, SeqCst);
    }
}

/// A thread's part: what it waits in is its number modulo four.
fn body(number: usize, pipe: RawFd, mutex: &RobustMutex, set_up: &AtomicBool) -> Check {
    OWN.set(0xabcd_0000 + number as u64);
    let stack = Area::anonymous(ALT_PAGES, RW, PRIVATE)?;
    thread::set_alt_stack(stack)?;
    signal::block(&[libc::SIGRTMIN() + number as i32])?;
    // Held until the thread ends: only the robust list can then tell the others.
    mutex.lock()?;
    let before = identity()?;
    ensure_eq!(mutex.owner(), before.tid as u32, "owner of the robust mutex");
    set_up.store(true, SeqCst);

    match number % 4 {
        0 => thread::futex_wait_while(&GO, 0)?,
        1 => {
            while GO.load(SeqCst) == 0 {
                thread::sleep(10_000_000)?;
                TICKS.set(TICKS.get() + 1);
            }
        }
        2 => {
            let mut byte = [0_u8];
            let got = loop {
                match nix::unistd::read(thread::borrow(pipe), &mut byte) {
                    Err(Errno::EINTR) => {}
                    other => break other?,
                }
            };
            ensure_eq!((got, byte), (1, [number as u8]), "read from the pipe in thread {number}");
        }
        _ => {
            let mut ticks = 0_u64;
            while GO.load(SeqCst) == 0 {
                ticks += 1;
                TICKS.set(TICKS.get() + 1);
                ensure_eq!(TICKS.get(), ticks, "counter in thread-local storage of thread {number}");
            }
        }
    }

    ensure_eq!(identity()?, before, "thread {number}");
    ensure_eq!(mutex.owner(), sys::tid() as u32, "owner of the robust mutex of thread {number}");
    let fresh = RobustMutex::new()?;
    fresh.lock()?;
    ensure_eq!(fresh.owner(), sys::tid() as u32, "tid that the C library remembers in thread {number}");
    fresh.unlock()?;
    thread::check_rseq().at(format_args!("thread {number}"))?;
    let handled = ON_ALT_STACK.load(SeqCst);
    thread::signal_self(libc::SIGUSR1)?;
    ensure!(ON_ALT_STACK.load(SeqCst) > handled, "handler not on the alternate stack in thread {number}");
    Ok(())
}

/// Threads in a futex, in nanosleep, in read and spinning.
pub(crate) fn threads(stage: &Stage) -> Check {
    use nix::sys::signal::SaFlags;
    signal::handle(libc::SIGUSR1, note_stack, SaFlags::SA_ONSTACK)?;
    let pipes: Vec<_> = (0..THREADS).map(|_| nix::unistd::pipe()).collect::<Result<_, _>>()?;
    let mutexes: Vec<_> = (0..THREADS).map(|_| RobustMutex::new()).collect::<Result<_, _>>()?;
    let set_up: Vec<_> = (0..THREADS).map(|_| AtomicBool::new(false)).collect();
    let before = identity()?;

    std::thread::scope(|scope| -> Check {
        let mut handles = Vec::new();
        for number in 0..THREADS {
            let (pipe, mutex, flag) = (pipes[number].0.as_raw_fd(), &mutexes[number], &set_up[number]);
            let builder = std::thread::Builder::new().name(format!("load-{number}"));
            handles.push(builder.spawn_scoped(scope, move || body(number, pipe, mutex, flag))?);
        }
        for (flag, handle) in set_up.iter().zip(&handles) {
            while !flag.load(SeqCst) && !handle.is_finished() {
                std::thread::yield_now();
            }
        }
        let outcome = stage.freeze();
        // Whatever happened, let the threads go, or the scope would wait for ever.
        GO.store(1, SeqCst);
        thread::futex_wake_all(&GO);
        for (number, pipe) in (0_u8..).zip(&pipes) {
            nix::unistd::write(&pipe.1, &[number])?;
        }
        for handle in handles {
            handle.join().map_err(|_| Failure::new("a thread panicked"))??;
        }
        outcome
    })?;

    for (number, mutex) in mutexes.iter().enumerate() {
        ensure_eq!(mutex.lock(), Err(Errno::EOWNERDEAD), "robust mutex of ended thread {number}");
    }
    ensure_eq!(identity()?, before, "main thread");
    thread::check_rseq().at("main thread")?;
    // Everything that makes a new thread must work as well.
    let tid = std::thread::spawn(sys::tid).join().map_err(|_| Failure::new("a new thread panicked"))?;
    ensure!(tid > 0 && tid != sys::tid(), "a new thread has tid {tid}");
    Ok(())
}
