//! Timers of the process.

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{self, signal},
};

const SECOND: u64 = 1_000_000_000;

/// Interval and time left, in microseconds.
fn itimer(which: i32) -> Result<(u64, u64), Errno> {
    let mut value = [0_u64; 4];
    // SAFETY: the kernel writes one itimerval.
    unsafe { sys::raw(libc::SYS_getitimer, [which as u64, &raw mut value as u64, 0, 0, 0, 0]) }?;
    let [interval_s, interval_us, left_s, left_us] = value;
    Ok((interval_s * 1_000_000 + interval_us, left_s * 1_000_000 + left_us))
}

fn set_itimer(which: i32, interval: u64, left: u64) -> Result<(), Errno> {
    let value = [interval / 1_000_000, interval % 1_000_000, left / 1_000_000, left % 1_000_000];
    // SAFETY: the kernel reads one itimerval.
    unsafe { sys::raw(libc::SYS_setitimer, [which as u64, &raw const value as u64, 0, 0, 0, 0]) }.map(drop)
}

/// The three interval timers: periodic, once, and by processor time.
pub(crate) fn itimers(stage: &Stage) -> Check {
    signal::block(&[libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF])?;
    set_itimer(libc::ITIMER_REAL, 10_000, 10_000)?;
    set_itimer(libc::ITIMER_VIRTUAL, 0, 500 * 1_000_000)?;
    set_itimer(libc::ITIMER_PROF, 7_000_000, 900 * 1_000_000)?;
    // Its signal waits, blocked, at the time of the dump; the timer must still go on.
    signal::take(signal::bit(libc::SIGALRM), None)?;
    stage.freeze()?;
    for tick in 0..3 {
        let limit = Some(20 * SECOND);
        ensure!(signal::take(signal::bit(libc::SIGALRM), limit)?.is_some(), "no tick {tick} of ITIMER_REAL");
    }
    ensure_eq!(itimer(libc::ITIMER_REAL)?.0, 10_000, "interval of ITIMER_REAL");
    let (interval, left) = itimer(libc::ITIMER_VIRTUAL)?;
    ensure!(
        interval == 0 && (400_000_000..=500_100_000).contains(&left),
        "ITIMER_VIRTUAL: {interval} {left}"
    );
    let (interval, left) = itimer(libc::ITIMER_PROF)?;
    ensure!(
        interval == 7_000_000 && (800_000_000..=900_100_000).contains(&left),
        "ITIMER_PROF: {interval} {left}"
    );
    Ok(())
}

/// `struct sigevent` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct Event {
    value: u64,
    signal: i32,
    notify: i32,
    tid: i32,
    rest: [i32; 11],
}

fn create(clock: i32, event: Event) -> Result<u64, Errno> {
    let mut id = 0_i32;
    let arguments = [clock as u64, &raw const event as u64, &raw mut id as u64, 0, 0, 0];
    // SAFETY: the kernel reads one sigevent and writes one int.
    unsafe { sys::raw(libc::SYS_timer_create, arguments) }?;
    Ok(id as u64)
}

/// Sets interval and time left in nanoseconds.
fn settime(id: u64, interval: u64, left: u64) -> Result<(), Errno> {
    let value = [interval / SECOND, interval % SECOND, left / SECOND, left % SECOND];
    // SAFETY: the kernel reads one itimerspec.
    unsafe { sys::raw(libc::SYS_timer_settime, [id, 0, &raw const value as u64, 0, 0, 0]) }.map(drop)
}

fn gettime(id: u64) -> Result<(u64, u64), Errno> {
    let mut value = [0_u64; 4];
    // SAFETY: the kernel writes one itimerspec.
    unsafe { sys::raw(libc::SYS_timer_gettime, [id, &raw mut value as u64, 0, 0, 0, 0]) }?;
    let [interval_s, interval_ns, left_s, left_ns] = value;
    Ok((interval_s * SECOND + interval_ns, left_s * SECOND + left_ns))
}

/// POSIX timers of several clocks, with gaps in their ids; armed, periodic, off; to the process, a thread, nobody.
pub(crate) fn posix_timers(stage: &Stage) -> Check {
    let numbers = [libc::SIGRTMIN() + 4, libc::SIGRTMIN() + 5];
    signal::block(&numbers)?;
    let event = |signal, notify, value| Event { value, signal, notify, tid: sys::tid(), rest: [0; 11] };
    let none = libc::SIGEV_NONE;
    let periodic = create(libc::CLOCK_MONOTONIC, event(numbers[0], libc::SIGEV_SIGNAL, 0xfeed_0000_beef))?;
    let gap = create(libc::CLOCK_MONOTONIC, event(0, none, 0))?;
    let far = create(libc::CLOCK_REALTIME, event(numbers[1], libc::SIGEV_THREAD_ID, 2))?;
    let off = create(libc::CLOCK_BOOTTIME, event(0, none, 0))?;
    // SAFETY: takes an integer.
    unsafe { sys::raw(libc::SYS_timer_delete, [gap, 0, 0, 0, 0, 0]) }?;
    settime(periodic, 5_000_000, 5_000_000)?;
    settime(far, 0, 5_000 * SECOND)?;
    let list = described()?;

    stage.freeze()?;

    ensure_eq!(described()?, list, "timers");
    for tick in 0..3 {
        let taken = signal::take(signal::bit(numbers[0]), Some(20 * SECOND))?;
        let Some(taken) = taken else { return Err(Failure::new(format!("no tick {tick}"))) };
        ensure_eq!((taken.code, taken.who, taken.value), (-2, periodic as i32, 0xfeed_0000_beef), "tick");
    }
    ensure_eq!(gettime(periodic)?.0, 5_000_000, "interval");
    let (interval, left) = gettime(far)?;
    ensure!(interval == 0 && (4_000 * SECOND..=5_000 * SECOND).contains(&left), "far: {interval} {left}");
    ensure_eq!(gettime(off)?, (0, 0), "off");
    settime(far, 0, 1_000).at("set")?;
    let taken = signal::take(signal::bit(numbers[1]), Some(20 * SECOND))?;
    ensure_eq!(taken.map(|t| (t.who, t.value)), Some((far as i32, 2)), "signal to the thread");
    let next = create(libc::CLOCK_MONOTONIC, event(0, none, 0)).at("create another")?;
    ensure!(![periodic, far, off].contains(&next), "id {next} is given twice");
    Ok(())
}

/// What the kernel tells of all timers, with what the timer ids are.
fn described() -> Result<String, Failure> {
    match std::fs::read_to_string("/proc/self/timers") {
        // Without checkpoint support in the kernel there is no such list, nor a dump.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => Ok(other?),
    }
}
