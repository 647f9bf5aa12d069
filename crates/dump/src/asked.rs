//! What only the task itself can tell: one table of system calls for the process, a short one for every thread.

use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::unistd::Pid;
use rewake_images::extra::{OptionExtra, PolicyExtra};
use rewake_images::proto::{ItimerEntry, SaEntry, ThreadSasEntry};
use rewake_tracee::{Call, Remote};

use crate::error::{DumpError, Result};

const SIGNALS: u64 = 64;
/// `struct sigaction` of the kernel: handler, flags, restorer, mask.
const SIGACTION_LEN: u64 = 32;
/// `struct itimerval`, `struct itimerspec`.
const TIMER_LEN: u64 = 32;
/// Where in the data area what lies.
const ITIMERS: u64 = SIGNALS * SIGACTION_LEN;
const SUBREAPER: u64 = ITIMERS + 3 * TIMER_LEN;
const LDT: u64 = SUBREAPER + 8;
const LDT_READ: u64 = 0;
const POSIX_TIMERS: u64 = 4096;
const POSIX_TIMERS_AT_ONCE: usize = 1024;
const THREADS: u64 = 64 << 10;
const THREADS_AT_ONCE: usize = 1024;
/// Of a thread: stack_t (24), clear_child_tid (8), pdeath signal (4), time stamp counter (4), name (16), capability header (8) and data (24), memory policy (8).
const THREAD_LEN: u64 = 96;

/// State of the process.
#[derive(Debug, Default, Clone)]
pub(crate) struct ProcessState {
    /// Signals 1 to 64 without SIGKILL and SIGSTOP.
    pub(crate) sigactions: Vec<SaEntry>,
    pub(crate) brk: u64,
    /// ITIMER_REAL, VIRTUAL, PROF.
    pub(crate) itimers: [ItimerEntry; 3],
    /// Interval and value (seconds, nanoseconds each) and overrun, in the order asked for.
    pub(crate) posix_timers: Vec<([u64; 4], u32)>,
    pub(crate) child_subreaper: bool,
    pub(crate) dumpable: i32,
    pub(crate) thp_disabled: bool,
    pub(crate) securebits: u32,
    pub(crate) membarrier: u32,
    pub(crate) timer_slack_ns: u64,
    /// What else prctl(2) sets for the address space.
    pub(crate) options: Vec<OptionExtra>,
    /// It has segments of its own: modify_ldt(2).
    pub(crate) local_descriptors: bool,
    /// One of its threads has children, or traces another process.
    pub(crate) has_children: bool,
}

/// Options of prctl(2) that libc has no names for.
mod pr {
    pub(super) const SET_MDWE: u32 = 65;
    pub(super) const GET_MDWE: u64 = 66;
    pub(super) const SET_MEMORY_MERGE: u32 = 67;
    pub(super) const GET_MEMORY_MERGE: u64 = 68;
    pub(super) const SET_IO_FLUSHER: u32 = 57;
    pub(super) const GET_IO_FLUSHER: u64 = 58;
    pub(super) const SET_TSC: u32 = 26;
    pub(super) const GET_TSC: u64 = 25;
    pub(super) const MCE_KILL: u32 = 33;
    pub(super) const MCE_KILL_GET: u64 = 34;
}

/// A setting, unless it is the default. A kernel that does not know it cannot have it set.
fn changed(option: u32, value: Result<u64, Errno>, default: u64) -> Option<OptionExtra> {
    let value = value.ok().filter(|&value| value != default)?;
    Some(OptionExtra { option, value })
}

/// State of a thread.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct ThreadState {
    pub(crate) sas: ThreadSasEntry,
    pub(crate) clear_tid: u64,
    pub(crate) pdeath_signal: u32,
    pub(crate) comm: String,
    /// User and group ids, capabilities: to see whether all threads have the same.
    pub(crate) credentials: (Vec<u64>, Vec<u8>),
    pub(crate) timer_slack_ns: u64,
    /// What else prctl(2) sets for a thread.
    pub(crate) options: Vec<OptionExtra>,
    /// Where its memory comes from, if that was set.
    pub(crate) memory_policy: Option<PolicyExtra>,
}

/// Asks the process.
pub(crate) fn process(remote: &mut Remote<'_>, timer_ids: &[u32]) -> Result<ProcessState> {
    const MEMBARRIER_GET_REGISTRATIONS: u64 = 512;
    let pid = remote.pid();
    let base = remote.data();
    let mut calls = Vec::new();
    for signal in 1..=SIGNALS {
        let to = base + (signal - 1) * SIGACTION_LEN;
        calls.push(Call::new(libc::SYS_rt_sigaction, &[signal, 0, to, 8]));
    }
    for which in 0..3 {
        calls.push(Call::new(libc::SYS_getitimer, &[which, base + ITIMERS + which * TIMER_LEN]));
    }
    let prctl = |option: libc::c_int, arg| Call::new(libc::SYS_prctl, &[number(option), arg]);
    let tail = calls.len();
    calls.push(Call::new(libc::SYS_brk, &[0]));
    calls.push(prctl(libc::PR_GET_CHILD_SUBREAPER, base + SUBREAPER));
    calls.push(prctl(libc::PR_GET_DUMPABLE, 0));
    calls.push(prctl(libc::PR_GET_THP_DISABLE, 0));
    calls.push(prctl(libc::PR_GET_SECUREBITS, 0));
    calls.push(prctl(libc::PR_GET_TIMERSLACK, 0));
    calls.push(Call::new(libc::SYS_membarrier, &[MEMBARRIER_GET_REGISTRATIONS]));
    calls.push(Call::new(libc::SYS_prctl, &[pr::GET_MDWE]));
    calls.push(Call::new(libc::SYS_prctl, &[pr::GET_MEMORY_MERGE]));
    calls.push(Call::new(libc::SYS_modify_ldt, &[LDT_READ, base + LDT, 8]));
    // Leaves everything as it is: those of all threads at once.
    let any =
        libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    calls.push(Call::new(libc::SYS_waitid, &[libc::P_ALL.into(), 0, 0, number(any), 0]));
    remote.batch(&mut calls).map_err(DumpError::tracee(pid))?;

    let mut bytes = vec![0; usize::try_from(POSIX_TIMERS).expect("small")];
    remote.read(base, &mut bytes).map_err(DumpError::tracee(pid))?;
    let words = Words(&bytes);
    let mut results = calls.iter().skip(tail);
    let mut next = |call: &'static str| -> Result<u64> {
        let result = results.next().map_or(Err(Errno::ENOSYS), Call::result);
        result.map_err(|source| DumpError::Remote { pid, call, source })
    };
    let mut state = ProcessState {
        sigactions: (1..=SIGNALS)
            .filter(|&s| s != number(libc::SIGKILL) && s != number(libc::SIGSTOP))
            .map(|s| words.sigaction((s - 1) * SIGACTION_LEN))
            .collect(),
        itimers: [0, 1, 2].map(|which| words.itimer(ITIMERS + which * TIMER_LEN)),
        brk: next("brk")?,
        ..Default::default()
    };
    next("prctl(PR_GET_CHILD_SUBREAPER)")?;
    state.child_subreaper = words.int(SUBREAPER) != 0;
    state.dumpable = i32::try_from(next("prctl(PR_GET_DUMPABLE)")?).unwrap_or(0);
    // Built without huge pages, the kernel does not know the question.
    state.thp_disabled = next("prctl(PR_GET_THP_DISABLE)").is_ok_and(|v| v != 0);
    state.securebits = low(next("prctl(PR_GET_SECUREBITS)")?);
    state.timer_slack_ns = next("prctl(PR_GET_TIMERSLACK)")?;
    state.membarrier = next("membarrier").map_or(0, low);
    let mut setting = || results.next().map_or(Err(Errno::ENOSYS), Call::result);
    state.options.extend(changed(pr::SET_MDWE, setting(), 0));
    state.options.extend(changed(pr::SET_MEMORY_MERGE, setting(), 0));
    // How many bytes of it there are. A kernel built without does not know the question.
    state.local_descriptors = setting().is_ok_and(|len| len != 0);
    state.has_children = setting() != Err(Errno::ECHILD);
    state.posix_timers = posix_timers(remote, timer_ids)?;
    Ok(state)
}

fn posix_timers(remote: &mut Remote<'_>, ids: &[u32]) -> Result<Vec<([u64; 4], u32)>> {
    let pid = remote.pid();
    let base = remote.data() + POSIX_TIMERS;
    let mut timers = Vec::new();
    for ids in ids.chunks(POSIX_TIMERS_AT_ONCE) {
        let mut calls = Vec::new();
        for (&id, at) in ids.iter().zip((base..).step_by(32)) {
            calls.push(Call::new(libc::SYS_timer_gettime, &[id.into(), at]));
            calls.push(Call::new(libc::SYS_timer_getoverrun, &[id.into()]));
        }
        remote.batch(&mut calls).map_err(DumpError::tracee(pid))?;
        let mut bytes = vec![0; ids.len() * 32];
        remote.read(base, &mut bytes).map_err(DumpError::tracee(pid))?;
        let words = Words(&bytes);
        for (pair, at) in calls.chunks_exact(2).zip((0_u64..).step_by(32)) {
            let [gettime, overrun] = pair else { continue };
            let failed = |call| move |source| DumpError::Remote { pid, call, source };
            gettime.result().map_err(failed("timer_gettime"))?;
            let overrun = overrun.result().map_err(failed("timer_getoverrun"))?;
            timers.push(([0, 8, 16, 24].map(|o| words.long(at + o)), low(overrun)));
        }
    }
    Ok(timers)
}

/// Which of `numbers` are open descriptors, each with whether it is closed by execve(2). `count` is how many there are.
pub(crate) fn descriptors(
    remote: &mut Remote<'_>,
    numbers: &[RawFd],
    count: Option<usize>,
) -> Result<Vec<(RawFd, bool)>> {
    const AT_ONCE: usize = 1024;
    let pid = remote.pid();
    let mut open = Vec::new();
    for numbers in numbers.chunks(AT_ONCE) {
        let get = |fd: &RawFd| Call::new(libc::SYS_fcntl, &[number(*fd), number(libc::F_GETFD)]);
        let mut calls: Vec<Call> = numbers.iter().map(get).collect();
        remote.batch(&mut calls).map_err(DumpError::tracee(pid))?;
        for (&fd, call) in numbers.iter().zip(&calls) {
            match call.result() {
                Ok(flags) => open.push((fd, flags & number(libc::FD_CLOEXEC) != 0)),
                Err(Errno::EBADF) => {}
                Err(source) => return Err(DumpError::Remote { pid, call: "fcntl(F_GETFD)", source }),
            }
        }
        // The rest of the table is empty.
        if count.is_some_and(|count| open.len() >= count) {
            break;
        }
    }
    Ok(open)
}

/// Asks every thread, all at once.
pub(crate) fn threads(remote: &mut Remote<'_>) -> Result<Vec<ThreadState>> {
    let tids: Vec<Pid> = remote.threads().iter().map(rewake_tracee::Tracee::tid).collect();
    let mut states = Vec::with_capacity(tids.len());
    for tids in tids.chunks(THREADS_AT_ONCE) {
        states.extend(some_threads(remote, tids)?);
    }
    Ok(states)
}

fn some_threads(remote: &mut Remote<'_>, tids: &[Pid]) -> Result<Vec<ThreadState>> {
    const CAPABILITY_VERSION_3: u64 = 0x2008_0522;
    const PR_GET_TID_ADDRESS: u64 = 40;
    let pid = remote.pid();
    let base = remote.data() + THREADS;
    let room = tids.len() * usize::try_from(THREAD_LEN).expect("small");
    let mut bytes = vec![0; room];
    for header in bytes.chunks_exact_mut(room / tids.len().max(1)).filter_map(|slot| slot.get_mut(56..64)) {
        header.copy_from_slice(&CAPABILITY_VERSION_3.to_le_bytes());
    }
    remote.write(base, &bytes).map_err(DumpError::tracee(pid))?;
    let slots = tids.iter().zip((0_u64..).map(|n| base + n * THREAD_LEN));
    let mut work: Vec<(Pid, Vec<Call>)> = slots
        .map(|(&tid, at)| {
            let prctl = |option: u64, to| Call::new(libc::SYS_prctl, &[option, to]);
            let calls = vec![
                Call::new(libc::SYS_sigaltstack, &[0, at]),
                prctl(PR_GET_TID_ADDRESS, at + 24),
                prctl(number(libc::PR_GET_PDEATHSIG), at + 32),
                prctl(number(libc::PR_GET_NAME), at + 40),
                Call::new(libc::SYS_capget, &[at + 56, at + 64]),
                Call::new(libc::SYS_getuid, &[]),
                Call::new(libc::SYS_geteuid, &[]),
                Call::new(libc::SYS_getgid, &[]),
                Call::new(libc::SYS_getegid, &[]),
                Call::new(libc::SYS_getgroups, &[0, 0]),
                prctl(number(libc::PR_GET_TIMERSLACK), 0),
                prctl(pr::GET_IO_FLUSHER, 0),
                prctl(pr::MCE_KILL_GET, 0),
                prctl(pr::GET_TSC, at + 36),
                // Without the nodes, which few have.
                Call::new(libc::SYS_get_mempolicy, &[at + 88, 0, 0, 0, 0]),
            ];
            (tid, calls)
        })
        .collect();
    remote.batch_on(&mut work).map_err(DumpError::tracee(pid))?;
    remote.read(base, &mut bytes).map_err(DumpError::tracee(pid))?;
    let slots = bytes.chunks_exact(room / tids.len().max(1));
    let threads = work.iter().zip(slots).map(|((tid, calls), slot)| thread(*tid, calls, slot));
    let mut threads = threads.collect::<Result<Vec<_>>>()?;
    for (state, tid) in threads.iter_mut().zip(tids) {
        if let Some(policy) = &mut state.memory_policy {
            policy.nodes = policy_nodes(remote, *tid, 0, 0)?;
        }
    }
    Ok(threads)
}

/// The nodes of a thread's memory policy, or of that of an address. get_mempolicy(2).
pub(crate) fn policy_nodes(remote: &mut Remote<'_>, tid: Pid, addr: u64, flags: u64) -> Result<Vec<u64>> {
    const MOST_NODES: u64 = 1024;
    const LEN: usize = 128;
    let (mode, nodes) = (remote.data() + THREADS, remote.data() + THREADS + 8);
    let asked = remote.call_on(tid, libc::SYS_get_mempolicy, &[mode, nodes, MOST_NODES, addr, flags]);
    asked.map_err(DumpError::tracee(tid))?;
    let mut bytes = [0; LEN];
    remote.read(nodes, &mut bytes).map_err(DumpError::tracee(tid))?;
    let words = Words(&bytes);
    let mut nodes: Vec<u64> = (0..LEN as u64 / 8).map(|word| words.long(word * 8)).collect();
    let used = nodes.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1);
    nodes.truncate(used);
    Ok(nodes)
}

fn thread(tid: Pid, calls: &[Call], slot: &[u8]) -> Result<ThreadState> {
    const NAMES: [&str; 5] =
        ["sigaltstack", "PR_GET_TID_ADDRESS", "PR_GET_PDEATHSIG", "PR_GET_NAME", "capget"];
    for (call, name) in calls.iter().zip(NAMES) {
        call.result().map_err(|source| DumpError::Remote { pid: tid, call: name, source })?;
    }
    let words = Words(slot);
    let name: Vec<u8> = slot.iter().skip(40).take(16).copied().take_while(|&b| b != 0).collect();
    // Who one is: a call that fails fails for every thread alike.
    const IDS: usize = 5;
    let (ids, settings) =
        calls.get(NAMES.len()..).and_then(|rest| rest.split_at_checked(IDS)).unwrap_or_default();
    let ids = ids.iter().map(|c| c.result().unwrap_or(u64::MAX)).collect();
    let setting = |at: usize| settings.get(at).map_or(Err(Errno::ENOSYS), Call::result);
    const MCE_KILL_DEFAULT: u64 = 2;
    const TSC_ENABLE: u64 = 1;
    let tsc = setting(3).map(|_| u64::from(words.int(36)));
    let options = [
        changed(pr::SET_IO_FLUSHER, setting(1), 0),
        changed(pr::MCE_KILL, setting(2), MCE_KILL_DEFAULT),
        changed(pr::SET_TSC, tsc, TSC_ENABLE),
    ];
    Ok(ThreadState {
        sas: ThreadSasEntry { ss_sp: words.long(0), ss_flags: words.int(8), ss_size: words.long(16) },
        clear_tid: words.long(24),
        pdeath_signal: words.int(32),
        comm: String::from_utf8_lossy(&name).into_owned(),
        credentials: (ids, slot.get(64..88).unwrap_or_default().to_vec()),
        timer_slack_ns: setting(0).unwrap_or(0),
        options: options.into_iter().flatten().collect(),
        // A kernel without nodes leaves it at zero, which is the default.
        memory_policy: (words.int(88) != 0).then(|| PolicyExtra { mode: words.int(88), nodes: Vec::new() }),
    })
}

fn number(n: libc::c_int) -> u64 {
    u64::from(n.unsigned_abs())
}

/// The result of a call that returns an int.
fn low(result: u64) -> u32 {
    u32::try_from(result & u64::from(u32::MAX)).expect("masked")
}

/// Numbers in memory of the task.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn long(&self, at: u64) -> u64 {
        let at = usize::try_from(at).expect("inside a buffer of ours");
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk()).expect("inside a buffer of ours");
        u64::from_ne_bytes(*bytes)
    }

    fn int(&self, at: u64) -> u32 {
        low(self.long(at))
    }

    fn sigaction(&self, at: u64) -> SaEntry {
        SaEntry {
            sigaction: self.long(at),
            flags: self.long(at + 8),
            restorer: self.long(at + 16),
            mask: self.long(at + 24),
            compat_sigaction: Some(false),
            mask_extended: None,
        }
    }

    fn itimer(&self, at: u64) -> ItimerEntry {
        let [isec, iusec, mut vsec, mut vusec] = [0, 8, 16, 24].map(|o| self.long(at + o));
        if (vsec, vusec) == (0, 0) {
            // Its signal is pending, and the kernel starts the timer again only when that is taken. Restored as it
            // stands, it would be a timer that is off.
            (vsec, vusec) = (isec, iusec);
        }
        ItimerEntry { isec, iusec, vsec, vusec }
    }
}
