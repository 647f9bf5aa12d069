//! State that goes into the image of our own.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use rewake_images::extra::ThreadExtra;

use crate::error::{DumpError, Result};
use crate::{proc, sys};

/// Which kinds of memory go into a core dump; kernels can be built without core dumps.
pub(crate) fn coredump_filter(pid: Pid) -> Result<Option<u32>> {
    match proc::read(pid, "coredump_filter") {
        Ok(text) => Ok(u32::from_str_radix(text.trim(), 16).ok()),
        Err(DumpError::Proc { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What is particular to a thread, `None` if nothing is.
pub(crate) fn thread(tid: Pid) -> Result<Option<ThreadExtra>> {
    const RESET_ON_FORK: u64 = 1;
    let call = |name| DumpError::call(tid, name, "the thread");
    let set = sched_getaffinity(tid).map_err(call("sched_getaffinity"))?;
    let sched = sys::sched_getattr(tid).map_err(call("sched_getattr"))?;
    let extra = ThreadExtra {
        tid: tid.as_raw().unsigned_abs(),
        affinity: affinity(&set),
        io_priority: sys::ioprio(tid).map_err(call("ioprio_get"))?.into(),
        reset_on_fork: sched.flags & RESET_ON_FORK != 0,
    };
    let plain = ThreadExtra { tid: extra.tid, ..Default::default() };
    Ok((extra != plain).then_some(extra))
}

/// The CPUs as words of bits, none if it is every CPU of the machine.
fn affinity(set: &CpuSet) -> Vec<u64> {
    let cpus = || (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    let online = std::fs::read_dir("/sys/devices/system/cpu").map_or(0, |dir| {
        let is_cpu = |name: &str| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
        dir.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_cpu)).count()
    });
    if cpus().count() >= online {
        return Vec::new();
    }
    let mut words = Vec::new();
    for cpu in cpus() {
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
