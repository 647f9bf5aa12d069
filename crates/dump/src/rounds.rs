//! Several rounds of copying memory while the process runs, and the dump of the rest, in one go.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rewake_memdump::{DirtyTracker, UffdTracker, VmFlags};
use rewake_tracee::{Release, ThreadGroup};

use crate::error::{DumpError, Result};
use crate::options::{DumpOptions, DumpReport};
use crate::pre_dump::pre_dump_with;
use crate::survey::dump_with;
use crate::sys;

/// How many rounds come before the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// So many.
    Fixed(usize),
    /// Until the dump should freeze the process no longer than this, or another round does not pay.
    Auto {
        /// The longest time it should stand.
        max_freeze: Duration,
    },
}

/// A round that leaves more than this share of the one before it to copy (in percent) is the last: the process writes as
/// fast as we copy.
const WORTHWHILE_PERCENT: u64 = 70;
/// With [`Rounds::Auto`], never more than these.
const MOST_ROUNDS: usize = 16;

/// Dumps a process after copying its memory in rounds while it runs.
///
/// The rounds are written to `pre-1`, `pre-2` and so on inside the checkpoint, each the parent of the next. Writes are
/// tracked in between; where the kernel cannot do that, pages are compared. Gives the report of every round and then of
/// the dump.
///
/// # Errors
/// As [`crate::dump`]. Nothing is left behind, also of the rounds that succeeded.
pub fn dump_in_rounds(options: &DumpOptions, rounds: Rounds) -> Result<Vec<DumpReport>> {
    let existed = options.images_dir.exists();
    let dir = &options.images_dir;
    std::fs::create_dir_all(dir).map_err(DumpError::proc(options.pid, dir.display().to_string()))?;
    let mut made = Vec::new();
    let done = all_rounds(options, rounds, &mut made);
    if done.is_err() {
        // Best effort: the error that counts is the one we already have.
        for round in &made {
            let _ = std::fs::remove_dir_all(round);
        }
        if !existed {
            let _ = std::fs::remove_dir(dir);
        }
    }
    done
}

fn all_rounds(options: &DumpOptions, rounds: Rounds, made: &mut Vec<PathBuf>) -> Result<Vec<DumpReport>> {
    let limit = match rounds {
        Rounds::Fixed(count) => count,
        Rounds::Auto { .. } => MOST_ROUNDS,
    };
    let mut reports: Vec<DumpReport> = Vec::new();
    let mut tracking = None;
    for round in 1..=limit {
        if matches!(rounds, Rounds::Auto { max_freeze } if !pays(&reports, max_freeze)) {
            break;
        }
        let mut pre = options.clone();
        let name = |round: usize| format!("pre-{round}");
        pre.images_dir = options.images_dir.join(name(round));
        pre.parent = match round {
            1 => options.parent.as_ref().map(|parent| Path::new("..").join(parent)),
            _ => Some(Path::new("..").join(name(round - 1))),
        };
        let seizing = Instant::now();
        if round == 1 {
            tracking = track(options.pid)?;
        }
        let frozen = if round == 1 { seizing.elapsed() } else { Duration::ZERO };
        // What was written since a parent that is not of this run, nobody knows.
        let first_with_parent = round == 1 && options.parent.is_some();
        let mut report = pre_dump_with(&pre, tracking.as_deref_mut(), first_with_parent)?;
        made.push(pre.images_dir);
        report.frozen += frozen;
        reports.push(report);
    }
    let mut last = options.clone();
    if !reports.is_empty() {
        last.parent = Some(format!("pre-{}", reports.len()).into());
    }
    reports.push(dump_with(&last, tracking.as_deref_mut())?);
    Ok(reports)
}

/// Whether another round is worth it, after those of `reports`.
fn pays(reports: &[DumpReport], max_freeze: Duration) -> bool {
    let Some((last, before)) = reports.split_last() else { return true };
    let Some(previous) = before.last() else { return true };
    // What the last round had to copy was written during the one before it; the dump will find about as much.
    let expected = last.choosing + last.copying;
    expected > max_freeze && last.pages * 100 < previous.pages * WORTHWHILE_PERCENT
}

/// Starts tracking, which stops the process for two system calls. `None` where it does not work: then pages are compared.
fn track(pid: Pid) -> Result<Option<Box<dyn DirtyTracker>>> {
    let areas = rewake_memdump::areas(pid).map_err(|source| DumpError::Capture { pid, source })?;
    let theirs = VmFlags::UFFD_MISSING | VmFlags::UFFD_WP | VmFlags::UFFD_MINOR;
    if areas.iter().any(|area| area.vm_flags.intersects(theirs)) {
        tracing::info!(%pid, "somebody else tracks its memory: pages are compared");
        return Ok(None);
    }
    let mut group = ThreadGroup::seize(pid).map_err(DumpError::tracee(pid))?;
    let made = userfaultfd_of(&mut group);
    group.release(Release::Resume).map_err(DumpError::tracee(pid))?;
    let tracker = match made? {
        Ok(uffd) => UffdTracker::new(pid, uffd).map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    match tracker {
        Ok(tracker) => Ok(Some(Box::new(tracker))),
        Err(error) => {
            tracing::info!(%pid, error, "writes cannot be tracked: pages are compared");
            Ok(None)
        }
    }
}

/// A userfaultfd(2) of the process, which keeps no descriptor of it; or why the kernel gives it none.
fn userfaultfd_of(group: &mut ThreadGroup) -> Result<std::result::Result<OwnedFd, String>> {
    const USER_MODE_ONLY: u64 = 1;
    let pid = group.pid();
    let flags = u64::from((libc::O_CLOEXEC | libc::O_NONBLOCK).unsigned_abs());
    let mut remote = group.remote().map_err(DumpError::tracee(pid))?;
    // Without privileges only the second is allowed, which is as good: the kernel resolves these faults itself.
    let made = remote
        .call(libc::SYS_userfaultfd, &[flags])
        .or_else(|_| remote.call(libc::SYS_userfaultfd, &[flags | USER_MODE_ONLY]));
    let fd = match made {
        Ok(fd) => fd,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let number = i32::try_from(fd).expect("the kernel returns descriptors");
    let ours = sys::pidfd_open(pid).and_then(|pidfd| sys::pidfd_getfd(pidfd.as_fd(), number));
    remote.call(libc::SYS_close, &[fd]).map_err(DumpError::tracee(pid))?;
    ours.map(Ok).map_err(DumpError::call(pid, "pidfd_getfd", "userfaultfd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_on_while_they_pay() {
        let report =
            |pages, ms| DumpReport { pages, copying: Duration::from_millis(ms), ..Default::default() };
        let limit = Duration::from_millis(5);
        assert!(pays(&[], limit), "the first always");
        assert!(pays(&[report(1000, 100)], limit), "nothing to judge by yet");
        assert!(pays(&[report(1000, 100), report(100, 10)], limit));
        assert!(!pays(&[report(1000, 100), report(100, 4)], limit), "short enough");
        assert!(!pays(&[report(1000, 100), report(900, 90)], limit), "it writes as fast as we copy");
    }
}
