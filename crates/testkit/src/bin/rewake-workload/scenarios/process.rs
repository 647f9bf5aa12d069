//! Attributes of the process: limits, scheduling, and what prctl and personality set.

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
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
