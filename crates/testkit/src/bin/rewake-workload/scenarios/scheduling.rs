//! When and where threads run.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    stage::{At, Check, Failure, Stage, ensure_eq},
    sys,
};

/// `struct sched_attr`, first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    deadline: [u64; 3],
}

fn attributes() -> Result<Attributes, nix::errno::Errno> {
    let mut got = Attributes::default();
    let size = size_of::<Attributes>() as u64;
    // SAFETY: the kernel writes at most `size` bytes.
    unsafe { sys::raw(libc::SYS_sched_getattr, [0, &raw mut got as u64, size, 0, 0, 0]) }?;
    Ok(got)
}

fn set_attributes(policy: i32, nice: i32, priority: u32) -> Result<(), nix::errno::Errno> {
    set(Attributes { policy: policy as u32, nice, priority, ..Default::default() })
}

fn set(new: Attributes) -> Result<(), nix::errno::Errno> {
    let new = Attributes { size: size_of::<Attributes>() as u32, ..new };
    // SAFETY: the kernel reads one structure of the size it says.
    unsafe { sys::raw(libc::SYS_sched_setattr, [0, &raw const new as u64, 0, 0, 0, 0]) }.map(drop)
}

fn schedule() -> Result<(Attributes, CpuSet), Failure> {
    let mut attributes = attributes()?;
    // A slice set to its default reads as that or as none.
    attributes.deadline = [0; 3];
    Ok((attributes, sched_getaffinity(Pid::from_raw(0))?))
}

/// Batch scheduling of the process, a lower nice value and idle scheduling of a thread.
pub(crate) fn scheduling(stage: &Stage) -> Check {
    use std::sync::mpsc::channel;
    set_attributes(libc::SCHED_BATCH, 7, 0).at("SCHED_BATCH")?;
    let (tell, hear) = channel();
    let (go, wait) = channel::<()>();
    let thread = std::thread::spawn(move || -> Check {
        set_attributes(libc::SCHED_IDLE, 3, 0).at("SCHED_IDLE")?;
        let before = schedule()?;
        tell.send(()).at("tell")?;
        wait.recv().at("wait")?;
        ensure_eq!(schedule()?, before, "scheduling of the thread");
        Ok(())
    });
    hear.recv().at("set-up of the thread")?;
    let before = schedule()?;
    stage.freeze()?;
    ensure_eq!(schedule()?, before, "scheduling");
    go.send(()).at("go")?;
    thread.join().map_err(|_| Failure::new("the thread panicked"))?
}

/// Bound to the last of the processors it may use.
pub(crate) fn affinity(stage: &Stage) -> Check {
    let all = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)).max();
    let mut one = CpuSet::new();
    one.set(last.ok_or_else(|| Failure::new("no processor"))?)?;
    sched_setaffinity(Pid::from_raw(0), &one)?;
    const CLASS_IDLE: u64 = 3 << 13;
    const WHO_PROCESS: u64 = 1;
    // SAFETY: takes integers only.
    unsafe { sys::raw(libc::SYS_ioprio_set, [WHO_PROCESS, 0, CLASS_IDLE, 0, 0, 0]) }.at("ioprio_set")?;
    stage.freeze()?;
    ensure_eq!(sched_getaffinity(Pid::from_raw(0))?, one, "affinity");
    // SAFETY: as above.
    let class = unsafe { sys::raw(libc::SYS_ioprio_get, [WHO_PROCESS, 0, 0, 0, 0, 0]) }?;
    ensure_eq!(class, CLASS_IDLE, "input/output priority");
    Ok(())
}

/// Round robin, with a nice value for the day that ends.
pub(crate) fn real_time(stage: &Stage) -> Check {
    set_attributes(libc::SCHED_OTHER, 5, 0).at("SCHED_OTHER")?;
    set_attributes(libc::SCHED_RR, 0, 7).at("SCHED_RR")?;
    let (before, nice) = (schedule()?, nice()?);
    stage.freeze()?;
    ensure_eq!(schedule()?, before, "scheduling");
    ensure_eq!(self::nice()?, nice, "nice value");
    Ok(())
}

/// Twenty minus the nice value: the kernel returns no negative numbers here.
fn nice() -> Result<u64, nix::errno::Errno> {
    // SAFETY: takes integers only.
    unsafe { sys::raw(libc::SYS_getpriority, [libc::PRIO_PROCESS.into(), 0, 0, 0, 0, 0]) }
}

/// A slice that is not the usual one.
pub(crate) fn slice(stage: &Stage) -> Check {
    set(Attributes { deadline: [5_000_000, 0, 0], ..Default::default() }).at("sched_setattr")?;
    // Before Linux 6.12 there are none.
    let before = attributes()?;
    stage.freeze()?;
    ensure_eq!(attributes()?, before, "scheduling");
    Ok(())
}

/// A millisecond in every twenty.
pub(crate) fn deadline(stage: &Stage) -> Check {
    let times = [1_000_000, 10_000_000, 20_000_000];
    set(Attributes { policy: 6, deadline: times, ..Default::default() }).at("SCHED_DEADLINE")?;
    let before = attributes()?;
    ensure_eq!(before.deadline, times, "times before");
    stage.freeze()?;
    ensure_eq!(attributes()?, before, "scheduling");
    Ok(())
}
