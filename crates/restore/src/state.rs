//! What the process as a whole has: signal handling, timers, limits, and what is set through /proc.

use std::fs;

use nix::unistd::Pid;
use rewake_images::extra::ThreadExtra;
use rewake_images::proto::{CoreEntry, ItimerEntry, PosixTimerEntry, SaEntry, SiginfoEntry, TaskCoreEntry};
use rewake_tracee::{Call, Remote};
use zerocopy::IntoBytes;

use crate::error::{RestoreError, Result};
use crate::plan::Plan;
use crate::remote::Table;
use crate::sys;

fn option(n: libc::c_int) -> u64 {
    u64::from(n.unsigned_abs())
}

/// Handlers of signals. Before there are threads, it makes no difference.
pub(crate) fn sigactions(remote: &mut Remote<'_>, plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let signals = (1..=64_u64).filter(|&s| s != option(libc::SIGKILL) && s != option(libc::SIGSTOP));
    let mut table = Table::new(plan.pid);
    for (signal, SaEntry { sigaction, flags, restorer, mask, .. }) in signals.zip(&tc.sigactions) {
        let at = table.bytes([*sigaction, *flags, *restorer, *mask].as_bytes());
        let at = remote.data() + at;
        table.add(
            "rt_sigaction",
            format!("signal {signal}"),
            Call::new(libc::SYS_rt_sigaction, &[signal, at, 0, 8]),
        );
    }
    table.run(remote)
}

/// Interval and POSIX timers. Needs the threads, which timers may be for.
pub(crate) fn timers(remote: &mut Remote<'_>, plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let Some(timers) = &tc.timers else { return Ok(()) };
    let mut table = Table::new(plan.pid);
    let all = [timers.real, timers.virt, timers.prof];
    for (which, ItimerEntry { isec, iusec, mut vsec, mut vusec }) in (0_u64..).zip(all) {
        if (isec, iusec, vsec, vusec) != (0, 0, 0, 0) {
            if (vsec, vusec) == (0, 0) {
                // It was dumped between its signal being sent and taken: off, as it reads, it never was.
                (vsec, vusec) = (isec, iusec);
            }
            let at = remote.data() + table.bytes([isec, iusec, vsec, vusec].as_bytes());
            table.add(
                "setitimer",
                format!("interval timer {which}"),
                Call::new(libc::SYS_setitimer, &[which, at, 0]),
            );
        }
    }
    table.run(remote)?;
    for some in timers.posix.chunks(1024) {
        posix_timers(remote, plan, some)?;
    }
    Ok(())
}

fn posix_timers(remote: &mut Remote<'_>, plan: &Plan, timers: &[PosixTimerEntry]) -> Result<()> {
    const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
    let mut table = Table::new(plan.pid);
    let prctl = |on| Call::new(libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, on]);
    table.add("prctl(PR_TIMER_CREATE_RESTORE_IDS)", "POSIX timers", prctl(1));
    for timer in timers {
        let object = || format!("POSIX timer {}", timer.it_id);
        // struct sigevent: value, signal, notify, thread id, and room.
        let mut event = [0_u64; 8];
        let tid = timer.notify_thread_id.unwrap_or(0).cast_unsigned();
        let notify = u64::from(timer.si_signo) | u64::from(timer.it_sigev_notify) << 32;
        for (word, value) in event.iter_mut().zip([timer.sival_ptr, notify, tid.into()]) {
            *word = value;
        }
        let event = remote.data() + table.bytes(event.as_bytes());
        let id = remote.data() + table.bytes(u64::from(timer.it_id).as_bytes());
        let clock = i64::from(timer.clock_id.cast_signed()).cast_unsigned();
        table.add("timer_create", object(), Call::new(libc::SYS_timer_create, &[clock, event, id]));
        if (timer.vsec, timer.vnsec) != (0, 0) {
            let times = [timer.isec, timer.insec, timer.vsec, timer.vnsec];
            let at = remote.data() + table.bytes(times.as_bytes());
            let args = [timer.it_id.into(), 0, at, 0];
            table.add("timer_settime", object(), Call::new(libc::SYS_timer_settime, &args));
        }
    }
    table.add("prctl(PR_TIMER_CREATE_RESTORE_IDS)", "POSIX timers", prctl(0));
    table.run(remote)
}

/// Resource limits. A hard limit above ours cannot be had without CAP_SYS_RESOURCE: then the process keeps ours, which is
/// said.
pub(crate) fn limits(remote: &mut Remote<'_>, plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let Some(limits) = &tc.rlimits else { return Ok(()) };
    let mut calls = Vec::new();
    let mut data = Vec::new();
    for (number, limit) in (0_u64..).zip(&limits.rlimits) {
        let at = remote.data() + data.len() as u64;
        data.extend([limit.cur, limit.max].as_bytes());
        calls.push(Call::new(libc::SYS_prlimit64, &[0, number, at, 0]));
    }
    remote.write(remote.data(), &data).map_err(RestoreError::tracee(plan.pid))?;
    remote.batch(&mut calls).map_err(RestoreError::tracee(plan.pid))?;
    for (number, call) in calls.iter().enumerate() {
        match call.result() {
            Ok(_) => {}
            Err(nix::errno::Errno::EPERM) => {
                tracing::warn!(
                    pid = plan.pid,
                    limit = number,
                    "a hard limit above ours needs CAP_SYS_RESOURCE; ours stays"
                );
            }
            Err(source) => {
                let object = format!("limit {number}");
                return Err(RestoreError::Remote { pid: plan.pid, call: "prlimit64", object, source });
            }
        }
    }
    Ok(())
}

/// Settings of the process that are single calls, after credentials have changed.
pub(crate) fn settings(remote: &mut Remote<'_>, plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let mut table = Table::new(plan.pid);
    let mut prctl = |name, args: &[u64]| table.add(name, "the process", Call::new(libc::SYS_prctl, args));
    let mm = &plan.task.mm;
    if let Some(dumpable) = mm.dumpable {
        // 2 cannot be asked for; it is what a change of credentials leaves.
        const SUID_DUMP_ROOT: i32 = 2;
        if dumpable != SUID_DUMP_ROOT {
            prctl(
                "prctl(PR_SET_DUMPABLE)",
                &[option(libc::PR_SET_DUMPABLE), u64::from(dumpable.unsigned_abs())],
            );
        }
    }
    if mm.thp_disabled() {
        prctl("prctl(PR_SET_THP_DISABLE)", &[option(libc::PR_SET_THP_DISABLE), 1]);
    }
    if tc.child_subreaper() {
        prctl("prctl(PR_SET_CHILD_SUBREAPER)", &[option(libc::PR_SET_CHILD_SUBREAPER), 1]);
    }
    for setting in &plan.task.extra.options {
        const PR_SET_MDWE: u32 = 65;
        const PR_SET_MEMORY_MERGE: u32 = 67;
        let name = match setting.option {
            PR_SET_MDWE => "prctl(PR_SET_MDWE)",
            PR_SET_MEMORY_MERGE => "prctl(PR_SET_MEMORY_MERGE)",
            other => {
                let object = format!("option {other} of prctl");
                return Err(RestoreError::unsupported(object, "it is none of the address space"));
            }
        };
        prctl(name, &[setting.option.into(), setting.value]);
    }
    let personality = Call::new(libc::SYS_personality, &[tc.personality.into()]);
    table.add("personality", "the process", personality);
    membarrier(&mut table, tc.membarrier_registration_mask());
    table.run(remote)
}

/// Who logged in. Only the process itself may change that, and not every one: it is said if it may not.
pub(crate) fn login(remote: &mut Remote<'_>, plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let Some(wanted) = tc.loginuid.map(|id| id.to_string()) else { return Ok(()) };
    let inherited = fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    if inherited.trim() == wanted {
        return Ok(());
    }
    const PATH: &[u8] = b"/proc/self/loginuid\0";
    let (path, text) = (remote.data(), remote.data() + 64);
    remote.write(path, PATH).map_err(RestoreError::tracee(plan.pid))?;
    remote.write(text, wanted.as_bytes()).map_err(RestoreError::tracee(plan.pid))?;
    let here = i64::from(libc::AT_FDCWD).cast_unsigned();
    let flags = u64::from((libc::O_WRONLY | libc::O_CLOEXEC).unsigned_abs());
    let written = remote.call(libc::SYS_openat, &[here, path, flags]).and_then(|fd| {
        let written = remote.call(libc::SYS_write, &[fd, text, wanted.len() as u64]);
        remote.call(libc::SYS_close, &[fd]).and(written)
    });
    match written {
        Ok(_) => Ok(()),
        Err(rewake_tracee::TraceeError::Remote { source, .. }) => {
            tracing::warn!(pid = plan.pid, wanted, error = %source, "its login id cannot be set; ours stays");
            Ok(())
        }
        Err(error) => Err(RestoreError::Tracee { pid: plan.pid, source: error }),
    }
}

/// Registrations of membarrier(2): the bits are those of the commands to register.
fn membarrier(table: &mut Table, mask: u32) {
    for command in (0..32).map(|bit| 1_u64 << bit).filter(|command| u64::from(mask) & command != 0) {
        table.add("membarrier", "the process", Call::new(libc::SYS_membarrier, &[command, 0, 0]));
    }
}

/// What is set from outside: scheduling of each thread, and files of /proc.
pub(crate) fn from_outside(plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let pid = plan.pid;
    if let Some(adjust) = tc.oom_score_adj {
        write_if_different(pid, "oom_score_adj", &adjust.to_string())?;
    }
    if let Some(filter) = plan.task.extra.coredump_filter {
        let path = format!("/proc/{pid}/coredump_filter");
        fs::write(&path, format!("{filter:#x}")).map_err(RestoreError::file(path, "write"))?;
    }
    for (tid, core) in &plan.task.cores {
        schedule(*tid, core, plan.task.threads.get(tid))?;
    }
    Ok(())
}

fn write_if_different(pid: u32, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let now = fs::read_to_string(&path).map_err(RestoreError::file(&path, "read"))?;
    if now.trim() == text {
        Ok(())
    } else {
        fs::write(&path, text).map_err(RestoreError::file(path, "write"))
    }
}

fn schedule(tid: u32, core: &CoreEntry, extra: Option<&ThreadExtra>) -> Result<()> {
    const RESET_ON_FORK: u64 = 1;
    let object = || format!("thread {tid}");
    let raw = tid.cast_signed();
    let times = extra.and_then(|extra| extra.sched_times).unwrap_or_default();
    if let Some(thread) = &core.thread_core {
        let attr = sys::SchedAttr {
            policy: thread.sched_policy(),
            flags: times.flags
                | if extra.is_some_and(|extra| extra.reset_on_fork) { RESET_ON_FORK } else { 0 },
            nice: thread.sched_nice(),
            priority: thread.sched_prio(),
            runtime: times.runtime,
            deadline: times.deadline,
            period: times.period,
            ..Default::default()
        };
        sys::sched_setattr(raw, attr).map_err(RestoreError::call("sched_setattr", object()))?;
        // Policies that do not go by it leave it alone, but it is there for the day the policy changes.
        sys::set_nice(raw, thread.sched_nice()).map_err(RestoreError::call("setpriority", object()))?;
    }
    let Some(extra) = extra else { return Ok(()) };
    if extra.io_priority != 0 {
        sys::set_ioprio(raw, extra.io_priority).map_err(RestoreError::call("ioprio_set", object()))?;
    }
    if !extra.affinity.is_empty() {
        let mut set = nix::sched::CpuSet::new();
        for (word, bits) in extra.affinity.iter().enumerate() {
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                // CPUs this machine does not have are left out, as the kernel does.
                let _ = set.set(word * 64 + bit);
            }
        }
        nix::sched::sched_setaffinity(Pid::from_raw(raw), &set)
            .map_err(RestoreError::call("sched_setaffinity", object()))?;
    }
    Ok(())
}

/// Signals that were waiting. The process sends them to itself: nobody else may claim to be their sender. The last thing,
/// for what comes after must not wait for a trap.
pub(crate) fn pending(remote: &mut Remote<'_>, plan: &Plan, tc: &TaskCoreEntry) -> Result<()> {
    let pid = u64::from(plan.pid);
    let shared = tc.signals_s.iter().flat_map(|queue| &queue.signals);
    for info in shared {
        let (signal, at) = place(remote, plan, info)?;
        let args = [pid, signal, at, 0, 0, 0];
        send(remote, plan, "rt_sigqueueinfo", signal, libc::SYS_rt_sigqueueinfo, args)?;
    }
    for (tid, core) in &plan.task.cores {
        let queue = core.thread_core.iter().filter_map(|thread| thread.signals_p.as_ref());
        for info in queue.flat_map(|queue| &queue.signals) {
            let (signal, at) = place(remote, plan, info)?;
            let args = [pid, u64::from(*tid), signal, at, 0, 0];
            send(remote, plan, "rt_tgsigqueueinfo", signal, libc::SYS_rt_tgsigqueueinfo, args)?;
        }
    }
    Ok(())
}

fn place(remote: &Remote<'_>, plan: &Plan, info: &SiginfoEntry) -> Result<(u64, u64)> {
    const SIGINFO_LEN: usize = 128;
    let number = info.siginfo.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
    let number = number.filter(|n| (1..=64).contains(n) && info.siginfo.len() == SIGINFO_LEN);
    let number =
        number.ok_or_else(|| RestoreError::inconsistent("a pending signal", "it is no siginfo_t"))?;
    remote.write(remote.data(), &info.siginfo).map_err(RestoreError::tracee(plan.pid))?;
    Ok((number.into(), remote.data()))
}

fn send(
    remote: &mut Remote<'_>,
    plan: &Plan,
    call: &'static str,
    signal: u64,
    nr: libc::c_long,
    args: [u64; 6],
) -> Result<()> {
    let outcome = remote.quiet_call(nr, args);
    outcome.map(drop).map_err(|error| match error {
        rewake_tracee::TraceeError::Remote { source, .. } => {
            RestoreError::Remote { pid: plan.pid, call, object: format!("signal {signal}"), source }
        }
        error => RestoreError::Tracee { pid: plan.pid, source: error },
    })
}
