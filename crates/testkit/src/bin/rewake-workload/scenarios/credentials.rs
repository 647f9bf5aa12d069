//! Who a process is and what it may do.

use std::collections::BTreeMap;

use nix::unistd::{Gid, Uid};

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{self, proc},
};

const KEYS: [&str; 9] =
    ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"];

fn identity() -> Result<BTreeMap<&'static str, String>, Failure> {
    KEYS.into_iter().map(|key| Ok((key, proc::status(key)?))).collect()
}

const PR_SET_SECUREBITS: i32 = 28;
const PR_GET_SECUREBITS: i32 = 27;

/// Ids that all differ, groups, a reduced bounding set, secure bits.
pub(crate) fn credentials(stage: &Stage) -> Check {
    let groups = [5, 1000, 70_000].map(Gid::from_raw);
    nix::unistd::setgroups(&groups)?;
    const CAP_SYS_TIME: u64 = 25;
    sys::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_TIME)?;
    nix::unistd::setresgid(Gid::from_raw(11), Gid::from_raw(12), Gid::from_raw(13))?;
    const KEEP_CAPS: u64 = 1 << 4;
    sys::prctl(PR_SET_SECUREBITS, KEEP_CAPS)?;
    // Effective root: the program still has to write its verdict.
    nix::unistd::setresuid(Uid::from_raw(1001), Uid::from_raw(0), Uid::from_raw(1003))?;
    let before = (identity()?, sys::prctl(PR_GET_SECUREBITS, 0)?, dumpable()?);
    stage.freeze()?;
    ensure_eq!((identity()?, sys::prctl(PR_GET_SECUREBITS, 0)?, dumpable()?), before, "credentials");
    Ok(())
}

fn dumpable() -> Result<u64, nix::errno::Errno> {
    sys::prctl(libc::PR_GET_DUMPABLE, 0)
}

/// A process that gave up root for good, as daemons do, and keeps one capability, ambient as well.
pub(crate) fn setuid(stage: &Stage) -> Check {
    let mut before = None;
    stage.freeze_after(|| {
        give_up_root(stage)?;
        before = Some((identity()?, dumpable()?));
        Ok(())
    })?;
    ensure_eq!(Some((identity()?, dumpable()?)), before, "credentials");
    ensure_eq!(proc::status("CapEff")?, "0000000000000400", "effective capabilities");
    ensure!(nix::unistd::setuid(Uid::from_raw(0)).is_err(), "it can become root again");
    Ok(())
}

fn give_up_root(stage: &Stage) -> Check {
    const KEEP_CAPS: u64 = 1 << 4;
    const NET_BIND: u64 = 10;
    let (uid, gid) = (Uid::from_raw(12_345), Gid::from_raw(23_456));
    // Where it will have to leave its verdict belongs to it from now on.
    std::os::unix::fs::chown(stage.path("."), Some(uid.as_raw()), Some(gid.as_raw()))?;
    nix::unistd::setgroups(&[gid])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    sys::prctl(PR_SET_SECUREBITS, KEEP_CAPS)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    set_capabilities(1 << NET_BIND).at("capset")?;
    let raise = [libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_RAISE as u64, NET_BIND, 0, 0, 0];
    // SAFETY: takes integers only.
    unsafe { sys::raw(libc::SYS_prctl, raise) }.at("raise ambient")?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).at("no_new_privs")?;
    Ok(())
}

/// Sets effective, permitted and inheritable capabilities to the same set.
fn set_capabilities(set: u64) -> Result<(), nix::errno::Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    let data = [low, low, low, high, high, high];
    // SAFETY: the kernel reads the header and two triples.
    unsafe { sys::raw(libc::SYS_capset, [&raw const header as u64, &raw const data as u64, 0, 0, 0, 0]) }
        .map(drop)
}

/// Threads with different identities, as raw system calls make them.
pub(crate) fn thread_credentials(stage: &Stage) -> Check {
    use std::sync::mpsc::channel;
    let (tell, hear) = channel();
    let (go, wait) = channel::<()>();
    let thread = std::thread::spawn(move || -> Result<(String, String), Failure> {
        // SAFETY: takes integers; the C library's function would change every thread.
        unsafe { sys::raw(libc::SYS_setresuid, [501, 0, 503, 0, 0, 0]) }?;
        tell.send(()).at("tell")?;
        wait.recv().at("wait")?;
        Ok((
            proc::field("/proc/thread-self/status", "Uid")?,
            proc::field("/proc/thread-self/status", "CapEff")?,
        ))
    });
    hear.recv().at("set-up of the thread")?;
    let before = identity()?;
    stage.freeze()?;
    ensure_eq!(identity()?, before, "of the main thread");
    go.send(()).at("go")?;
    let (uids, _) = thread.join().map_err(|_| Failure::new("the thread panicked"))??;
    ensure_eq!(uids, "501\t0\t503\t0", "of the other thread");
    Ok(())
}

/// Who logged in, which audit records tell of the process.
pub(crate) fn login(stage: &Stage) -> Check {
    const LOGIN: &str = "/proc/self/loginuid";
    // Built without auditing, or set already and not to be changed, there is nothing to lose.
    let _ = std::fs::write(LOGIN, "12345");
    let before = proc::text(LOGIN).unwrap_or_default();
    stage.freeze()?;
    ensure_eq!(proc::text(LOGIN).unwrap_or_default(), before, "login id");
    Ok(())
}
