//! The system calls that std and nix do not offer, and what has to happen between fork and exec.
#![allow(unsafe_code, reason = "the one module of this library that talks to the kernel directly")]

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd::Pid,
};

/// A descriptor that stands for one process, even after its pid was given to another.
pub(crate) fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two integers and returns a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EOVERFLOW)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to the process behind the descriptor and to no other.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<(), Errno> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; the rest are integers.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as libc::c_int, info, 0)
    };
    Errno::result(done).map(drop)
}

/// Makes the program a session leader that inherits nothing but its three standard descriptors.
pub fn detach(command: &mut Command) {
    // SAFETY: the closure only makes system calls, which is all that is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            close_from_3(libc::CLOSE_RANGE_CLOEXEC)
        });
    }
}

/// Runs the program as pid 2 of a new pid namespace with its own `/proc`; pid 1 is a reaper.
///
/// Three processes come from one fork of the caller:
/// the direct child only waits and hands on the exit status, because it stays in the old namespace;
/// its child is pid 1, mounts `/proc`, reaps, and ends with the program, which ends the namespace;
/// pid 2 goes on to exec.
pub fn in_pid_namespace(command: &mut Command) {
    // SAFETY: all that runs between fork and exec are system calls on integers and static strings; nothing
    // allocates or takes a lock.
    unsafe {
        command.pre_exec(|| {
            die_with_parent()?;
            unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
            if let Some(init) = fork()? {
                stay_as_waiter(init);
            }
            die_with_parent()?;
            nix::unistd::setsid()?;
            mount_proc()?;
            if let Some(program) = fork()? {
                stay_as_init(program);
            }
            Ok(())
        });
    }
}

fn die_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}

fn mount_proc() -> io::Result<()> {
    // SAFETY: static strings and null pointers, as mount(2) allows for these flags.
    let private = unsafe {
        libc::mount(
            c"none".as_ptr(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    };
    Errno::result(private)?;
    // SAFETY: as above.
    let mounted = unsafe {
        libc::mount(
            c"proc".as_ptr(),
            c"/proc".as_ptr(),
            c"proc".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    Errno::result(mounted)?;
    Ok(())
}

/// A fork that runs no handlers of the C library, so it is allowed between fork and exec.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: without CLONE_VM this is a plain fork; the child goes on with a copy of this stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    let pid = libc::pid_t::try_from(Errno::result(pid)?).map_err(|_| Errno::EOVERFLOW)?;
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Waits for the namespace's init and ends as it did.
fn stay_as_waiter(init: Pid) -> ! {
    // The pipe on which the caller of exec listens must not stay open here.
    let _ = close_from_3(0);
    loop {
        match wait_any() {
            Ok((pid, code)) if pid == init => exit_now(code),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => exit_now(125),
        }
    }
}

/// Pid 1: reaps whatever is left to it until the program has ended. The kernel then kills the rest.
fn stay_as_init(program: Pid) -> ! {
    stay_as_waiter(program)
}

fn wait_any() -> Result<(Pid, i32), Errno> {
    let mut status = 0;
    // SAFETY: status lives on this stack frame.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, 0) })?;
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128_i32.saturating_add(libc::WTERMSIG(status))
    };
    Ok((Pid::from_raw(pid), code))
}

fn exit_now(code: i32) -> ! {
    // SAFETY: ends this process at once, without running anything that belongs to the parent's copy.
    unsafe { libc::_exit(code) }
}

fn close_from_3(flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: closes or marks descriptors by number; after fork nobody in this process uses them.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) };
    Errno::result(done)?;
    Ok(())
}
