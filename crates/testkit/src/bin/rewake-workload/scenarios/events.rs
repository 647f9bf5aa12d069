//! Descriptors that tell of events: eventfd, epoll, timerfd, signalfd.

use std::{os::fd::AsRawFd, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        time::{TimeSpec, TimeValLike},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};

use crate::{
    stage::{At, Check, Stage, ensure, ensure_eq},
    sys::{fd, signal},
};

/// Counters.
pub(crate) fn eventfd(stage: &Stage) -> Check {
    let plain = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
    plain.write(0x8000_0005)?;
    let zero = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK)?;
    let table = fd::table()?;
    stage.freeze()?;
    fd::check_table(&table)?;
    ensure_eq!(plain.read()?, 0x8000_0005, "counter");
    ensure_eq!(zero.read(), Err(Errno::EAGAIN), "counter at zero");
    Ok(())
}

/// A counter that gives ones.
pub(crate) fn eventfd_semaphore(stage: &Stage) -> Check {
    let semaphore = EventFd::from_value_and_flags(3, EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK)?;
    stage.freeze()?;
    for _ in 0..3 {
        ensure_eq!(semaphore.read()?, 1, "semaphore");
    }
    ensure_eq!(semaphore.read(), Err(Errno::EAGAIN), "semaphore at its end");
    Ok(())
}

/// A counter near the top of what it can be.
pub(crate) fn eventfd_large(stage: &Stage) -> Check {
    let large = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK)?;
    large.write(u64::MAX - 1)?;
    stage.freeze()?;
    ensure_eq!(large.write(1), Err(Errno::EAGAIN), "one more than it can be");
    ensure_eq!(large.read()?, u64::MAX - 1, "counter");
    Ok(())
}

/// A set that watches descriptors of three kinds, a closed number, and another set.
pub(crate) fn eventpoll(stage: &Stage) -> Check {
    let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let inner = Epoll::new(EpollCreateFlags::empty())?;
    let event = EventFd::from_value_and_flags(0, EfdFlags::empty())?;
    let (reader, writer) = nix::unistd::pipe()?;
    let once = EventFd::from_value_and_flags(1, EfdFlags::empty())?;
    outer.add(&event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0xdead_beef_0000_0001))?;
    outer.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 2))?;
    outer.add(&inner.0, EpollEvent::new(EpollFlags::EPOLLIN, 3))?;
    inner.add(&once, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 4))?;
    let mut events = [EpollEvent::empty(); 8];
    // Taken: a one-shot watch is silent from now on.
    ensure_eq!(inner.wait(&mut events, EpollTimeout::ZERO)?, 1, "one-shot before");
    let (table, info) = (fd::table()?, info(&outer)?);

    stage.freeze()?;

    fd::check_table(&table)?;
    ensure_eq!(self::info(&outer)?, info, "what is watched");
    ensure_eq!(outer.wait(&mut events, EpollTimeout::ZERO)?, 0, "events before any");
    ensure_eq!(inner.wait(&mut events, EpollTimeout::ZERO)?, 0, "one-shot after");
    event.write(1)?;
    nix::unistd::write(&writer, b"x")?;
    let count = outer.wait(&mut events, EpollTimeout::ZERO)?;
    let mut seen: Vec<u64> = events[..count].iter().map(EpollEvent::data).collect();
    seen.sort_unstable();
    ensure_eq!(seen, [2, 0xdead_beef_0000_0001], "events");
    let count = outer.wait(&mut events, EpollTimeout::ZERO)?;
    ensure_eq!(events[..count].iter().map(EpollEvent::data).collect::<Vec<_>>(), [2], "edge-triggered: once");
    outer.modify(&reader, &mut EpollEvent::new(EpollFlags::EPOLLOUT, 9)).at("modify")?;
    outer.delete(&event).at("delete")?;
    Ok(())
}

/// What is watched, as the kernel tells it.
fn info(set: &Epoll) -> Result<Vec<String>, crate::stage::Failure> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", set.0.as_raw_fd()))?;
    let watched = text.lines().filter(|line| line.starts_with("tfd:"));
    // Inode and device of anonymous files differ from machine to machine.
    let mut lines: Vec<String> =
        watched.map(|line| line.split(" pos:").next().unwrap_or(line).to_owned()).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// Armed once and far off, periodic, absolute, expired, and disarmed timers.
pub(crate) fn timerfd(stage: &Stage) -> Check {
    let clock = ClockId::CLOCK_MONOTONIC;
    let far = TimerFd::new(clock, TimerFlags::TFD_CLOEXEC)?;
    far.set(Expiration::OneShot(TimeSpec::seconds(10_000)), TimerSetTimeFlags::empty())?;
    let periodic = TimerFd::new(clock, TimerFlags::empty())?;
    periodic.set(Expiration::Interval(TimeSpec::milliseconds(10)), TimerSetTimeFlags::empty())?;
    let off = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK)?;
    let expired = TimerFd::new(clock, TimerFlags::TFD_NONBLOCK)?;
    expired.set(Expiration::OneShot(TimeSpec::nanoseconds(1)), TimerSetTimeFlags::empty())?;
    let noticed = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::empty())?;
    let tomorrow =
        TimeSpec::from_duration(std::time::SystemTime::UNIX_EPOCH.elapsed()?) + TimeSpec::seconds(86_400);
    let to_the_point = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    noticed.set(Expiration::OneShot(tomorrow), to_the_point)?;
    let mut fds = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&expired), nix::poll::PollFlags::POLLIN)];
    ensure_eq!(nix::poll::poll(&mut fds, 10_000_u16)?, 1, "expired before");
    let table = fd::table()?;

    stage.freeze()?;

    fd::check_table(&table)?;
    let left = match far.get()? {
        Some(Expiration::OneShot(left)) => Duration::from(left),
        other => return Err(crate::stage::Failure::new(format!("far off: {other:?}"))),
    };
    ensure!((9_000..=10_000).contains(&left.as_secs()), "far off: {left:?} left");
    match noticed.get()? {
        Some(Expiration::OneShot(left)) => {
            let left = Duration::from(left).as_secs();
            ensure!((86_000..=86_400).contains(&left), "tomorrow: {left} seconds left");
        }
        other => return Err(crate::stage::Failure::new(format!("tomorrow: {other:?}"))),
    }
    let flags = fd::info(&noticed, "settime flags")?;
    ensure_eq!(flags, "03", "flags of the one that notices when the clock is set");
    for _ in 0..3 {
        periodic.wait()?;
    }
    let interval = match periodic.get()? {
        Some(Expiration::IntervalDelayed(_, interval) | Expiration::Interval(interval)) => interval,
        other => return Err(crate::stage::Failure::new(format!("periodic: {other:?}"))),
    };
    ensure_eq!(interval, TimeSpec::milliseconds(10), "interval");
    ensure!(off.get()?.is_none(), "disarmed: {:?}", off.get()?);
    ensure_eq!(fd::read(&off, 8), Err(Errno::EAGAIN), "read of the disarmed one");
    ensure_eq!(fd::read(&expired, 8), Ok(1_u64.to_ne_bytes().to_vec()), "read of the expired one");
    Ok(())
}

/// A descriptor for signals, one of which is waiting.
pub(crate) fn signalfd(stage: &Stage) -> Check {
    let signals = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGRTMIN() + 3];
    signal::block(&signals)?;
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set.add(Signal::SIGUSR2);
    let taker = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    nix::sys::signal::raise(Signal::SIGUSR1)?;
    let table = fd::table()?;
    stage.freeze()?;
    fd::check_table(&table)?;
    let number = |taken: Option<libc::signalfd_siginfo>| taken.map(|info| info.ssi_signo as i32);
    ensure_eq!(number(taker.read_signal()?), Some(libc::SIGUSR1), "waiting");
    ensure_eq!(number(taker.read_signal()?), None, "no other");
    nix::sys::signal::raise(Signal::SIGUSR2)?;
    ensure_eq!(number(taker.read_signal()?), Some(libc::SIGUSR2), "a new one");
    Ok(())
}
