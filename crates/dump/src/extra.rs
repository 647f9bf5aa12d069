//! State that goes into the image of our own.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rewake_images::extra::{OptionExtra, PolicyExtra, ThreadExtra};
use rewake_tracee::Tracee;

use crate::error::{DumpError, Result};
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
    cpus: usize,
    options: Vec<OptionExtra>,
    memory_policy: Option<PolicyExtra>,
) -> Result<Option<ThreadExtra>> {
    const RESET_ON_FORK: u64 = 1;
    let tid = thread.tid();
    let call = |name| DumpError::call(tid, name, "the thread");
    let set = sched_getaffinity(tid).map_err(call("sched_getaffinity"))?;
    let extra = ThreadExtra {
        tid: tid.as_raw().unsigned_abs(),
        affinity: affinity(&set, cpus),
        io_priority: sys::ioprio(tid).map_err(call("ioprio_get"))?.into(),
        reset_on_fork: sched.flags & RESET_ON_FORK != 0,
        options,
        memory_policy,
        interrupted: core::interrupted(thread.saved_regs()),
    };
    let plain = ThreadExtra { tid: extra.tid, ..Default::default() };
    Ok((extra != plain).then_some(extra))
}

/// How many CPUs the machine has: the highest number of one that may ever be there, and one more.
pub(crate) fn cpus_present() -> usize {
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
