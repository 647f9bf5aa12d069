//! System calls run by the task itself, driven from outside.
//!
//! The first is single-stepped over a `syscall` instruction the task has anyway, in its vdso. It maps a scratch area: a
//! page of code (43 bytes that run a table of calls), the table, and room for arguments and results. What is then called
//! costs one round trip a table, however long.

use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::Pid;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::arch::{RUNNER, Regs, SYSCALL, SYSCALL_LEN};
use crate::error::{Result, TraceeError};
use crate::group::ThreadGroup;
use crate::pin::Pin;
use crate::stop::{Stop, died};
use crate::sys;
use crate::tracee::Tracee;

const PAGE: u64 = 4096;
const TABLE_LEN: u64 = 64 << 10;
const DATA_LEN: u64 = 256 << 10;
/// Size of the scratch area: code, table, data.
pub const SCRATCH_LEN: u64 = PAGE + TABLE_LEN + DATA_LEN;

/// One system call of a table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Call {
    nr: i64,
    args: [u64; 6],
    ret: i64,
}

const _: () = assert!(size_of::<Call>() == 64);

impl Call {
    /// Call number `nr` with its arguments; the rest are zero.
    ///
    /// # Panics
    /// For more than six arguments.
    #[must_use]
    pub fn new(nr: libc::c_long, given: &[u64]) -> Self {
        let mut args = [0; 6];
        args.get_mut(..given.len()).expect("system calls take six arguments").copy_from_slice(given);
        // What shows up when a call was not run at all.
        Self { nr, args, ret: -i64::from(libc::ENOSYS) }
    }

    /// Its number.
    #[must_use]
    pub fn nr(&self) -> i64 {
        self.nr
    }

    /// What it returned.
    ///
    /// # Errors
    /// The error it returned.
    pub fn result(&self) -> Result<u64, Errno> {
        const MAX_ERRNO: i64 = 4095;
        if (-MAX_ERRNO..0).contains(&self.ret) {
            let errno = i32::try_from(-self.ret).expect("below 4096");
            return Err(Errno::from_raw(errno));
        }
        Ok(self.ret.cast_unsigned())
    }
}

/// What is mapped into the task while calls are run in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scratch {
    /// Start of the area, `None` when there is none (yet, or any more).
    base: Option<u64>,
    /// Address of a `syscall` instruction outside it.
    instruction: u64,
}

/// The task as a runner of system calls. It stays usable until dropped; the scratch area stays mapped until the group is
/// released or [`Remote::drop_scratch`] is called.
#[derive(Debug)]
pub struct Remote<'a> {
    group: &'a mut ThreadGroup,
    scratch: Scratch,
    pin: Option<Pin>,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(group: &'a mut ThreadGroup, addr: Option<u64>) -> Result<Self> {
        let scratch = match group.scratch {
            Some(scratch) => scratch,
            None => Scratch { base: None, instruction: find_syscall(group)? },
        };
        group.scratch = Some(scratch);
        group.remote_used = true;
        let pin = Some(Pin::to_cpu_of(group.leader().tid()));
        let mut remote = Self { group, scratch, pin };
        if remote.scratch.base.is_none() {
            remote.map_scratch(addr)?;
        }
        Ok(remote)
    }

    /// For the last calls, with whatever is still there.
    pub(crate) fn resume(group: &'a mut ThreadGroup) -> Result<Self> {
        let scratch = match group.scratch {
            Some(scratch) => scratch,
            None => Scratch { base: None, instruction: find_syscall(group)? },
        };
        Ok(Self { group, scratch, pin: None })
    }

    fn map_scratch(&mut self, addr: Option<u64>) -> Result<()> {
        const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if addr.is_some() {
            flags |= libc::MAP_FIXED_NOREPLACE;
        }
        let [rx, rw, flags] = [RX, RW, flags].map(|n| u64::from(n.unsigned_abs()));
        let args = [addr.unwrap_or(0), SCRATCH_LEN, rx, flags, u64::MAX, 0];
        let base = self.single(libc::SYS_mmap, args)?;
        self.scratch.base = Some(base);
        self.group.scratch = Some(self.scratch);
        self.single(libc::SYS_mprotect, [base + PAGE, SCRATCH_LEN - PAGE, rw, 0, 0, 0])?;
        self.group.mem.write(base, &RUNNER)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.group.pid()
    }

    /// Its threads.
    #[must_use]
    pub fn threads(&self) -> &[Tracee] {
        self.group.threads()
    }

    /// Where the scratch area is mapped.
    #[must_use]
    pub fn scratch(&self) -> Range<u64> {
        let base = self.scratch.base.unwrap_or(0);
        base..base + SCRATCH_LEN
    }

    /// Address of room for arguments and results: [`Remote::data_len`] bytes that nothing else uses.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.scratch.base.unwrap_or(0) + PAGE + TABLE_LEN
    }

    /// Size of that room.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        DATA_LEN
    }

    /// Reads the task's memory.
    ///
    /// # Errors
    /// [`TraceeError::Memory`].
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<()> {
        self.group.mem.read(addr, buf)
    }

    /// Writes the task's memory.
    ///
    /// # Errors
    /// [`TraceeError::Memory`].
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<()> {
        self.group.mem.write(addr, bytes)
    }

    /// Runs one call on the first thread.
    ///
    /// # Errors
    /// [`TraceeError::Remote`] with the call's own error; [`TraceeError::Died`], [`TraceeError::UnexpectedStop`],
    /// [`TraceeError::Ptrace`].
    pub fn call(&mut self, nr: libc::c_long, args: &[u64]) -> Result<u64> {
        let mut calls = [Call::new(nr, args)];
        self.batch(&mut calls)?;
        let [call] = calls;
        let tid = self.group.leader().tid();
        call.result().map_err(|source| TraceeError::Remote { tid, nr, source })
    }

    /// Runs calls on the first thread, in order, all of them whatever they return.
    ///
    /// # Errors
    /// As [`Remote::call`], but what the calls themselves return is in [`Call::result`].
    pub fn batch(&mut self, calls: &mut [Call]) -> Result<()> {
        self.run(calls).map(drop)
    }

    /// Runs calls on several threads at once, each thread its own.
    ///
    /// # Errors
    /// As [`Remote::batch`]; [`TraceeError::Gone`] for a thread that is not of the group.
    ///
    /// # Panics
    /// For more calls on a thread than the table holds (1024).
    pub fn batch_on(&mut self, work: &mut [(Pid, Vec<Call>)]) -> Result<()> {
        // Threads on one CPU would wait for each other.
        let pin = self.pin.take();
        let capacity = usize::try_from(TABLE_LEN).expect("64 KiB") / size_of::<Call>();
        let mut rest = work;
        while !rest.is_empty() {
            let mut used = 0;
            let fits = rest.iter().take_while(|(_, calls)| {
                used += calls.len();
                used <= capacity
            });
            let count = fits.count();
            assert!(count > 0, "a thread's calls fit the table");
            let (now, later) = rest.split_at_mut(count);
            self.run_slices(now)?;
            rest = later;
        }
        self.pin = pin.map(|_| Pin::to_cpu_of(self.group.leader().tid()));
        Ok(())
    }

    fn run_slices(&mut self, work: &mut [(Pid, Vec<Call>)]) -> Result<()> {
        let base = self.scratch().start;
        let table: Vec<Call> = work.iter().flat_map(|(_, calls)| calls.iter().copied()).collect();
        self.group.mem.write(base + PAGE, table.as_bytes())?;
        let mut at = base + PAGE;
        for (tid, calls) in work.iter().filter(|(_, calls)| !calls.is_empty()) {
            let thread = self.group.thread_mut(*tid).ok_or(TraceeError::Gone { pid: *tid })?;
            thread.silence()?;
            let end = at + calls.as_slice().as_bytes().len() as u64;
            start(thread, &thread.saved_regs().for_runner(base, at, end), Resume::Continue)?;
            at = end;
        }
        let trap = base + RUNNER.len() as u64;
        for (tid, _) in work.iter().filter(|(_, calls)| !calls.is_empty()) {
            let regs = self.finish(*tid, Resume::Continue, &mut Vec::new())?;
            expect_at(*tid, &regs, trap)?;
        }
        let mut table = table;
        self.group.mem.read(base + PAGE, table.as_mut_slice().as_mut_bytes())?;
        let mut results = table.into_iter();
        for call in work.iter_mut().flat_map(|(_, calls)| calls.iter_mut()) {
            *call = results.next().expect("as many as were written");
        }
        Ok(())
    }

    /// Runs calls on the first thread. Gives the threads that were made by them.
    fn run(&mut self, calls: &mut [Call]) -> Result<Vec<Pid>> {
        let base = self.scratch().start;
        let mut cloned = Vec::new();
        let capacity = usize::try_from(TABLE_LEN).expect("64 KiB") / size_of::<Call>();
        for chunk in calls.chunks_mut(capacity) {
            let table = base + PAGE;
            self.group.mem.write(table, chunk.as_bytes())?;
            let end = table + chunk.as_bytes().len() as u64;
            let leader = self.group.threads.first_mut().expect("a group has its first thread");
            leader.silence()?;
            let tid = leader.tid();
            start(leader, &leader.saved_regs().for_runner(base, table, end), Resume::Continue)?;
            let regs = self.finish(tid, Resume::Continue, &mut cloned)?;
            expect_at(tid, &regs, base + RUNNER.len() as u64)?;
            self.group.mem.read(table, chunk.as_mut_bytes())?;
        }
        Ok(cloned)
    }

    /// Runs calls that make threads, on the first thread of a stub. The new threads stand before their first
    /// instruction and belong to the group; in the order of the calls.
    ///
    /// # Errors
    /// As [`Remote::batch`].
    pub fn clone_threads(&mut self, calls: &mut [Call]) -> Result<Vec<Pid>> {
        let tids = self.run(calls)?;
        self.group.collect(tids.clone())?;
        Ok(tids)
    }

    /// Uses the `syscall` instruction at `addr` from now on, for calls without the scratch area. Needed when the vdso
    /// was moved.
    pub fn set_instruction(&mut self, addr: u64) {
        self.scratch.instruction = addr;
        self.group.scratch = Some(self.scratch);
    }

    /// Runs one call without the scratch area and without a trap: between two system call stops. For what comes after
    /// signals were queued, and for taking the scratch area away.
    ///
    /// # Errors
    /// As [`Remote::call`].
    pub fn quiet_call(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<u64> {
        let leader = self.group.threads.first_mut().expect("a group has its first thread");
        leader.silence()?;
        let tid = leader.tid();
        let regs = leader.saved_regs().for_syscall(self.scratch.instruction, nr, args);
        start(leader, &regs, Resume::ToSyscall)?;
        self.finish(tid, Resume::ToSyscall, &mut Vec::new())?;
        resume(tid, Resume::ToSyscall)?;
        let regs = self.finish(tid, Resume::ToSyscall, &mut Vec::new())?;
        // Leave through a stop of the signal path: only from there does the kernel restart the system call the thread
        // was in, once its registers are put back.
        sys::interrupt(tid).map_err(TraceeError::ptrace(tid, "PTRACE_INTERRUPT"))?;
        resume(tid, Resume::Continue)?;
        crate::stop::wait_stop(tid)?;
        let call = Call { nr, args, ret: regs.ax.cast_signed() };
        call.result().map_err(|source| TraceeError::Remote { tid, nr, source })
    }

    fn single(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<u64> {
        let leader = self.group.threads.first_mut().expect("a group has its first thread");
        leader.silence()?;
        let tid = leader.tid();
        let at = self.scratch.instruction;
        start(leader, &leader.saved_regs().for_syscall(at, nr, args), Resume::Step)?;
        let regs = self.finish(tid, Resume::Step, &mut Vec::new())?;
        expect_at(tid, &regs, at + SYSCALL_LEN)?;
        let call = Call { nr, args, ret: regs.ax.cast_signed() };
        call.result().map_err(|source| TraceeError::Remote { tid, nr, source })
    }

    /// Waits for the trap that ends what was started on `tid`.
    fn finish(&mut self, tid: Pid, how: Resume, cloned: &mut Vec<Pid>) -> Result<Regs> {
        loop {
            let status = sys::wait(tid).map_err(TraceeError::ptrace(tid, "waitpid"))?;
            match Stop::of(status) {
                Stop::Ended => return Err(died(tid, status)),
                Stop::Signal(libc::SIGTRAP) if how != Resume::ToSyscall => {
                    self.group.trapped = true;
                    break;
                }
                Stop::Syscall if how == Resume::ToSyscall => break,
                Stop::Cloned => {
                    let message = sys::event_message(tid);
                    let new = message.map_err(TraceeError::ptrace(tid, "PTRACE_GETEVENTMSG"))?;
                    cloned.push(Pid::from_raw(i32::try_from(new).expect("thread ids are ints")));
                }
                // The interrupt that stopped it, when a job-control stop came first.
                Stop::Interrupted | Stop::Group(_) => {}
                _ => {
                    let ip = sys::regs(tid).map_or(0, |regs| regs.ip);
                    return Err(TraceeError::UnexpectedStop { tid, status, ip });
                }
            }
            resume(tid, how)?;
        }
        sys::regs(tid).map_err(TraceeError::ptrace(tid, "PTRACE_GETREGSET"))
    }

    /// Makes SIGTRAP ignored again, if it was.
    fn restore_sigtrap(&mut self) -> Result<()> {
        if !self.group.sigtrap_ignored || !self.group.trapped || self.scratch.base.is_none() {
            return Ok(());
        }
        self.group.trapped = false;
        // struct sigaction of the kernel: handler, flags, restorer, mask.
        let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
        let addr = self.data();
        self.write(addr, ignore.as_bytes())?;
        let args = [u64::from(libc::SIGTRAP.unsigned_abs()), addr, 0, 8, 0, 0];
        self.quiet_call(libc::SYS_rt_sigaction, args).map(drop)
    }

    /// Takes the scratch area away.
    ///
    /// # Errors
    /// As [`Remote::call`].
    pub fn drop_scratch(&mut self) -> Result<()> {
        self.restore_sigtrap()?;
        let Some(base) = self.scratch.base.take() else { return Ok(()) };
        self.group.scratch = Some(self.scratch);
        self.quiet_call(libc::SYS_munmap, [base, SCRATCH_LEN, 0, 0, 0, 0]).map(drop)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resume {
    Continue,
    Step,
    ToSyscall,
}

fn start(thread: &Tracee, regs: &Regs, how: Resume) -> Result<()> {
    let tid = thread.tid();
    sys::set_regs(tid, regs).map_err(TraceeError::ptrace(tid, "PTRACE_SETREGSET"))?;
    resume(tid, how)
}

fn resume(tid: Pid, how: Resume) -> Result<()> {
    match how {
        Resume::Continue => sys::cont(tid, 0).map_err(TraceeError::ptrace(tid, "PTRACE_CONT")),
        Resume::Step => sys::step(tid).map_err(TraceeError::ptrace(tid, "PTRACE_SINGLESTEP")),
        Resume::ToSyscall => sys::cont_to_syscall(tid).map_err(TraceeError::ptrace(tid, "PTRACE_SYSCALL")),
    }
}

fn expect_at(tid: Pid, regs: &Regs, ip: u64) -> Result<()> {
    if regs.ip == ip {
        return Ok(());
    }
    Err(TraceeError::UnexpectedStop { tid, status: libc::SIGTRAP << 8 | 0x7f, ip: regs.ip })
}

/// Address of a `syscall` instruction in the vdso.
fn find_syscall(group: &ThreadGroup) -> Result<u64> {
    let pid = group.pid();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    let maps = maps.map_err(TraceeError::proc(pid, "read", "maps"))?;
    let (start, end) = vdso_range(&maps).ok_or(TraceeError::NoVdso { pid })?;
    let len = usize::try_from(end - start).map_err(|_| TraceeError::NoVdso { pid })?;
    let mut code = vec![0; len];
    group.mem.read(start, &mut code)?;
    find_instruction(&code).map(|at| start + at).ok_or(TraceeError::NoVdso { pid })
}

fn vdso_range(maps: &str) -> Option<(u64, u64)> {
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Offset of a `syscall` instruction in code. Any two such bytes do, wherever an instruction may have begun.
#[must_use]
pub fn find_instruction(code: &[u8]) -> Option<u64> {
    code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL).map(|at| at as u64)
}
