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
