//! A copy of the process that holds its memory still while the process itself goes on.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rewake_memdump::{Area, VmFlags};
use rewake_tracee::{Release, ThreadGroup, TraceeError};

use crate::error::{DumpError, Result};

/// A child of the process, made by it and traced by us, which never runs: its private memory is that of the moment, copied
/// by the kernel page by page when the process writes. Dropped, it is killed.
///
/// It sends no SIGCHLD, and the process' own wait calls do not see it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    of: Pid,
    child: Pid,
    ended: bool,
}

/// Whether a child would have all of the memory.
pub(crate) fn holds_all(areas: &[Area]) -> bool {
    !areas.iter().any(|area| area.vm_flags.intersects(VmFlags::DONT_FORK | VmFlags::WIPE_ON_FORK))
}

impl Snapshot {
    /// Makes one of `group`; the reason if the kernel refuses, for instance because there are too many processes.
    pub(crate) fn take(group: &mut ThreadGroup) -> Result<std::result::Result<Self, String>> {
        let of = group.pid();
        let tracee = DumpError::tracee;
        let mut remote = group.remote().map_err(tracee(of))?;
        // No signal at its end in the low byte; traced by whoever traces the process, from its first instruction on.
        let flags = u64::from(libc::CLONE_PTRACE.unsigned_abs());
        let made = remote.call(libc::SYS_clone, &[flags, 0, 0, 0, 0]);
        let child = match made {
            Ok(child) => Pid::from_raw(i32::try_from(child).expect("the kernel returns pids")),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let snapshot = Self { of, child, ended: false };
        let call = |name| DumpError::call(child, name, "the copy of the process");
        match waitpid(child, Some(WaitPidFlag::__WALL)).map_err(call("waitpid"))? {
            WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => {}
            _ => return Err(call("waitpid")(Errno::ESRCH)),
        }
        // Should we die, it must not run on where the process was made to make it.
        ptrace::setoptions(child, ptrace::Options::PTRACE_O_EXITKILL)
            .map_err(call("ptrace(PTRACE_SETOPTIONS)"))?;
        remote.drop_scratch().map_err(tracee(of))?;
        Ok(Ok(snapshot))
    }

    /// The copy.
    pub(crate) fn pid(&self) -> Pid {
        self.child
    }

    /// Ends it, and has the process forget it, which takes a short stop.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.end();
        let reaped = ThreadGroup::seize(self.of).and_then(|mut group| {
            let mut remote = group.remote()?;
            let flags = (libc::__WALL | libc::WNOHANG).unsigned_abs();
            let child = u64::from(self.child.as_raw().unsigned_abs());
            // Nothing to wait for: the program waited with __WALL itself.
            let _ = remote.call_raw(libc::SYS_wait4, &[child, 0, u64::from(flags), 0])?;
            group.release(Release::Resume)
        });
        match reaped {
            // It has ended meanwhile, and whoever inherited the copy has reaped it.
            Err(TraceeError::Gone { .. } | TraceeError::Zombie { .. } | TraceeError::Died { .. }) => Ok(()),
            other => other.map_err(DumpError::tracee(self.of)),
        }
    }

    /// Kills it, and takes note of its death as its tracer.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // It is our tracee, so its pid is not free for others before we have waited for it.
        let _ = kill(self.child, Signal::SIGKILL);
        while let Ok(status) = waitpid(self.child, Some(WaitPidFlag::__WALL)) {
            if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                break;
            }
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
            let (of, child) = (self.of, self.child);
            if let Err(error) = (Self { of, child, ended: true }).finish() {
                tracing::warn!(%error, "a zombie is left in the process");
            }
        }
    }
}
