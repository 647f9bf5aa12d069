//! The core images: registers, signals, timers, credentials, limits, scheduling.

use nix::errno::Errno;
use nix::unistd::Pid;
use rewake_images::proto::{
    self, CoreEntry, CredsEntry, PosixTimerEntry, RlimitEntry, RseqEntry, SeccompMode, SiginfoEntry,
    SignalQueueEntry, TaskCoreEntry, TaskRlimitsEntry, TaskTimersEntry, ThreadCoreEntry, ThreadInfoX86,
    UserDescT, UserX86RegsEntry,
};
use rewake_tracee::{PendingQueue, RawSiginfo, Regs, Tracee};

use crate::asked::{ProcessState, ThreadState};
use crate::error::{DumpError, Result};
use crate::objects::{Refusal, refused};
use crate::proc::{self, PosixTimer, Stat, Status};
use crate::sys::SchedAttr;
use crate::{fpu, sys};

/// `task_state` of the format.
const ALIVE: u32 = 1;
const STOPPED: u32 = 3;
/// The set of control groups of the dumper itself, the only one written.
const ROOT_CGROUP_SET: u32 = 1;

/// What is read of a process before its core images are made.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) stat: Stat,
    pub(crate) status: Status,
    pub(crate) timers: Vec<PosixTimer>,
    pub(crate) state: ProcessState,
}

/// The core image of a thread; of the process as well, if it is the first one.
pub(crate) fn survey(
    process: &Process,
    thread: &Tracee,
    state: &ThreadState,
    leader: &ThreadState,
    sched: &SchedAttr,
) -> Result<CoreEntry> {
    let first = thread.tid() == process.pid;
    let mut core = CoreEntry {
        mtype: proto::core_entry::March::X8664.into(),
        thread_info: Some(thread_info(thread, state)?),
        thread_core: Some(thread_core(process, thread, state, leader, sched)?),
        ..Default::default()
    };
    if first {
        core.tc = Some(task_core(process, thread, state)?);
    } else if let Some(thread_core) = &mut core.thread_core {
        thread_core.blk_sigset = Some(thread.saved_sigmask());
    }
    Ok(core)
}

fn thread_info(thread: &Tracee, state: &ThreadState) -> Result<ThreadInfoX86> {
    let tid = thread.tid();
    let xstate = thread.xstate().map_err(DumpError::tracee(tid))?;
    let fpregs = fpu::image_of(&xstate).map_err(|parts| {
        let reason = format!("processor state the format has no place for is in use (parts {parts:#x})");
        refused(tid, "extended registers", Refusal { reason, remedy: "none but another dumper" })
    })?;
    Ok(ThreadInfoX86 {
        clear_tid_addr: state.clear_tid,
        gpregs: registers(thread.saved_regs()),
        fpregs,
        tls: (FIRST_TLS..FIRST_TLS + 3).map(empty_tls).collect(),
    })
}

/// The three entries of the descriptor table a program may set. 64-bit programs leave them alone; preflight refuses
/// those that do not.
const FIRST_TLS: u32 = 12;

fn empty_tls(entry_number: u32) -> UserDescT {
    UserDescT { entry_number, read_exec_only: true, seg_not_present: true, ..Default::default() }
}

/// The registers, moved back onto the system call the thread was in.
///
/// A restored thread has no system call to restart: whoever restores finds it about to make the call. One that had
/// computed its remaining time (ERESTART_RESTARTBLOCK) makes the call with its original arguments.
fn registers(regs: &Regs) -> UserX86RegsEntry {
    let (mut ax, mut ip) = (regs.ax, regs.ip);
    if interrupted(regs).is_some() {
        const SYSCALL_LEN: u64 = 2;
        ax = regs.orig_ax;
        ip = regs.ip.wrapping_sub(SYSCALL_LEN);
    }
    UserX86RegsEntry {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        bp: regs.bp,
        bx: regs.bx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        ax,
        cx: regs.cx,
        dx: regs.dx,
        si: regs.si,
        di: regs.di,
        orig_ax: regs.orig_ax,
        ip,
        cs: regs.cs,
        flags: regs.flags,
        sp: regs.sp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        mode: Some(proto::UserX86RegsMode::Native.into()),
    }
}

/// How the system call goes on that the thread was in when it was interrupted. Kernel: include/linux/errno.h.
pub(crate) fn interrupted(regs: &Regs) -> Option<u32> {
    const ERESTARTSYS: u32 = 512;
    const ERESTARTNOINTR: u32 = 513;
    const ERESTARTNOHAND: u32 = 514;
    const ERESTART_RESTARTBLOCK: u32 = 516;
    let in_call = regs.orig_ax.cast_signed() >= 0;
    let result = u32::try_from(regs.ax.cast_signed().wrapping_neg()).ok();
    result.filter(|code| {
        in_call && matches!(*code, ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK)
    })
}

fn thread_core(
    process: &Process,
    thread: &Tracee,
    state: &ThreadState,
    leader: &ThreadState,
    sched: &SchedAttr,
) -> Result<ThreadCoreEntry> {
    let tid = thread.tid();
    let call = |name| DumpError::call(process.pid, name, format!("thread {tid}"));
    let (futex_rla, len) = sys::robust_list(tid).map_err(call("get_robust_list"))?;
    let status;
    let status = if state.credentials == leader.credentials {
        &process.status
    } else {
        status = Status::read_thread(process.pid, tid)?;
        &status
    };
    Ok(ThreadCoreEntry {
        futex_rla,
        futex_rla_len: u32::try_from(len).map_err(|_| call("get_robust_list")(Errno::ERANGE))?,
        sched_nice: Some(sched.nice),
        sched_policy: Some(sched.policy),
        sched_prio: (sched.priority > 0).then_some(sched.priority),
        sas: Some(state.sas),
        pdeath_sig: (state.pdeath_signal != 0).then_some(state.pdeath_signal),
        signals_p: Some(queue(thread, PendingQueue::Thread)?),
        creds: Some(credentials(status, process.state.securebits)),
        seccomp_mode: None::<SeccompMode>.map(Into::into),
        comm: Some(state.comm.clone()),
        rseq_entry: thread.rseq().map(|rseq| RseqEntry {
            rseq_abi_pointer: rseq.ptr,
            rseq_abi_size: rseq.size,
            signature: rseq.signature,
            rseq_cs_pointer: None,
        }),
        cg_set: Some(ROOT_CGROUP_SET),
        ..Default::default()
    })
}

fn credentials(status: &Status, securebits: u32) -> CredsEntry {
    let [uid, euid, suid, fsuid] = status.uids;
    let [gid, egid, sgid, fsgid] = status.gids;
    let words = |cap: u64| {
        let [a, b, c, d, e, f, g, h] = cap.to_le_bytes();
        vec![u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
    };
    let [inh, prm, eff, bnd, amb] = status.caps.map(words);
    CredsEntry {
        uid,
        gid,
        euid,
        egid,
        suid,
        sgid,
        fsuid,
        fsgid,
        cap_inh: inh,
        cap_prm: prm,
        cap_eff: eff,
        cap_bnd: bnd,
        cap_amb: amb,
        secbits: securebits,
        groups: status.groups.clone(),
        no_new_privs: status.no_new_privs.then_some(1),
        ..Default::default()
    }
}

fn queue(thread: &Tracee, which: PendingQueue) -> Result<SignalQueueEntry> {
    let pending = thread.pending(which).map_err(DumpError::tracee(thread.tid()))?;
    let signals = pending.into_iter().map(|RawSiginfo(bytes)| SiginfoEntry { siginfo: bytes.to_vec() });
    Ok(SignalQueueEntry { signals: signals.collect() })
}

fn task_core(process: &Process, thread: &Tracee, state: &ThreadState) -> Result<TaskCoreEntry> {
    let pid = process.pid;
    let [real, virt, prof] = process.state.itimers;
    let text = |file: &str| proc::read(pid, file).map(|text| text.trim().to_owned());
    let rlimits = proc::limits(pid)?.into_iter().map(|(cur, max)| RlimitEntry { cur, max }).collect();
    Ok(TaskCoreEntry {
        task_state: if thread.stop_signal().is_some() { STOPPED } else { ALIVE },
        exit_code: 0,
        personality: u32::from_str_radix(&text("personality")?, 16).unwrap_or(0),
        flags: process.stat.flags,
        blk_sigset: thread.saved_sigmask(),
        comm: state.comm.clone(),
        timers: Some(TaskTimersEntry { real, virt, prof, posix: posix_timers(process) }),
        rlimits: Some(TaskRlimitsEntry { rlimits }),
        signals_s: Some(queue(thread, PendingQueue::Process)?),
        // Built without auditing, the kernel has no login ids.
        loginuid: text("loginuid").ok().and_then(|id| id.parse().ok()),
        oom_score_adj: text("oom_score_adj")?.parse().ok(),
        sigactions: process.state.sigactions.clone(),
        child_subreaper: process.state.child_subreaper.then_some(true),
        stop_signo: thread.stop_signal().map(i32::unsigned_abs),
        membarrier_registration_mask: Some(process.state.membarrier).filter(|&mask| mask != 0),
        ..Default::default()
    })
}

fn posix_timers(process: &Process) -> Vec<PosixTimerEntry> {
    const SIGEV_THREAD_ID: u32 = 4;
    let timers = process.timers.iter().zip(&process.state.posix_timers);
    timers
        .map(|(timer, &([isec, insec, vsec, vnsec], overrun))| PosixTimerEntry {
            it_id: timer.id,
            clock_id: timer.clock.cast_unsigned(),
            si_signo: timer.signal,
            it_sigev_notify: timer.notify | if timer.thread.is_some() { SIGEV_THREAD_ID } else { 0 },
            sival_ptr: timer.value,
            overrun,
            isec,
            insec,
            vsec,
            vnsec,
            notify_thread_id: timer.thread,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_are_made_again() {
        let at = |orig_ax: i64, ax: i64| Regs {
            orig_ax: orig_ax.cast_unsigned(),
            ax: ax.cast_unsigned(),
            ip: 0x1000,
            ..Default::default()
        };
        for error in [512, 513, 514, 516] {
            let image = registers(&at(202, -error));
            assert_eq!((image.ax, image.ip), (202, 0xffe), "-{error}");
        }
        let untouched = [at(202, -4), at(202, 7), at(-1, -512)];
        for regs in untouched {
            assert_eq!((registers(&regs).ax, registers(&regs).ip), (regs.ax, 0x1000));
        }
    }
}
