//! Threads: making them, and what each has for itself.

use nix::unistd::Pid;
use rewake_images::extra::{PolicyExtra, ThreadExtra};
use rewake_images::proto::{CoreEntry, CredsEntry, ThreadCoreEntry, UserX86RegsEntry};
use rewake_tracee::{Call, FinalState, Regs, Remote};
use zerocopy::IntoBytes;

use crate::creds;
use crate::error::{RestoreError, Result};
use crate::fpu;
use crate::interrupted;
use crate::plan::Plan;
use crate::sys::CloneArgs;

/// Makes every thread but the first, with its id.
pub(crate) fn create(remote: &mut Remote<'_>, plan: &Plan) -> Result<()> {
    const FLAGS: i32 = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    // Arguments and id of each.
    const SLOT: usize = size_of::<CloneArgs>() + 8;
    let failed = RestoreError::tracee;
    let at_once = usize::try_from(remote.data_len()).expect("256 KiB") / SLOT;
    for tids in plan.threads.get(1..).unwrap_or_default().chunks(at_once) {
        let mut bytes = Vec::with_capacity(tids.len() * SLOT);
        let mut calls = Vec::with_capacity(tids.len());
        for &tid in tids {
            let at = remote.data() + bytes.len() as u64;
            let args = CloneArgs {
                flags: u64::from(FLAGS.unsigned_abs()),
                set_tid: at + size_of::<CloneArgs>() as u64,
                set_tid_size: 1,
                ..Default::default()
            };
            bytes.extend(args.as_bytes());
            bytes.extend(u64::from(tid).as_bytes());
            calls.push(Call::new(libc::SYS_clone3, &[at, size_of::<CloneArgs>() as u64]));
        }
        remote.write(remote.data(), &bytes).map_err(failed(plan.pid))?;
        let made = remote.clone_threads(&mut calls).map_err(failed(plan.pid))?;
        for (call, &tid) in calls.iter().zip(tids) {
            call.result().map_err(|source| match source {
                nix::errno::Errno::EEXIST => RestoreError::PidInUse { pid: tid },
                source => RestoreError::Remote {
                    pid: plan.pid,
                    call: "clone3",
                    object: format!("thread {tid}"),
                    source,
                },
            })?;
        }
        if made.len() != tids.len() {
            return Err(RestoreError::inconsistent(
                "the threads",
                format!("{} of {} came up", made.len(), tids.len()),
            ));
        }
    }
    Ok(())
}

/// Calls of a thread and what they point to.
struct Work {
    calls: Vec<Call>,
    names: Vec<&'static str>,
    data: Vec<u8>,
    base: u64,
}

impl Work {
    fn add(&mut self, name: &'static str, nr: libc::c_long, args: &[u64]) {
        self.calls.push(Call::new(nr, args));
        self.names.push(name);
    }

    fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.base + self.data.len() as u64;
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        at
    }
}

/// Sets up every thread, all at once.
pub(crate) fn set_up(remote: &mut Remote<'_>, plan: &Plan) -> Result<()> {
    let own = creds::own();
    let mut rest: &[(u32, CoreEntry)] = &plan.task.cores;
    while !rest.is_empty() {
        let mut data = Vec::new();
        let mut work = Vec::new();
        let mut names = Vec::new();
        let mut count = 0;
        for (tid, core) in rest {
            let mut thread = Work {
                calls: Vec::new(),
                names: Vec::new(),
                data: Vec::new(),
                base: remote.data() + data.len() as u64,
            };
            thread_calls(&mut thread, core, own.as_ref())?;
            settings(&mut thread, plan.task.extra.timer_slack_ns, plan.task.threads.get(tid))?;
            let full = (data.len() + thread.data.len()) as u64 > remote.data_len();
            if full && count > 0 {
                break;
            }
            data.extend(thread.data);
            names.push(thread.names);
            work.push((Pid::from_raw(tid.cast_signed()), thread.calls));
            count += 1;
        }
        remote.write(remote.data(), &data).map_err(RestoreError::tracee(plan.pid))?;
        remote.batch_on(&mut work).map_err(RestoreError::tracee(plan.pid))?;
        for ((tid, calls), names) in work.iter().zip(names) {
            for (call, name) in calls.iter().zip(names) {
                call.result().map_err(|source| RestoreError::Remote {
                    pid: tid.as_raw().unsigned_abs(),
                    call: name,
                    object: "the thread".into(),
                    source,
                })?;
            }
        }
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}

fn thread_calls(work: &mut Work, core: &CoreEntry, own: Option<&CredsEntry>) -> Result<()> {
    const SS_ONSTACK: u32 = 1;
    let (info, thread) = parts(core)?;
    work.add("set_tid_address", libc::SYS_set_tid_address, &[info.clear_tid_addr]);
    if thread.futex_rla != 0 {
        let args = [thread.futex_rla, thread.futex_rla_len.into()];
        work.add("set_robust_list", libc::SYS_set_robust_list, &args);
    }
    if let Some(sas) = thread.sas {
        // Whether it runs on it now follows from the stack pointer.
        let stack = [sas.ss_sp, u64::from(sas.ss_flags & !SS_ONSTACK), sas.ss_size];
        let at = work.bytes(stack.as_bytes());
        work.add("sigaltstack", libc::SYS_sigaltstack, &[at, 0]);
    }
    // CRIU writes an address of 0 for a thread without registration, such as one that was stopped before its
    // first instruction.
    if let Some(rseq) = thread.rseq_entry.as_ref().filter(|rseq| rseq.rseq_abi_pointer != 0) {
        let args = [rseq.rseq_abi_pointer, rseq.rseq_abi_size.into(), 0, rseq.signature.into()];
        work.add("rseq", libc::SYS_rseq, &args);
    }
    let comm = thread.comm.as_deref().or(core.tc.as_ref().map(|tc| tc.comm.as_str()));
    if let Some(comm) = comm {
        let at = work.bytes(&[comm.as_bytes(), &[0]].concat());
        work.add("prctl(PR_SET_NAME)", libc::SYS_prctl, &[option(libc::PR_SET_NAME), at]);
    }
    if let Some(creds) = thread.creds.as_ref().filter(|creds| own != Some(creds)) {
        for call in creds::calls(creds) {
            let at = if call.data.is_empty() { None } else { Some(work.bytes(&call.data)) };
            work.add(call.name, call.nr, &call.args(at));
        }
    }
    // Cleared whenever credentials change.
    if let Some(signal) = thread.pdeath_sig {
        work.add(
            "prctl(PR_SET_PDEATHSIG)",
            libc::SYS_prctl,
            &[option(libc::PR_SET_PDEATHSIG), signal.into()],
        );
    }
    Ok(())
}

/// What prctl(2) sets for a thread.
fn settings(work: &mut Work, timer_slack_ns: Option<u64>, extra: Option<&ThreadExtra>) -> Result<()> {
    const PR_SET_TSC: u32 = 26;
    const PR_SET_IO_FLUSHER: u32 = 57;
    const PR_MCE_KILL: u32 = 33;
    const PR_MCE_KILL_SET: u64 = 1;
    const PR_SET_TIMERSLACK: u32 = libc::PR_SET_TIMERSLACK.unsigned_abs();
    if let Some(slack) = timer_slack_ns {
        work.add("prctl(PR_SET_TIMERSLACK)", libc::SYS_prctl, &[PR_SET_TIMERSLACK.into(), slack]);
    }
    let Some(extra) = extra else { return Ok(()) };
    if let Some(policy) = &extra.memory_policy {
        let (bytes, most) = policy_nodes(policy);
        let at = if bytes.is_empty() { 0 } else { work.bytes(&bytes) };
        work.add("set_mempolicy", libc::SYS_set_mempolicy, &[policy.mode.into(), at, most]);
    }
    for setting in &extra.options {
        let (option, value) = (u64::from(setting.option), setting.value);
        match setting.option {
            PR_SET_TIMERSLACK => work.add("prctl(PR_SET_TIMERSLACK)", libc::SYS_prctl, &[option, value]),
            PR_SET_TSC => work.add("prctl(PR_SET_TSC)", libc::SYS_prctl, &[option, value]),
            PR_SET_IO_FLUSHER => work.add("prctl(PR_SET_IO_FLUSHER)", libc::SYS_prctl, &[option, value]),
            PR_MCE_KILL => {
                work.add("prctl(PR_MCE_KILL)", libc::SYS_prctl, &[option, PR_MCE_KILL_SET, value]);
            }
            other => {
                let object = format!("option {other} of prctl");
                return Err(RestoreError::unsupported(object, "it is none of a thread"));
            }
        }
    }
    Ok(())
}

/// The nodes of a memory policy as the kernel takes them, and how many it is told there are: one more than it counts.
pub(crate) fn policy_nodes(policy: &PolicyExtra) -> (Vec<u8>, u64) {
    const BITS: u64 = 64;
    let bytes: Vec<u8> = policy.nodes.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let most = if bytes.is_empty() { 0 } else { policy.nodes.len() as u64 * BITS + 1 };
    (bytes, most)
}

fn option(n: libc::c_int) -> u64 {
    u64::from(n.unsigned_abs())
}

fn parts(core: &CoreEntry) -> Result<(&rewake_images::proto::ThreadInfoX86, &ThreadCoreEntry)> {
    // The plan has seen to that.
    let missing = || RestoreError::inconsistent("a core image", "it lacks registers or thread");
    Ok((core.thread_info.as_ref().ok_or_else(missing)?, core.thread_core.as_ref().ok_or_else(missing)?))
}

/// What each thread is let go with.
pub(crate) fn finals(remote: &Remote<'_>, plan: &Plan) -> Result<Vec<(Pid, FinalState)>> {
    let own = remote.threads().first().map(rewake_tracee::Tracee::xstate).transpose();
    let own = own.map_err(RestoreError::tracee(plan.pid))?.unwrap_or_default();
    let mut states = Vec::with_capacity(plan.task.cores.len());
    for (tid, core) in &plan.task.cores {
        let (info, thread) = parts(core)?;
        let blocked = core.tc.as_ref().map_or(thread.blk_sigset(), |tc| tc.blk_sigset);
        let xstate = fpu::area_of(&info.fpregs, &own)
            .map_err(|what| RestoreError::unsupported(format!("thread {tid}"), what))?;
        let mut regs = registers(&info.gpregs);
        let recorded = plan.task.threads.get(tid).and_then(|extra| extra.interrupted);
        let ip = regs.ip;
        interrupted::into_call(&mut regs, recorded, || {
            let mut code = [0; 2];
            remote.read(ip, &mut code).ok().map(|()| code)
        });
        let state = FinalState { regs, xstate: Some(xstate), sigmask: blocked };
        states.push((Pid::from_raw(tid.cast_signed()), state));
    }
    Ok(states)
}

fn registers(regs: &UserX86RegsEntry) -> Regs {
    Regs {
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
        ax: regs.ax,
        cx: regs.cx,
        dx: regs.dx,
        si: regs.si,
        di: regs.di,
        orig_ax: regs.orig_ax,
        ip: regs.ip,
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
    }
}
