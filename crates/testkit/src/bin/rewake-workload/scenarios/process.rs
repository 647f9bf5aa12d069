//! Attributes of the process: limits, scheduling, and what prctl and personality set.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        stat::{Mode, umask},
    },
    unistd::Pid,
};

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{self, proc},
};

/// Soft and hard limits.
pub(crate) fn rlimits(stage: &Stage) -> Check {
    const INFINITY: u64 = u64::MAX;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, 777, 888)?;
    setrlimit(Resource::RLIMIT_STACK, 3 << 20, 512 << 20)?;
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 40, INFINITY)?;
    setrlimit(Resource::RLIMIT_AS, 1 << 45, INFINITY)?;
    let before = proc::text("/proc/self/limits")?;
    stage.freeze()?;
    ensure_eq!(proc::text("/proc/self/limits")?, before, "limits");
    ensure_eq!(getrlimit(Resource::RLIMIT_NOFILE)?, (777, 888), "RLIMIT_NOFILE");
    Ok(())
}

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
    let size = size_of::<Attributes>() as u32;
    let new = Attributes { size, policy: policy as u32, nice, priority, ..Default::default() };
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

/// Memory from one node only, and for a thread, from all in turn.
pub(crate) fn memory_policy(stage: &Stage) -> Check {
    use std::sync::mpsc::channel;
    const BIND: u64 = 2;
    const INTERLEAVE: u64 = 3;
    let set = |mode: u64| {
        let nodes = 1_u64;
        // SAFETY: the kernel reads one word of nodes.
        unsafe { sys::raw(libc::SYS_set_mempolicy, [mode, &raw const nodes as u64, 65, 0, 0, 0]) }
    };
    let look = || {
        let (mut mode, mut nodes) = (0_u32, [0_u64; 16]);
        let to = [&raw mut mode as u64, nodes.as_mut_ptr() as u64, 1024, 0, 0, 0];
        // SAFETY: the kernel writes an int and a kilobit of nodes.
        unsafe { sys::raw(libc::SYS_get_mempolicy, to) }.map(|_| (mode, nodes))
    };
    if set(BIND) == Err(nix::errno::Errno::ENOSYS) {
        // The kernel knows no nodes: there is nothing to lose.
        return stage.freeze();
    }
    let (tell, hear) = channel();
    let (go, wait) = channel::<()>();
    let thread = std::thread::spawn(move || -> Check {
        set(INTERLEAVE).at("set_mempolicy")?;
        let before = look()?;
        tell.send(()).at("tell")?;
        wait.recv().at("wait")?;
        ensure_eq!(look()?, before, "memory policy of the thread");
        Ok(())
    });
    hear.recv().at("set-up of the thread")?;
    let before = look()?;
    ensure_eq!(u64::from(before.0), BIND, "memory policy before");
    stage.freeze()?;
    ensure_eq!(look()?, before, "memory policy");
    go.send(()).at("go")?;
    thread.join().map_err(|_| Failure::new("the thread panicked"))?
}

/// File mode mask, name, and flags that prctl sets.
pub(crate) fn attributes_of_task(stage: &Stage) -> Check {
    // The parent that restores may end at once, which is what the parent-death signal is for.
    sys::signal::block(&[libc::SIGUSR2])?;
    umask(Mode::from_bits_retain(0o027));
    sys::prctl(libc::PR_SET_NAME, c"a (new) name)".as_ptr() as u64)?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR2 as u64)?;
    std::fs::write("/proc/self/oom_score_adj", "321")?;
    let look = || -> Result<_, Failure> {
        Ok((
            proc::text("/proc/self/comm")?,
            proc::text("/proc/self/oom_score_adj")?,
            proc::status("Umask")?,
            sys::prctl_out(libc::PR_GET_CHILD_SUBREAPER)?,
            sys::prctl_out(libc::PR_GET_PDEATHSIG)?,
        ))
    };
    let before = look()?;
    ensure_eq!(before.0, "a (new) name)", "name before");
    stage.freeze()?;
    ensure_eq!(look()?, before, "name, OOM score, umask, subreaper, parent-death signal");
    ensure_eq!(umask(Mode::empty()).bits(), 0o027, "umask");
    Ok(())
}

/// How the kernel treats it: here without randomised addresses.
pub(crate) fn personality(stage: &Stage) -> Check {
    use nix::sys::personality::{self, Persona};
    personality::set(Persona::ADDR_NO_RANDOMIZE | Persona::SHORT_INODE)?;
    let before = personality::get()?;
    stage.freeze()?;
    ensure_eq!(personality::get()?, before, "personality");
    Ok(())
}

/// What the kernel keeps of a process and its threads and the image format has no place for.
pub(crate) fn extra(stage: &Stage) -> Check {
    use std::sync::mpsc::channel;
    const MCE_KILL: i32 = 33;
    const MCE_KILL_GET: i32 = 34;
    const MCE_KILL_SET: u64 = 1;
    const SET_MDWE: i32 = 65;
    const GET_MDWE: i32 = 66;
    let slack = || sys::prctl(libc::PR_GET_TIMERSLACK, 0);
    let (tell, hear) = channel();
    let (go, wait) = channel::<()>();
    let thread = std::thread::spawn(move || -> Check {
        sys::prctl(libc::PR_SET_TIMERSLACK, 654_321)?;
        tell.send(()).at("tell")?;
        wait.recv().at("wait")?;
        ensure_eq!(slack()?, 654_321, "timer slack of the thread");
        ensure_eq!(sys::prctl(MCE_KILL_GET, 0)?, 2, "machine check policy of the thread");
        Ok(())
    });
    hear.recv().at("set-up of the thread")?;
    sys::prctl(libc::PR_SET_TIMERSLACK, 123_456)?;
    std::fs::write("/proc/self/coredump_filter", "0x11")?;
    // SAFETY: takes integers only.
    unsafe { sys::raw(libc::SYS_prctl, [MCE_KILL as u64, MCE_KILL_SET, 1, 0, 0, 0]) }.at("PR_MCE_KILL")?;
    // Before Linux 6.3 there is no such thing.
    let _ = sys::prctl(SET_MDWE, 1);
    let look = || -> Result<_, Failure> {
        let filter = proc::text("/proc/self/coredump_filter")?;
        Ok((slack()?, filter, sys::prctl(MCE_KILL_GET, 0)?, sys::prctl(GET_MDWE, 0)))
    };
    let before = look()?;
    ensure!(before.0 == 123_456, "timer slack before: {}", before.0);
    stage.freeze()?;
    ensure_eq!(look()?, before, "timer slack, core dump filter, machine checks, writable code");
    go.send(()).at("go")?;
    thread.join().map_err(|_| Failure::new("the thread panicked"))?
}

/// A root directory of its own, and a working directory in it.
pub(crate) fn root(stage: &Stage) -> Check {
    let inner = stage.path("inner");
    std::fs::create_dir_all(inner.join("deep"))?;
    std::fs::write(inner.join("mark"), "inside")?;
    stage.freeze_after(|| {
        nix::unistd::chroot(&inner).at("chroot")?;
        nix::unistd::chdir("/deep").at("chdir")
    })?;
    ensure_eq!(std::fs::read_to_string("/mark")?, "inside", "root directory");
    ensure_eq!(std::env::current_dir()?, std::path::Path::new("/deep"), "working directory");
    // Out again, as only root can, to leave the verdict.
    std::fs::create_dir("/way")?;
    nix::unistd::chroot("/way")?;
    for _ in 0..64 {
        nix::unistd::chdir("..")?;
    }
    Ok(nix::unistd::chroot(".")?)
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

/// What membarrier(2) was told this process wants to use.
pub(crate) fn membarrier(stage: &Stage) -> Check {
    const PRIVATE_EXPEDITED: u64 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: u64 = 1 << 4;
    const REGISTER_SYNC_CORE: u64 = 1 << 6;
    const GET_REGISTRATIONS: u64 = 1 << 9;
    // SAFETY: takes integers only.
    let call = |command| unsafe { sys::raw(libc::SYS_membarrier, [command, 0, 0, 0, 0, 0]) };
    call(REGISTER_PRIVATE_EXPEDITED).at("register")?;
    call(REGISTER_SYNC_CORE).at("register")?;
    let before = call(GET_REGISTRATIONS);
    stage.freeze()?;
    ensure_eq!(call(PRIVATE_EXPEDITED), Ok(0), "a barrier");
    ensure_eq!(call(GET_REGISTRATIONS), before, "registrations");
    Ok(())
}
