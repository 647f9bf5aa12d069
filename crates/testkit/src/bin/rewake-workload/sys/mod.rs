//! Safe faces of the system calls the scenarios need beyond std and nix.

pub(crate) mod fd;
pub(crate) mod mem;
pub(crate) mod proc;
pub(crate) mod robust;
pub(crate) mod signal;
pub(crate) mod spin;
pub(crate) mod thread;

use nix::errno::Errno;

/// One raw system call. The caller vouches that pointers among the arguments are good for this call.
///
/// # Safety
/// As the system call demands of its arguments.
pub(crate) unsafe fn raw(number: libc::c_long, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the caller vouches for the arguments.
    let done = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(done).map(|value| value as u64)
}

/// The kernel's id of this thread, never a cached one.
pub(crate) fn tid() -> i32 {
    // SAFETY: no arguments.
    (unsafe { libc::syscall(libc::SYS_gettid) }) as i32
}

pub(crate) fn pid() -> i32 {
    // SAFETY: no arguments.
    (unsafe { libc::syscall(libc::SYS_getpid) }) as i32
}

/// Where thread-local storage is.
pub(crate) fn fs_base() -> u64 {
    const ARCH_GET_FS: u64 = 0x1003;
    let mut base = 0_u64;
    // SAFETY: the kernel writes eight bytes to base.
    let _ = unsafe { raw(libc::SYS_arch_prctl, [ARCH_GET_FS, &raw mut base as u64, 0, 0, 0, 0]) };
    base
}

/// Address and length of this thread's robust list head.
pub(crate) fn robust_list() -> Result<(u64, u64), Errno> {
    let (mut head, mut length) = (0_u64, 0_u64);
    let arguments = [0, &raw mut head as u64, &raw mut length as u64, 0, 0, 0];
    // SAFETY: the kernel writes eight bytes to each of the two.
    unsafe { raw(libc::SYS_get_robust_list, arguments) }?;
    Ok((head, length))
}

/// One prctl that takes integers only.
pub(crate) fn prctl(option: i32, argument: u64) -> Result<u64, Errno> {
    // SAFETY: only used with options whose argument is an integer.
    unsafe { raw(libc::SYS_prctl, [option as u64, argument, 0, 0, 0, 0]) }
}

/// One prctl that writes an int through its argument.
pub(crate) fn prctl_out(option: i32) -> Result<i32, Errno> {
    let mut out = 0_i32;
    // SAFETY: only used with options that write one int to the address.
    unsafe { raw(libc::SYS_prctl, [option as u64, &raw mut out as u64, 0, 0, 0, 0]) }?;
    Ok(out)
}

/// Monotonic time in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
