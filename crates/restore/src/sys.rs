//! System calls that nix has no wrapper for, and the few lines that run in the new process.
#![expect(unsafe_code, reason = "raw system calls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::numbers::Move;

/// `struct clone_args` of the kernel. clone3(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, IntoBytes, Immutable)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 88);

/// What the new process does with ordinary calls before it stands still. Prepared by the parent: after the clone nothing
/// may be allocated, since another thread may have held a lock.
#[derive(Debug, Default)]
pub(crate) struct StubSteps {
    /// Become the leader of a session.
    pub(crate) session: bool,
    /// Become the leader of a process group.
    pub(crate) group: bool,
    /// Directory to be the root, before anything else of the sort.
    pub(crate) root: Option<RawFd>,
    /// Directory to stand in.
    pub(crate) cwd: RawFd,
    pub(crate) umask: u32,
    /// Descriptors to be given other numbers.
    pub(crate) moves: Vec<Move>,
    /// Set, target, event.
    pub(crate) epolls: Vec<(RawFd, RawFd, libc::epoll_event)>,
    /// Ranges of descriptors to close.
    pub(crate) close: Vec<(u32, u32)>,
    /// Where to say that all is done: one byte.
    pub(crate) tell: RawFd,
}

/// Exit codes of a stub that could not take a step: this plus the number of the step.
pub(crate) const STUB_FAILED: i32 = 64;
/// Names of the steps, by number.
pub(crate) const STEP_NAMES: [&str; 8] =
    ["setsid", "setpgid", "chroot", "fchdir", "dup3", "close_range", "epoll_ctl", "write"];

/// Creates the process `pid` as a child, which takes its steps and then waits in a loop that does nothing.
pub(crate) fn spawn_stub(pid: i32, steps: &StubSteps) -> Result<(), Errno> {
    let set_tid = pid;
    let args = CloneArgs {
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        set_tid: (&raw const set_tid).expose_provenance() as u64,
        set_tid_size: 1,
        ..Default::default()
    };
    let (at, len) = ((&raw const args).expose_provenance(), size_of::<CloneArgs>());
    // SAFETY: without CLONE_VM this is fork(2): the child has memory of its own and runs on with a copy of this stack.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, at, len) };
    if Errno::result(ret)? == 0 {
        run_stub(steps);
    }
    Ok(())
}

/// In the child: raw system calls only, no allocation, no locks, no panic.
fn run_stub(steps: &StubSteps) -> ! {
    let code = match take_steps(steps) {
        Ok(()) => loop {
            // SAFETY: takes nothing and touches no memory.
            unsafe { libc::syscall(libc::SYS_pause) };
        },
        Err(step) => STUB_FAILED + step,
    };
    loop {
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

fn take_steps(steps: &StubSteps) -> Result<(), i32> {
    let check = |ret: libc::c_long, step: i32| if ret < 0 { Err(step) } else { Ok(()) };
    if steps.session {
        // SAFETY: takes nothing.
        check(unsafe { libc::syscall(libc::SYS_setsid) }, 0)?;
    } else if steps.group {
        // SAFETY: takes two numbers.
        check(unsafe { libc::syscall(libc::SYS_setpgid, 0, 0) }, 1)?;
    }
    if let Some(root) = steps.root {
        // SAFETY: takes a number.
        check(unsafe { libc::syscall(libc::SYS_fchdir, root) }, 2)?;
        // SAFETY: the string is a constant.
        check(unsafe { libc::syscall(libc::SYS_chroot, c".".as_ptr()) }, 2)?;
    }
    // SAFETY: takes a number.
    check(unsafe { libc::syscall(libc::SYS_fchdir, steps.cwd) }, 3)?;
    // SAFETY: takes a number.
    unsafe { libc::syscall(libc::SYS_umask, steps.umask) };
    for &Move { from, to, close_on_exec } in &steps.moves {
        if from == to {
            let flags = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
            // SAFETY: takes three numbers.
            check(unsafe { libc::syscall(libc::SYS_fcntl, from, libc::F_SETFD, flags) }, 4)?;
            continue;
        }
        let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
        // SAFETY: takes three numbers.
        check(unsafe { libc::syscall(libc::SYS_dup3, from, to, flags) }, 4)?;
    }
    for &(first, last) in &steps.close {
        // SAFETY: takes three numbers.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }, 5)?;
    }
    for (set, target, event) in &steps.epolls {
        // SAFETY: the event is a valid struct that the kernel only reads.
        check(unsafe { libc::syscall(libc::SYS_epoll_ctl, *set, libc::EPOLL_CTL_ADD, *target, event) }, 6)?;
    }
    // SAFETY: the byte is a constant.
    check(unsafe { libc::syscall(libc::SYS_write, steps.tell, c"r".as_ptr(), 1) }, 7)
}

/// Waits until child `pid` has ended, and gives how. waitpid(2).
pub(crate) fn wait(pid: i32) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is to a writable int.
        match Errno::result(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Ok(_) => return Ok(status),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Opens `pid` as a descriptor. pidfd_open(2).
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    Ok(owned(fd))
}

/// Duplicates descriptor `fd` of the process behind `pidfd`. pidfd_getfd(2).
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes three numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })?;
    Ok(owned(fd))
}

fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = RawFd::try_from(fd).expect("the kernel returns descriptors");
    // SAFETY: the kernel just made this descriptor for us; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Calls fcntl(2) with an int, giving the result.
pub(crate) fn fcntl_int(fd: BorrowedFd<'_>, command: libc::c_int, value: libc::c_int) -> Result<i32, Errno> {
    // SAFETY: the commands used here take an int.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), command, value) })
}

/// Duplicates a descriptor to the lowest free number from `floor` on. fcntl(2), F_DUPFD_CLOEXEC.
pub(crate) fn dup_above(fd: BorrowedFd<'_>, floor: RawFd) -> Result<OwnedFd, Errno> {
    let new = fcntl_int(fd, libc::F_DUPFD_CLOEXEC, floor)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Sets owner and signal of an open file. fcntl(2), F_SETOWN_EX and F_SETSIG.
pub(crate) fn set_owner(fd: RawFd, kind: u32, pid: i32, signal: u32) -> Result<(), Errno> {
    const F_SETOWN_EX: libc::c_int = 15;
    const F_SETSIG: libc::c_int = 10;
    let owner = [kind.cast_signed(), pid];
    // SAFETY: the pointer is to two ints, which is struct f_owner_ex.
    Errno::result(unsafe { libc::fcntl(fd, F_SETOWN_EX, owner.as_ptr()) })?;
    // SAFETY: takes three numbers.
    Errno::result(unsafe { libc::fcntl(fd, F_SETSIG, signal.cast_signed()) }).map(drop)
}

/// Creates an eventfd. eventfd(2).
pub(crate) fn eventfd(semaphore: bool) -> Result<OwnedFd, Errno> {
    let flags = libc::EFD_CLOEXEC | if semaphore { libc::EFD_SEMAPHORE } else { 0 };
    // SAFETY: takes two numbers.
    let fd = Errno::result(unsafe { libc::eventfd(0, flags) })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a signalfd. signalfd(2).
pub(crate) fn signalfd(mask: u64) -> Result<OwnedFd, Errno> {
    let at = &raw const mask;
    // SAFETY: the pointer is to a mask of the size given.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, at, size_of::<u64>(), libc::SFD_CLOEXEC) };
    Ok(owned(Errno::result(fd)?))
}

/// Creates an epoll set. epoll_create1(2).
pub(crate) fn epoll() -> Result<OwnedFd, Errno> {
    // SAFETY: takes a number.
    let fd = Errno::result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a timerfd. timerfd_create(2).
pub(crate) fn timerfd(clock: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two numbers.
    let fd = Errno::result(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Arms a timerfd: interval and value, seconds and nanoseconds each. timerfd_settime(2).
pub(crate) fn timerfd_settime(fd: BorrowedFd<'_>, flags: i32, times: [i64; 4]) -> Result<(), Errno> {
    let at = times.as_ptr();
    // SAFETY: the pointer is to four words, which is struct itimerspec.
    let ret = unsafe { libc::syscall(libc::SYS_timerfd_settime, fd.as_raw_fd(), flags, at, 0_usize) };
    Errno::result(ret).map(drop)
}

/// Sets the expirations not read yet. ioctl TFD_IOC_SET_TICKS.
pub(crate) fn timerfd_set_ticks(fd: BorrowedFd<'_>, ticks: u64) -> Result<(), Errno> {
    const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
    // SAFETY: the pointer is to a word, which the kernel reads.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) }).map(drop)
}

/// `struct sched_attr` of the kernel, first version. sched_setattr(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Sets the nice value of a thread. setpriority(2).
pub(crate) fn set_nice(tid: i32, nice: i32) -> Result<(), Errno> {
    // SAFETY: takes three numbers.
    let ret = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, tid, nice) };
    Errno::result(ret).map(drop)
}

/// Sets scheduling of a thread. sched_setattr(2).
pub(crate) fn sched_setattr(tid: i32, mut attr: SchedAttr) -> Result<(), Errno> {
    attr.size = u32::try_from(size_of::<SchedAttr>()).expect("48");
    // SAFETY: the pointer is to a struct of the size it says.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, tid, &raw const attr, 0) };
    Errno::result(ret).map(drop)
}

/// Sets the input/output priority of a thread. ioprio_set(2).
pub(crate) fn set_ioprio(tid: i32, priority: u32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes three numbers.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, priority) };
    Errno::result(ret).map(drop)
}

/// Maps shared memory without a file; gives its address. It stays until the process ends or [`unmap`].
pub(crate) fn map_shared(len: usize) -> Result<usize, Errno> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping where the kernel likes; nothing that exists is touched.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(at.expose_provenance()) }
}

/// Takes away what [`map_shared`] gave.
pub(crate) fn unmap(at: usize, len: usize) {
    // SAFETY: the caller got this range from map_shared and has kept no reference into it.
    unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(at), len) };
}

/// Secure bits of the calling thread. prctl(2), PR_GET_SECUREBITS.
pub(crate) fn securebits() -> Option<u32> {
    // SAFETY: takes numbers.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) };
    u32::try_from(bits).ok()
}
