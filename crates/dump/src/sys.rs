//! System calls that nix has no wrapper for.
#![expect(unsafe_code, reason = "raw system calls")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// Opens `pid` as a descriptor. pidfd_open(2).
pub(crate) fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
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

/// Order of the open file descriptions behind two descriptors of `pid`; equal if they share one. kcmp(2).
pub(crate) fn kcmp_file(pid: Pid, a: RawFd, b: RawFd) -> Result<std::cmp::Ordering, Errno> {
    const KCMP_FILE: libc::c_int = 0;
    let (raw, a, b) = (pid.as_raw(), a.unsigned_abs(), b.unsigned_abs());
    // SAFETY: takes five numbers.
    let order = unsafe {
        libc::syscall(libc::SYS_kcmp, raw, raw, KCMP_FILE, libc::c_ulong::from(a), libc::c_ulong::from(b))
    };
    match Errno::result(order)? {
        0 => Ok(std::cmp::Ordering::Equal),
        1 => Ok(std::cmp::Ordering::Less),
        2 => Ok(std::cmp::Ordering::Greater),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether descriptor `fd` of `pid` is the file that the epoll set behind descriptor `set` watches by that number; `nth` counts files
/// watched by the same number. kcmp(2), KCMP_EPOLL_TFD.
pub(crate) fn watches(pid: Pid, set: RawFd, fd: RawFd, nth: u32) -> Result<bool, Errno> {
    const KCMP_EPOLL_TFD: libc::c_int = 7;
    let slot = [set.unsigned_abs(), fd.unsigned_abs(), nth];
    let (raw, fd) = (pid.as_raw(), libc::c_ulong::from(fd.unsigned_abs()));
    // SAFETY: the pointer is to three words, which the kernel only reads.
    let order = unsafe {
        libc::syscall(libc::SYS_kcmp, raw, raw, KCMP_EPOLL_TFD, fd, slot.as_ptr().expose_provenance())
    };
    Errno::result(order).map(|order| order == 0)
}

/// Address and length of the robust futex list of thread `tid`. get_robust_list(2).
pub(crate) fn robust_list(tid: Pid) -> Result<(u64, u64), Errno> {
    let (mut head, mut len) = (0_u64, 0_u64);
    // SAFETY: both pointers are to writable words of the size the kernel writes.
    let ret = unsafe { libc::syscall(libc::SYS_get_robust_list, tid.as_raw(), &raw mut head, &raw mut len) };
    Errno::result(ret).map(|_| (head, len))
}

/// `struct sched_attr` of the kernel, first version. sched_getattr(2).
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

impl SchedAttr {
    /// Its policy is SCHED_DEADLINE.
    pub(crate) fn has_deadline(&self) -> bool {
        i32::try_from(self.policy) == Ok(SCHED_DEADLINE)
    }
}

const SCHED_ATTR_SIZE: u32 = 48;
const _: () = assert!(size_of::<SchedAttr>() == 48);

/// Scheduling of thread `tid`. sched_getattr(2).
pub(crate) fn sched_getattr(tid: Pid) -> Result<SchedAttr, Errno> {
    let mut attr = SchedAttr::default();
    // SAFETY: the pointer is to a writable struct of the length given.
    let ret =
        unsafe { libc::syscall(libc::SYS_sched_getattr, tid.as_raw(), &raw mut attr, SCHED_ATTR_SIZE, 0) };
    Errno::result(ret)?;
    // Told only of policies that go by it; a real-time thread keeps it for the day it is one no more.
    if matches!(i32::try_from(attr.policy), Ok(libc::SCHED_FIFO | libc::SCHED_RR | SCHED_DEADLINE)) {
        attr.nice = nice(tid)?;
    }
    Ok(attr)
}

const SCHED_DEADLINE: libc::c_int = 6;

/// The nice value of thread `tid`. getpriority(2).
fn nice(tid: Pid) -> Result<i32, Errno> {
    // The kernel returns no negative numbers here.
    const HIGHEST: i32 = 20;
    // SAFETY: takes three numbers.
    let ret =
        Errno::result(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid.as_raw()) })?;
    Ok(HIGHEST - i32::try_from(ret).unwrap_or(HIGHEST))
}

/// Input/output priority of thread `tid`. ioprio_get(2).
pub(crate) fn ioprio(tid: Pid) -> Result<u16, Errno> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: takes two numbers.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid.as_raw()) };
    Errno::result(ret).map(|p| u16::try_from(p).unwrap_or(0))
}

/// Seals of a memfd, `None` if the file takes none. fcntl(2), F_GET_SEALS.
pub(crate) fn seals(fd: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: takes two numbers.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
    u32::try_from(ret).ok()
}

/// Status flags (O_*) of an open file. fcntl(2), F_GETFL.
pub(crate) fn status_flags(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: takes two numbers.
    let ret = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    Ok(ret.unsigned_abs())
}

/// Whether somebody else holds a lock of fcntl(2) on a file: `false` is certain.
pub(crate) fn may_be_locked(fd: BorrowedFd<'_>) -> bool {
    let kind = |kind: libc::c_int| libc::c_short::try_from(kind).expect("a small number");
    let [l_type, l_whence] = [libc::F_WRLCK, libc::SEEK_SET].map(kind);
    // The whole file.
    let mut lock = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: the pointer is to a valid struct, which the kernel reads and writes.
    match Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLK, &raw mut lock) }) {
        Ok(_) => lock.l_type != kind(libc::F_UNLCK),
        // A descriptor of O_PATH has no locks.
        Err(errno) => errno != Errno::EBADF,
    }
}

/// Whether there is a lease on an open file: `false` is certain. fcntl(2), F_GETLEASE.
pub(crate) fn may_be_leased(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: takes two numbers.
    let lease = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLEASE) });
    lease.map_or_else(|errno| errno != Errno::EBADF, |lease| lease != libc::F_UNLCK)
}

/// Who is signalled when input arrives.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) kind: u32,
    pub(crate) pid: i32,
    pub(crate) signal: i32,
}

/// Owner and signal of an open file. fcntl(2), F_GETOWN_EX and F_GETSIG.
pub(crate) fn owner(fd: BorrowedFd<'_>) -> Result<Owner, Errno> {
    const F_GETOWN_EX: libc::c_int = 16;
    const F_GETSIG: libc::c_int = 11;
    let mut owner = [0_i32; 2];
    // SAFETY: the pointer is to two writable ints, which is the size of struct f_owner_ex.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) })?;
    // SAFETY: takes two numbers.
    let signal = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) })?;
    let [kind, pid] = owner;
    Ok(Owner { kind: kind.unsigned_abs(), pid, signal })
}

/// Asks for the time left, which brings the timer up to date. timerfd_gettime(2).
pub(crate) fn timerfd_gettime(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut times = [0_u64; 4];
    // SAFETY: the pointer is to four writable words, which is the size of struct itimerspec.
    let ret = unsafe { libc::syscall(libc::SYS_timerfd_gettime, fd.as_raw_fd(), times.as_mut_ptr()) };
    Errno::result(ret).map(drop)
}

/// Capacity of a pipe. fcntl(2), F_GETPIPE_SZ.
pub(crate) fn pipe_size(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: takes two numbers.
    let ret = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
    Ok(ret.unsigned_abs())
}

/// Sets the capacity of a pipe. fcntl(2), F_SETPIPE_SZ.
pub(crate) fn set_pipe_size(fd: BorrowedFd<'_>, bytes: u32) -> Result<(), Errno> {
    // SAFETY: takes three numbers.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }).map(drop)
}

/// Bytes that can be read at once. ioctl FIONREAD, pipe(7).
pub(crate) fn bytes_queued(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the pointer is to a writable int, which is what FIONREAD writes.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes.unsigned_abs())
}

/// User ids of whoever set the owner of an open file. fcntl(2), F_GETOWNER_UIDS.
pub(crate) fn owner_uids(fd: BorrowedFd<'_>) -> Option<[u32; 2]> {
    const F_GETOWNER_UIDS: libc::c_int = 17;
    let mut uids = [0_u32; 2];
    // SAFETY: the pointer is to two writable words, which is what the kernel writes.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr()) };
    (ret == 0).then_some(uids)
}
