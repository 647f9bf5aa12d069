//! State that goes into the image of our own.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rewake_images::extra::{OptionExtra, PolicyExtra, SchedTimesExtra, ThreadExtra};
use rewake_memdump::VmFlags;
use rewake_tracee::{Remote, Tracee};

use crate::error::{DumpError, Result};
use crate::proc::Status;
use crate::sys::SchedAttr;
use crate::{core, proc, sys};

/// Which kinds of memory go into a core dump; kernels can be built without core dumps.
pub(crate) fn coredump_filter(pid: Pid) -> Result<Option<u32>> {
    match proc::read(pid, "coredump_filter") {
        Ok(text) => Ok(u32::from_str_radix(text.trim(), 16).ok()),
        Err(DumpError::Proc { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What is particular to a thread, `None` if nothing is.
pub(crate) fn thread(
    thread: &Tracee,
    sched: &SchedAttr,
    usual: Usual,
    options: Vec<OptionExtra>,
    memory_policy: Option<PolicyExtra>,
) -> Result<Option<ThreadExtra>> {
    const RESET_ON_FORK: u64 = 1;
    let tid = thread.tid();
    let call = |name| DumpError::call(tid, name, "the thread");
    let set = sched_getaffinity(tid).map_err(call("sched_getaffinity"))?;
    let extra = ThreadExtra {
        tid: tid.as_raw().unsigned_abs(),
        affinity: affinity(&set, usual.cpus),
        io_priority: sys::ioprio(tid).map_err(call("ioprio_get"))?.into(),
        reset_on_fork: sched.flags & RESET_ON_FORK != 0,
        options,
        memory_policy,
        sched_times: sched_times(sched, usual.slice_ns),
        interrupted: core::interrupted(thread.saved_regs()),
    };
    let plain = ThreadExtra { tid: extra.tid, ..Default::default() };
    Ok((extra != plain).then_some(extra))
}

/// What a thread has that nothing was set of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usual {
    cpus: usize,
    /// The slice that the kernel gives, if it tells.
    slice_ns: Option<u64>,
}

impl Usual {
    pub(crate) fn of_this_machine() -> Self {
        let own = sys::sched_getattr(Pid::from_raw(0)).ok();
        let slice_ns = own.filter(|own| !own.has_deadline()).map(|own| own.runtime);
        Self { cpus: cpus_present(), slice_ns }
    }
}

fn sched_times(sched: &SchedAttr, usual_slice: Option<u64>) -> Option<SchedTimesExtra> {
    const KEPT: u64 = 2 | 4; // SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN
    let SchedAttr { runtime, deadline, period, flags, .. } = *sched;
    if sched.has_deadline() {
        return Some(SchedTimesExtra { runtime, deadline, period, flags: flags & KEPT });
    }
    let own = runtime != 0 && usual_slice.is_some_and(|usual| usual != runtime);
    own.then(|| SchedTimesExtra { runtime, ..Default::default() })
}

/// Whether what the process maps from now on will be locked: mlockall(2) with MCL_FUTURE. The kernel tells nobody, but what was
/// mapped to make remote calls is locked then. `before` is how much was locked before that, in KiB.
pub(crate) fn lock_future(remote: &Remote<'_>, before: u64) -> Result<u32> {
    let pid = remote.pid();
    if Status::read(pid)?.locked_kib <= before {
        return Ok(0);
    }
    let scratch = remote.scratch();
    let areas = rewake_memdump::areas(pid).map_err(DumpError::capture(pid))?;
    let flags = areas.iter().find(|area| area.range().contains(&scratch.start)).map(|area| area.vm_flags);
    let has = |flag, bits: i32| if flags.is_some_and(|f| f.contains(flag)) { bits.unsigned_abs() } else { 0 };
    let lock = has(VmFlags::LOCKED, libc::MCL_FUTURE);
    Ok(lock | if lock == 0 { 0 } else { has(VmFlags::LOCK_ON_FAULT, libc::MCL_ONFAULT) })
}

/// How many CPUs the machine has: the highest number of one that may ever be there, and one more.
fn cpus_present() -> usize {
    let present = std::fs::read_to_string("/sys/devices/system/cpu/present").unwrap_or_default();
    let last = present.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map_or(0, |last| last + 1)
}

/// The CPUs as words of bits, none if it is every CPU of the machine.
fn affinity(set: &CpuSet, cpus: usize) -> Vec<u64> {
    let is_set = |&cpu: &usize| set.is_set(cpu).unwrap_or(false);
    // All of them is the common case, and the rest of the set is long.
    if cpus > 0 && (0..cpus).all(|cpu| is_set(&cpu)) {
        return Vec::new();
    }
    let mut words = Vec::new();
    for cpu in (0..CpuSet::count()).filter(is_set) {
        let word = cpu / 64;
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        if let Some(bits) = words.get_mut(word) {
            *bits |= 1 << (cpu % 64);
        }
    }
    words
}
