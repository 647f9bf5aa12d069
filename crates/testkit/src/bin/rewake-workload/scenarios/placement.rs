//! Where memory comes from, and that it stays.

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{
        self,
        mem::{self, Area, PRIVATE, RW, SHARED},
    },
};

const BIND: u64 = 2;
const INTERLEAVE: u64 = 3;

/// Mode and nodes of the policy of a thread, or of an address. get_mempolicy(2).
fn policy(address: Option<u64>) -> Result<(u32, [u64; 16]), Errno> {
    const OF_ADDRESS: u64 = 2;
    let (mut mode, mut nodes) = (0_u32, [0_u64; 16]);
    let flags = if address.is_some() { OF_ADDRESS } else { 0 };
    let to = [&raw mut mode as u64, nodes.as_mut_ptr() as u64, 1024, address.unwrap_or(0), flags, 0];
    // SAFETY: the kernel writes an int and a kilobit of nodes.
    unsafe { sys::raw(libc::SYS_get_mempolicy, to) }.map(|_| (mode, nodes))
}

/// Memory from one node only, and for a thread, from all in turn.
pub(crate) fn memory_policy(stage: &Stage) -> Check {
    use std::sync::mpsc::channel;
    let set = |mode: u64| {
        let nodes = 1_u64;
        // SAFETY: the kernel reads one word of nodes.
        unsafe { sys::raw(libc::SYS_set_mempolicy, [mode, &raw const nodes as u64, 65, 0, 0, 0]) }
    };
    let look = || policy(None);
    if set(BIND) == Err(Errno::ENOSYS) {
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

/// Private and shared memory with policies of their own, and memory between them without.
pub(crate) fn area_policy(stage: &Stage) -> Check {
    let areas = [Area::anonymous(9, RW, PRIVATE)?, Area::anonymous(9, RW, SHARED)?];
    for (area, mode) in areas.iter().zip([BIND, INTERLEAVE]) {
        let nodes = 1_u64;
        let second = area.start + mem::PAGE;
        let length = 4 * mem::PAGE;
        // SAFETY: the kernel reads one word of nodes, and changes no contents.
        match unsafe { sys::raw(libc::SYS_mbind, [second, length, mode, &raw const nodes as u64, 65, 0]) } {
            // The kernel knows no nodes: there is nothing to lose.
            Err(Errno::ENOSYS) => return stage.freeze(),
            bound => bound.at("mbind")?,
        };
        area.fill(2, 91);
    }
    let look = || -> Result<Vec<_>, Errno> {
        // One word of nodes is all there is to say.
        let policy = |address| policy(Some(address)).map(|(mode, [nodes, ..])| (mode, nodes));
        let pages = areas.iter().flat_map(|area| (0..9).map(|page| area.start + page * mem::PAGE));
        pages.map(policy).collect()
    };
    let before = look()?;
    let bound = before.iter().filter(|(mode, _)| u64::from(*mode) == BIND).count();
    ensure_eq!(bound, 4, "pages with a policy before");
    stage.freeze()?;
    ensure_eq!(look()?, before, "memory policies");
    areas.iter().try_for_each(|area| area.check(2, 91, "memory with a policy"))
}

/// What is mapped from now on must not leave, at once or as it is touched.
fn locked_from_now_on(stage: &Stage, flags: u64) -> Check {
    // SAFETY: takes a number.
    unsafe { sys::raw(libc::SYS_mlockall, [flags, 0, 0, 0, 0, 0]) }.at("mlockall")?;
    let there = || -> Result<_, Failure> {
        let area = Area::anonymous(8, RW, PRIVATE)?;
        let there = area.resident()?.iter().filter(|page| **page).count();
        area.fill(1, 92);
        Ok((there, sys::proc::status("VmLck")?))
    };
    let (pages, before) = there()?;
    stage.freeze()?;
    let (now, after) = there()?;
    ensure_eq!(now, pages, "pages of new memory");
    ensure!(after > before, "new memory is not locked: {after}, before {before}");
    Ok(())
}

pub(crate) fn lock_future(stage: &Stage) -> Check {
    locked_from_now_on(stage, libc::MCL_FUTURE as u64)
}

pub(crate) fn lock_future_on_fault(stage: &Stage) -> Check {
    locked_from_now_on(stage, (libc::MCL_FUTURE | libc::MCL_ONFAULT) as u64)
}
