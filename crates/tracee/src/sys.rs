//! Raw ptrace(2) and waitpid(2): the requests nix does not wrap, and those whose exact errors are needed.
#![expect(unsafe_code, reason = "ptrace has no safe form")]

use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;
use zerocopy::{FromZeros, IntoBytes};

use crate::arch::Regs;

pub(crate) const OPT_TRACECLONE: libc::c_ulong = 1 << 3;
pub(crate) const OPT_SYSGOOD: libc::c_ulong = 1;
pub(crate) const OPT_EXITKILL: libc::c_ulong = 1 << 20;
pub(crate) const OPT_SUSPEND_SECCOMP: libc::c_ulong = 1 << 21;

const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;
/// More than any processor has today (AMX tiles take 8 KiB).
const XSTATE_MAX: usize = 64 << 10;

/// A request whose address and data are plain numbers.
fn request(what: libc::c_uint, tid: Pid, addr: usize, data: usize) -> Result<i64, Errno> {
    // SAFETY: callers in this module pass numbers, or pointers to memory that is valid for what the request does.
    Errno::result(unsafe { libc::ptrace(what, tid.as_raw(), addr, data) })
}

pub(crate) fn seize(tid: Pid, options: libc::c_ulong) -> Result<(), Errno> {
    let options = usize::try_from(options).expect("option bits are below 2^32");
    request(libc::PTRACE_SEIZE, tid, 0, options).map(drop)
}

pub(crate) fn interrupt(tid: Pid) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

fn signal_number(signal: i32) -> usize {
    usize::try_from(signal).expect("signals are positive")
}

pub(crate) fn cont(tid: Pid, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_CONT, tid, 0, signal_number(signal)).map(drop)
}

pub(crate) fn step(tid: Pid, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SINGLESTEP, tid, 0, signal_number(signal)).map(drop)
}

pub(crate) fn cont_to_syscall(tid: Pid, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_SYSCALL, tid, 0, signal_number(signal)).map(drop)
}

pub(crate) fn detach(tid: Pid) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, tid, 0, 0).map(drop)
}

pub(crate) fn event_message(tid: Pid) -> Result<u64, Errno> {
    let mut message = 0_u64;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).expose_provenance())?;
    Ok(message)
}

pub(crate) fn regs(tid: Pid) -> Result<Regs, Errno> {
    let mut regs = Regs::new_zeroed();
    let bytes = regs.as_mut_bytes();
    let iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    request(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, (&raw const iov).expose_provenance())?;
    Ok(regs)
}

pub(crate) fn set_regs(tid: Pid, regs: &Regs) -> Result<(), Errno> {
    let bytes = regs.as_bytes();
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    request(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, (&raw const iov).expose_provenance()).map(drop)
}

pub(crate) fn xstate(tid: Pid) -> Result<Vec<u8>, Errno> {
    const WORD: usize = 8;
    // How long it was the last time: threads are many, and nearly always alike.
    static LAST: AtomicUsize = AtomicUsize::new(XSTATE_MAX - WORD);
    // The kernel takes whole words only. What fills the room may be more.
    for room in [LAST.load(Ordering::Relaxed) + WORD, XSTATE_MAX] {
        let mut bytes = vec![0_u8; room];
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        request(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, (&raw mut iov).expose_provenance())?;
        if iov.iov_len < room {
            bytes.truncate(iov.iov_len);
            LAST.store(iov.iov_len, Ordering::Relaxed);
            return Ok(bytes);
        }
    }
    Err(Errno::EOVERFLOW)
}

pub(crate) fn set_xstate(tid: Pid, bytes: &[u8]) -> Result<(), Errno> {
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    request(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, (&raw const iov).expose_provenance()).map(drop)
}

pub(crate) fn sigmask(tid: Pid) -> Result<u64, Errno> {
    const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
    let mut mask = 0_u64;
    request(PTRACE_GETSIGMASK, tid, size_of::<u64>(), (&raw mut mask).expose_provenance())?;
    Ok(mask)
}

pub(crate) fn set_sigmask(tid: Pid, mask: u64) -> Result<(), Errno> {
    const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
    request(PTRACE_SETSIGMASK, tid, size_of::<u64>(), (&raw const mask).expose_provenance()).map(drop)
}

/// `struct ptrace_peeksiginfo_args`.
#[repr(C)]
struct PeekArgs {
    offset: u64,
    flags: u32,
    count: i32,
}

/// What came with the signal the thread is stopped for.
pub(crate) fn siginfo(tid: Pid) -> Result<[u8; 128], Errno> {
    let mut info = [0; 128];
    request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr().expose_provenance())?;
    Ok(info)
}

/// At most `infos.len()` queued signals from the `offset`th on, of the thread or shared by the process. Returns how many.
pub(crate) fn peek_siginfo(
    tid: Pid,
    shared: bool,
    offset: u64,
    infos: &mut [[u8; 128]],
) -> Result<usize, Errno> {
    const PTRACE_PEEKSIGINFO: libc::c_uint = 0x4209;
    let count = i32::try_from(infos.len()).unwrap_or(i32::MAX);
    let args = PeekArgs { offset, flags: u32::from(shared), count };
    let (addr, data) = ((&raw const args).expose_provenance(), infos.as_mut_ptr().expose_provenance());
    request(PTRACE_PEEKSIGINFO, tid, addr, data).map(|n| usize::try_from(n).unwrap_or(0))
}

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RseqConfiguration {
    pub(crate) ptr: u64,
    pub(crate) size: u32,
    pub(crate) signature: u32,
    pub(crate) flags: u32,
    pad: u32,
}

pub(crate) fn rseq(tid: Pid) -> Result<RseqConfiguration, Errno> {
    const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
    let mut conf = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    request(PTRACE_GET_RSEQ_CONFIGURATION, tid, size, (&raw mut conf).expose_provenance())?;
    Ok(conf)
}

/// `struct ptrace_sud_config`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct UserDispatch {
    mode: u64,
    selector: u64,
    offset: u64,
    len: u64,
}

/// Whether the thread has its system calls dispatched to itself: prctl(PR_SET_SYSCALL_USER_DISPATCH).
pub(crate) fn dispatches(tid: Pid) -> Result<bool, Errno> {
    const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
    const OFF: u64 = 0;
    let mut conf = UserDispatch::default();
    let (size, data) = (size_of::<UserDispatch>(), (&raw mut conf).expose_provenance());
    request(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, data)?;
    Ok(conf.mode != OFF)
}

/// waitpid(2) for this thread alone, whatever made it, until it stops or ends.
pub(crate) fn wait(tid: Pid) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is to a writable int.
        match Errno::result(unsafe { libc::waitpid(tid.as_raw(), &raw mut status, libc::__WALL) }) {
            Ok(_) => return Ok(status),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// waitid(2) until the thread has stopped or ended, leaving that to be waited for again. True if it ended.
pub(crate) fn wait_peek(tid: Pid) -> Result<bool, Errno> {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
    // SAFETY: a siginfo_t of zeros is valid.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    loop {
        let id = tid.as_raw().unsigned_abs();
        // SAFETY: the pointer is to a writable siginfo_t.
        match Errno::result(unsafe { libc::waitid(libc::P_PID, id, &raw mut info, flags) }) {
            Ok(_) => {
                let ended = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
                return Ok(ended.contains(&info.si_code));
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}
