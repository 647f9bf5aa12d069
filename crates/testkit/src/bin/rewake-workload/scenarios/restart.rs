//! Threads asleep in system calls that a dump interrupts: none may tell.

use std::{
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst},
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{self, fd, proc, thread},
};

/// Lets `body` go to sleep in a system call on a thread of its own, freezes, and lets `wake` wake it up.
fn asleep<T: Send>(
    stage: &Stage,
    number: libc::c_long,
    body: impl FnOnce() -> T + Send,
    wake: impl FnOnce() -> Check,
) -> Result<T, Failure> {
    let tid = AtomicI32::new(0);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            tid.store(sys::tid(), SeqCst);
            body()
        });
        while tid.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        let frozen = proc::await_syscall(tid.load(SeqCst), number).and_then(|()| stage.freeze());
        let woken = wake();
        let got = sleeper.join().map_err(|_| Failure::new("the thread panicked"));
        frozen?;
        woken?;
        got
    })
}

fn nothing() -> Check {
    Ok(())
}

/// nanosleep, which the kernel goes on with by a call of its own.
pub(crate) fn restart_nanosleep(stage: &Stage) -> Check {
    let begun = Instant::now();
    let slept = asleep(stage, libc::SYS_nanosleep, || thread::nanosleep(2_000_000_000), nothing)?;
    ensure_eq!(slept, Ok(()), "nanosleep");
    ensure!(begun.elapsed() >= Duration::from_secs(2), "woke up after {:?}", begun.elapsed());
    Ok(())
}

/// The same until a point in time.
pub(crate) fn restart_clock_nanosleep(stage: &Stage) -> Check {
    let until = sys::now_ns() + 1_500_000_000;
    let body = || {
        const ABSOLUTE: u64 = 1;
        let time = thread::timespec(until);
        let arguments = [libc::CLOCK_MONOTONIC as u64, ABSOLUTE, &raw const time as u64, 0, 0, 0];
        // SAFETY: the kernel reads one timespec.
        unsafe { sys::raw(libc::SYS_clock_nanosleep, arguments) }
    };
    ensure_eq!(asleep(stage, libc::SYS_clock_nanosleep, body, nothing)?, Ok(0), "clock_nanosleep");
    ensure!(sys::now_ns() >= until, "woke up too early");
    Ok(())
}

/// poll with a limit, ended by an event.
pub(crate) fn restart_poll(stage: &Stage) -> Check {
    let (reader, writer) = nix::unistd::pipe()?;
    let body = || {
        let mut fds = [libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: the kernel reads and writes one pollfd.
        let got = unsafe { sys::raw(libc::SYS_poll, [fds.as_mut_ptr() as u64, 1, 600_000, 0, 0, 0]) };
        got.map(|count| (count, fds[0].revents))
    };
    let wake = || Ok(nix::unistd::write(&writer, b"x").map(drop)?);
    ensure_eq!(asleep(stage, libc::SYS_poll, body, wake)?, Ok((1, libc::POLLIN)), "poll");
    Ok(())
}

/// A futex with a limit, and one without.
pub(crate) fn restart_futex(stage: &Stage) -> Check {
    let word = AtomicU32::new(7);
    let body = || thread::futex_wait(&word, 7, Some(600_000_000_000));
    let wake = || {
        word.store(8, SeqCst);
        thread::futex_wake_all(&word);
        Ok(())
    };
    // A thread that had not yet gone back to sleep finds the new value instead.
    let woken = asleep(stage, libc::SYS_futex, body, wake)?;
    ensure!(matches!(woken, Ok(()) | Err(Errno::EAGAIN)), "futex: {woken:?}");
    Ok(())
}

/// read of a pipe, which is just made again.
pub(crate) fn restart_read(stage: &Stage) -> Check {
    let (reader, writer) = nix::unistd::pipe()?;
    let wake = || Ok(nix::unistd::write(&writer, b"hello").map(drop)?);
    ensure_eq!(
        asleep(stage, libc::SYS_read, || fd::read(reader.as_fd(), 99), wake)?,
        Ok(b"hello".to_vec()),
        "read"
    );
    Ok(())
}

/// write to a full pipe.
pub(crate) fn restart_write(stage: &Stage) -> Check {
    let (reader, writer) = nix::unistd::pipe()?;
    let size = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ)? as usize;
    nix::unistd::write(&writer, &vec![1; size])?;
    let body = || nix::unistd::write(&writer, &[2; 4096]);
    let wake = || Ok(fd::read(&reader, size).map(drop)?);
    ensure_eq!(asleep(stage, libc::SYS_write, body, wake)?, Ok(4096), "write");
    ensure_eq!(fd::read(&reader, 9999)?, [2; 4096], "what was written");
    Ok(())
}

/// epoll_wait is one of the calls that an interruption ends, whatever the handler's flags: EINTR is allowed, no more.
pub(crate) fn restart_epoll(stage: &Stage) -> Check {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    let (reader, writer) = nix::unistd::pipe()?;
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 5)).at("add")?;
    let body = || {
        let mut events = [EpollEvent::empty(); 2];
        loop {
            match set.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                other => return other.map(|count| (count, events[0].data())),
            }
        }
    };
    let wake = || Ok(nix::unistd::write(&writer, b"x").map(drop)?);
    ensure_eq!(asleep(stage, libc::SYS_epoll_wait, body, wake)?, Ok((1, 5)), "epoll_wait");
    Ok(())
}

/// ppoll with another mask meanwhile: the old one must be in force afterwards.
pub(crate) fn restart_ppoll(stage: &Stage) -> Check {
    use sys::signal;
    let (reader, writer) = nix::unistd::pipe()?;
    let body = || -> Result<_, Errno> {
        signal::block(&[libc::SIGUSR1])?;
        let before = signal::mask()?;
        let inside = before & !signal::bit(libc::SIGUSR1);
        let mut fds = [libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        let limit = thread::timespec(600_000_000_000);
        let arguments = [fds.as_mut_ptr() as u64, 1, &raw const limit as u64, &raw const inside as u64, 8, 0];
        // SAFETY: the kernel reads and writes one pollfd, reads a timespec and a set of 8 bytes.
        let got = unsafe { sys::raw(libc::SYS_ppoll, arguments) };
        Ok((got, before == signal::mask()?))
    };
    let wake = || Ok(nix::unistd::write(&writer, b"x").map(drop)?);
    ensure_eq!(asleep(stage, libc::SYS_ppoll, body, wake)?, Ok((Ok(1), true)), "ppoll, mask");
    Ok(())
}

/// select with a limit.
pub(crate) fn restart_select(stage: &Stage) -> Check {
    let (reader, writer) = nix::unistd::pipe()?;
    let body = || {
        let mut set = [0_u64; 16];
        let number = reader.as_raw_fd() as usize;
        set[number / 64] |= 1 << (number % 64);
        let mut limit = libc::timeval { tv_sec: 600, tv_usec: 0 };
        let arguments = [number as u64 + 1, set.as_mut_ptr() as u64, 0, 0, &raw mut limit as u64, 0];
        // SAFETY: the kernel reads and writes one set of 1024 bits and one timeval.
        unsafe { sys::raw(libc::SYS_select, arguments) }.map(|count| (count, set[number / 64].count_ones()))
    };
    let wake = || Ok(nix::unistd::write(&writer, b"x").map(drop)?);
    ensure_eq!(asleep(stage, libc::SYS_select, body, wake)?, Ok((1, 1)), "select");
    Ok(())
}

/// read of a timerfd: the timer goes off while nothing of the process exists, or later.
pub(crate) fn restart_timerfd(stage: &Stage) -> Check {
    use nix::sys::{
        time::{TimeSpec, TimeValLike},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    };
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty())?;
    timer.set(Expiration::OneShot(TimeSpec::milliseconds(1500)), TimerSetTimeFlags::empty())?;
    let got = asleep(stage, libc::SYS_read, || fd::read(timer.as_fd(), 8), nothing)?;
    ensure_eq!(got, Ok(1_u64.to_ne_bytes().to_vec()), "read");
    Ok(())
}

/// pause, which only a handler ends.
pub(crate) fn restart_pause(stage: &Stage) -> Check {
    use std::sync::atomic::AtomicBool;
    use sys::signal;
    static SEEN: AtomicBool = AtomicBool::new(false);
    extern "C" fn note(_signal: i32) {
        SEEN.store(true, SeqCst);
    }
    signal::handle(libc::SIGUSR1, note, nix::sys::signal::SaFlags::empty())?;
    let sleeper = AtomicI32::new(0);
    let body = || {
        sleeper.store(sys::tid(), SeqCst);
        // SAFETY: takes nothing.
        unsafe { sys::raw(libc::SYS_pause, [0; 6]) }
    };
    let wake = || {
        ensure!(!SEEN.load(SeqCst), "the handler ran before the signal was sent");
        // A signal that comes before the thread is back in the call is handled before it, and then nothing ends it.
        proc::await_syscall(sleeper.load(SeqCst), libc::SYS_pause)?;
        let arguments = [sys::pid() as u64, sleeper.load(SeqCst) as u64, libc::SIGUSR1 as u64, 0, 0, 0];
        // SAFETY: takes integers only.
        Ok(unsafe { sys::raw(libc::SYS_tgkill, arguments) }.map(drop)?)
    };
    // Only a handler ends it, and then it says EINTR.
    ensure_eq!(asleep(stage, libc::SYS_pause, body, wake)?, Err(Errno::EINTR), "pause");
    ensure!(SEEN.load(SeqCst), "the handler did not run");
    Ok(())
}
