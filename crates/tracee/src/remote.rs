//! System calls run by the task itself, driven from outside.
//!
//! The first is single-stepped over a `syscall` instruction the task has anyway, in its vdso. It maps a scratch area: a
//! page of code (43 bytes that run a table of calls), the table, and room for arguments and results. What is then called
//! costs one round trip a table, however long.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use nix::unistd::Pid;
use zerocopy::IntoBytes;

use crate::arch::{RUNNER, RUNNER_SYSCALL, SYSCALL_LEN};
use crate::call::Call;
use crate::drive::Resume;
use crate::error::{Result, TraceeError};
use crate::group::ThreadGroup;
use crate::pin::Pin;
use crate::tracee::{PendingQueue, Tracee};
use crate::vdso;

const PAGE: u64 = 4096;
/// Entries of the table.
const TABLE_CALLS: usize = 1024;
const TABLE_LEN: u64 = (TABLE_CALLS * size_of::<Call>()) as u64;
const DATA_LEN: u64 = 256 << 10;
/// Size of the scratch area: code, table, data.
pub const SCRATCH_LEN: u64 = PAGE + TABLE_LEN + DATA_LEN;

/// The task as a runner of system calls. The scratch area stays mapped for the next [`Remote`] until the group is let go
/// or [`Remote::finish`] is called.
///
/// While it lives, the calling thread is bound to the CPU of the task, where a call costs a quarter.
#[derive(Debug)]
pub struct Remote<'a> {
    group: &'a mut ThreadGroup,
    instruction: u64,
    pin: Option<Pin>,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(group: &'a mut ThreadGroup, addr: Option<u64>) -> Result<Self> {
        group.check_remote()?;
        let mut remote = Self::bare(group)?;
        remote.pin = Some(Pin::to_cpu_of(remote.group.leader().tid()));
        if addr.is_some_and(|addr| remote.group.scratch.is_some_and(|at| at != addr)) {
            remote.drop_scratch()?;
        }
        remote.area(addr)?;
        Ok(remote)
    }

    /// For the last calls, with whatever is still there.
    pub(crate) fn bare(group: &'a mut ThreadGroup) -> Result<Self> {
        let instruction = match group.instruction {
            Some(instruction) => instruction,
            None => vdso::find_syscall(group.pid(), &group.mem)?,
        };
        group.instruction = Some(instruction);
        Ok(Self { group, instruction, pin: None })
    }

    /// Start of the scratch area, which is mapped if need be.
    fn area(&mut self, addr: Option<u64>) -> Result<u64> {
        const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        if let Some(base) = self.group.scratch {
            return Ok(base);
        }
        let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        if addr.is_some() {
            flags |= libc::MAP_FIXED_NOREPLACE;
        }
        let [rx, rw, flags] = [RX, RW, flags].map(|n| u64::from(n.unsigned_abs()));
        let args = [addr.unwrap_or(0), SCRATCH_LEN, rx, flags, u64::MAX, 0];
        let base = self.single(libc::SYS_mmap, args)?;
        // Written through /proc, which does not mind that the page is read-only.
        if let Err(error) = self.group.mem.write(base, &RUNNER) {
            let _ = self.single(libc::SYS_munmap, [base, SCRATCH_LEN, 0, 0, 0, 0]);
            return Err(error);
        }
        self.group.scratch = Some(base);
        self.single(libc::SYS_mprotect, [base + PAGE, SCRATCH_LEN - PAGE, rw, 0, 0, 0])?;
        Ok(base)
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

    /// Where the scratch area is mapped; empty once it is gone.
    #[must_use]
    pub fn scratch(&self) -> Range<u64> {
        self.group.scratch.map_or(0..0, |base| base..base + SCRATCH_LEN)
    }

    /// Address of room for arguments and results: [`Remote::data_len`] bytes that nothing else uses.
    ///
    /// # Panics
    /// After [`Remote::drop_scratch`].
    #[must_use]
    pub fn data(&self) -> u64 {
        self.group.scratch.expect("not called after drop_scratch") + PAGE + TABLE_LEN
    }

    /// The table, of use for other things while it does not run.
    fn table(&self) -> u64 {
        self.group.scratch.expect("called only while it is mapped") + PAGE
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
        self.call_on(self.group.leader().tid(), nr, args)
    }

    /// Runs one call on a thread.
    ///
    /// # Errors
    /// As [`Remote::call`]; [`TraceeError::Gone`] for a thread that is not of the group.
    pub fn call_on(&mut self, tid: Pid, nr: libc::c_long, args: &[u64]) -> Result<u64> {
        let mut calls = [Call::new(nr, args)];
        self.run_on(tid, &mut calls, &mut Vec::new())?;
        let [call] = calls;
        call.result().map_err(TraceeError::remote(tid, nr))
    }

    /// Runs one call on the first thread and gives what it returned, be it an error.
    ///
    /// # Errors
    /// As [`Remote::batch`].
    pub fn call_raw(&mut self, nr: libc::c_long, args: &[u64]) -> Result<i64> {
        let mut calls = [Call::new(nr, args)];
        self.batch(&mut calls)?;
        let [call] = calls;
        Ok(call.ret)
    }

    /// Runs calls on the first thread, in order, all of them whatever they return.
    ///
    /// # Errors
    /// As [`Remote::call`], but what the calls themselves return is in [`Call::result`].
    pub fn batch(&mut self, calls: &mut [Call]) -> Result<()> {
        self.run_on(self.group.leader().tid(), calls, &mut Vec::new())
    }

    /// Runs calls on several threads at once, each thread its own.
    ///
    /// # Errors
    /// As [`Remote::batch`]; [`TraceeError::Gone`] for a thread that is not of the group.
    pub fn batch_on(&mut self, work: &mut [(Pid, Vec<Call>)]) -> Result<()> {
        // Threads on one CPU would wait for each other.
        self.unbound(|remote| remote.run_all(work))
    }

    /// Does something with the calling thread bound to no CPU: for what several threads do, as those it starts would all be
    /// bound to the one it is bound to.
    pub fn unbound<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let pinned = self.pin.take().is_some();
        let done = work(self);
        if pinned {
            self.pin = Some(Pin::to_cpu_of(self.group.leader().tid()));
        }
        done
    }

    fn run_all(&mut self, work: &mut [(Pid, Vec<Call>)]) -> Result<()> {
        let mut slices: Vec<_> = work
            .iter_mut()
            .flat_map(|(tid, calls)| calls.chunks_mut(TABLE_CALLS).map(|calls| (*tid, calls)))
            .collect();
        let mut rest = slices.as_mut_slice();
        let mut outcome = Ok(());
        while !rest.is_empty() && outcome.is_ok() {
            let (now, later) = rest.split_at_mut(one_round(rest));
            outcome = self.run(now, &mut Vec::new());
            rest = later;
        }
        outcome
    }

    /// Runs calls that make threads, on the first thread of a stub. The new threads stand before their first
    /// instruction and belong to the group; in the order of the calls.
    ///
    /// # Errors
    /// As [`Remote::batch`].
    pub fn clone_threads(&mut self, calls: &mut [Call]) -> Result<Vec<Pid>> {
        let mut tids = Vec::new();
        let ran = self.run_on(self.group.leader().tid(), calls, &mut tids);
        self.group.collect(&tids)?;
        ran.map(|()| tids)
    }

    fn run_on(&mut self, tid: Pid, calls: &mut [Call], cloned: &mut Vec<Pid>) -> Result<()> {
        calls.chunks_mut(TABLE_CALLS).try_for_each(|calls| self.run(&mut [(tid, calls)], cloned))
    }

    /// Runs one table: a slice for each of several threads.
    fn run(&mut self, slices: &mut [(Pid, &mut [Call])], cloned: &mut Vec<Pid>) -> Result<()> {
        let base = self.area(None)?;
        let trap = base + RUNNER.len() as u64;
        let mut table: Vec<Call> = slices.iter().flat_map(|(_, calls)| calls.iter().copied()).collect();
        self.group.mem.write(base + PAGE, table.as_bytes())?;
        let places = self.places(slices)?;
        let mut started = Vec::new();
        let mut outcome = Ok(());
        let mut at = base + PAGE;
        for ((_, calls), place) in slices.iter().zip(places).filter(|((_, calls), _)| !calls.is_empty()) {
            let end = at + size_of_val(&**calls) as u64;
            let thread = self.group.threads.get_mut(place).expect("found above");
            outcome = thread.start(&thread.saved_regs().for_runner(base, at, end), Resume::Run);
            if outcome.is_err() {
                break;
            }
            started.push(place);
            at = end;
        }
        // Whatever happens, none is left running.
        for place in started {
            let thread = self.group.threads.get_mut(place).expect("found above");
            let ended = thread.await_end(Resume::Run, trap, cloned).and_then(|_| thread.put_back());
            outcome = outcome.and(ended);
        }
        outcome?;
        self.group.mem.read(base + PAGE, table.as_mut_slice().as_mut_bytes())?;
        let entries = slices.iter_mut().flat_map(|(_, calls)| calls.iter_mut());
        entries.zip(&table).for_each(|(call, done)| *call = *done);
        self.note_sigtrap(&table)?;
        self.restore_sigtrap()
    }

    /// Which thread of the group each slice is for.
    fn places(&self, slices: &[(Pid, &mut [Call])]) -> Result<Vec<usize>> {
        let place = |tid| self.group.threads.iter().position(|t| t.tid() == tid);
        if let [(tid, _)] = slices {
            return Ok(vec![place(*tid).ok_or(TraceeError::Gone { pid: *tid })?]);
        }
        // A search for each would cost more than their calls once there are hundreds.
        let threads = self.group.threads.iter().enumerate();
        let places: HashMap<Pid, usize> = threads.map(|(place, thread)| (thread.tid(), place)).collect();
        let place = |tid: &Pid| places.get(tid).copied().ok_or(TraceeError::Gone { pid: *tid });
        slices.iter().map(|(tid, _)| place(tid)).collect()
    }

    /// Uses the `syscall` instruction at `addr` from now on when there is no scratch area. Needed when the vdso was
    /// moved.
    pub fn set_instruction(&mut self, addr: u64) {
        self.instruction = addr;
        self.group.instruction = Some(addr);
    }

    /// Runs one call on the first thread without table and trap: between two system call stops. For what comes after
    /// signals were queued, and for taking the scratch area away.
    ///
    /// # Errors
    /// As [`Remote::call`].
    pub fn quiet_call(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<u64> {
        self.quiet_call_on(self.group.leader().tid(), nr, args)
    }

    /// As [`Remote::quiet_call`], on a thread.
    ///
    /// # Errors
    /// As [`Remote::call_on`].
    pub fn quiet_call_on(&mut self, tid: Pid, nr: libc::c_long, args: [u64; 6]) -> Result<u64> {
        // That of the scratch area is there even while the vdso is being moved.
        let at = self.group.scratch.map_or(self.instruction, |base| base + RUNNER_SYSCALL);
        let thread = self.group.thread_mut(tid).ok_or(TraceeError::Gone { pid: tid })?;
        thread.start(&thread.saved_regs().for_syscall(at, nr, args), Resume::ToSyscall)?;
        thread.await_end(Resume::ToSyscall, at, &mut Vec::new())?;
        let regs = thread.next_syscall_stop()?;
        thread.leave_syscall_stop()?;
        thread.put_back()?;
        let call = Call { nr, args, ret: regs.ax.cast_signed() };
        call.result().map_err(TraceeError::remote(tid, nr))
    }

    /// Runs one call by a single step over the instruction the task has.
    fn single(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<u64> {
        if self.group.sigtrap_ignored {
            // Dearer, but nothing has to be put right after it.
            return self.quiet_call(nr, args);
        }
        let at = self.instruction;
        let leader = self.group.leader_mut();
        leader.start(&leader.saved_regs().for_syscall(at, nr, args), Resume::Step)?;
        let regs = leader.await_end(Resume::Step, at + SYSCALL_LEN, &mut Vec::new())?;
        leader.put_back()?;
        let call = Call { nr, args, ret: regs.ax.cast_signed() };
        call.result().map_err(TraceeError::remote(leader.tid(), nr))
    }

    /// Takes the scratch area away, and puts back what the traps have changed. From here on only [`Remote::quiet_call`]
    /// leaves it so; any other call maps the area again.
    ///
    /// # Errors
    /// As [`Remote::call`].
    pub fn drop_scratch(&mut self) -> Result<()> {
        let Some(base) = self.group.scratch else {
            return Ok(());
        };
        let restored = self.restore_sigtrap().and_then(|()| self.requeue_held());
        self.group.scratch = None;
        restored.and(self.quiet_call(libc::SYS_munmap, [base, SCRATCH_LEN, 0, 0, 0, 0]).map(drop))
    }

    /// [`Remote::drop_scratch`], and no more calls.
    ///
    /// # Errors
    /// As [`Remote::call`].
    pub fn finish(mut self) -> Result<()> {
        self.drop_scratch()
    }

    /// Notices what calls do to the handling of SIGTRAP: their own trap would undo part of that.
    fn note_sigtrap(&mut self, calls: &[Call]) -> Result<()> {
        let signal = u64::from(libc::SIGTRAP.unsigned_abs());
        for call in calls {
            if let Call { nr: libc::SYS_rt_sigaction, args: [of, action, ..], ret: 0 } = *call
                && (of, action != 0) == (signal, true)
            {
                self.group.sigtrap_ignored = self.group.mem.read_u64(action)? == libc::SIG_IGN as u64;
            }
        }
        Ok(())
    }

    /// Makes SIGTRAP ignored again, if it was. Done after every trap, so that the program's next call does not see it.
    fn restore_sigtrap(&mut self) -> Result<()> {
        if !self.group.sigtrap_ignored {
            return Ok(());
        }
        // struct sigaction of the kernel: handler, flags, restorer, mask. The trap has changed the first only.
        let (addr, signal) = (self.table(), u64::from(libc::SIGTRAP.unsigned_abs()));
        self.quiet_call(libc::SYS_rt_sigaction, [signal, 0, addr, 8, 0, 0])?;
        self.write(addr, (libc::SIG_IGN as u64).as_bytes())?;
        self.quiet_call(libc::SYS_rt_sigaction, [signal, addr, 0, 8, 0, 0]).map(drop)
    }

    /// Sends the SIGTRAPs again that came in between.
    fn requeue_held(&mut self) -> Result<()> {
        let [pid, signal] = [self.pid().as_raw(), libc::SIGTRAP].map(|n| u64::from(n.unsigned_abs()));
        for thread in 0..self.group.threads.len() {
            let Some(thread) = self.group.threads.get_mut(thread) else {
                break;
            };
            let tid = thread.tid();
            for info in std::mem::take(&mut thread.held) {
                let addr = self.table();
                self.write(addr, &info.0)?;
                let id = u64::from(tid.as_raw().unsigned_abs());
                // The kernel lets a thread forge what it sends to itself. The first one is the process.
                match info.queue() {
                    PendingQueue::Process => {
                        self.quiet_call(libc::SYS_rt_sigqueueinfo, [pid, signal, addr, 0, 0, 0])?
                    }
                    PendingQueue::Thread => {
                        self.quiet_call_on(tid, libc::SYS_rt_tgsigqueueinfo, [pid, id, signal, addr, 0, 0])?
                    }
                };
            }
        }
        Ok(())
    }
}

/// How many of the slices fit one table, no thread twice. At least one.
fn one_round(slices: &[(Pid, &mut [Call])]) -> usize {
    let mut used = 0;
    let mut tids = HashSet::new();
    let fitting = slices.iter().take_while(|(tid, calls)| {
        used += calls.len();
        used <= TABLE_CALLS && tids.insert(*tid)
    });
    fitting.count()
}
