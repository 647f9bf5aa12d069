//! What a process that stands is asked, and the flags of its mappings, which take the kernel as long.

use std::ops::Range;
use std::os::fd::RawFd;
use std::thread;

use nix::unistd::Pid;
use rewake_images::extra::PolicyExtra;
use rewake_memdump::{Area, AreaPages, take_flags};
use rewake_tracee::ThreadGroup;

use crate::asked::{ProcessState, ThreadState};
use crate::error::{DumpError, Result};
use crate::objects::{DescriptorTable, Refusal, Search, refused};
use crate::options::DumpOptions;
use crate::proc::{self, PosixTimer, Stat, Status};
use crate::{asked, extra, policy, preflight};

/// When the flags of mappings are read, which costs the kernel a walk over all pages and 25 lines of text for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flags {
    /// While the process runs, for it stands as short as possible. What is mapped is checked when it stands.
    Before,
    /// When it stands, while it is asked for what only it can tell: nothing can change any more. For a process that stands anyway
    /// while its memory is copied.
    Standing,
}

impl Flags {
    pub(crate) fn of(options: &DumpOptions, rounds: bool) -> Self {
        // Whoever tracks writes has to know the flags before.
        let early = options.wants_snapshot() || rounds || options.parent.is_some();
        if early { Self::Before } else { Self::Standing }
    }
}

/// What only the task can tell.
pub(crate) struct Answers {
    pub(crate) stat: Stat,
    pub(crate) status: Status,
    pub(crate) timers: Vec<PosixTimer>,
    pub(crate) state: ProcessState,
    pub(crate) threads: Vec<ThreadState>,
    pub(crate) lock_future: u32,
    pub(crate) policies: Vec<(Range<u64>, PolicyExtra)>,
    pub(crate) table: DescriptorTable,
    pub(crate) open: Vec<(RawFd, bool)>,
}

/// A process that stands: its mappings with their flags, the pages to store if they were chosen already, and what only it
/// can tell.
pub(crate) struct Standing {
    pub(crate) areas: Vec<Area>,
    pub(crate) pages: Option<Vec<AreaPages>>,
    pub(crate) answers: Answers,
}

/// Asks the task.
pub(crate) fn ask(group: &mut ThreadGroup, mut areas: Vec<Area>, flags: Flags) -> Result<Standing> {
    let pid = group.pid();
    let failed = DumpError::capture(pid);
    if flags == Flags::Before {
        return Ok(Standing { answers: answers(group, &areas)?, areas, pages: None });
    }
    let (answers, mut pages, flagged) = thread::scope(|scope| -> Result<_> {
        let flagged = scope.spawn(|| rewake_memdump::areas(pid));
        let answers = answers(group, &areas)?;
        let pages = rewake_memdump::survey(pid, &areas).map_err(failed)?;
        let flagged = flagged.join().expect("reading mappings does not panic");
        Ok((answers, pages, flagged.map_err(failed)?))
    })?;
    if !take_flags(&mut areas, &flagged) {
        // There is nothing of ours beside them now.
        let areas = rewake_memdump::areas(pid).map_err(failed)?;
        return Ok(Standing { answers, areas, pages: None });
    }
    rewake_memdump::narrow(&mut pages, &areas);
    Ok(Standing { answers, areas, pages: Some(pages) })
}

fn answers(group: &mut ThreadGroup, areas: &[Area]) -> Result<Answers> {
    let pid = group.pid();
    let (stat, status, timers) = (Stat::read(pid)?, Status::read(pid)?, proc::posix_timers(pid)?);
    let timer_ids: Vec<u32> = timers.iter().map(|timer| timer.id).collect();
    let mut remote = group.remote().map_err(DumpError::tracee(pid))?;
    let lock_future = extra::lock_future(&remote, status.locked_kib)?;
    let state = asked::process(&mut remote, &timer_ids)?;
    if state.has_children {
        return Err(children(pid)?);
    }
    if state.local_descriptors {
        let reason = "segments of its own (modify_ldt) cannot be dumped".to_owned();
        let refusal = Refusal { reason, remedy: "none but to do without them" };
        return Err(refused(pid, "local descriptor table", refusal));
    }
    let threads = asked::threads(&mut remote)?;
    let policies = policy::of_areas(&mut remote, areas)?;
    let table = DescriptorTable::open(pid)?;
    let open = asked::descriptors(&mut remote, &table.numbers(status.fd_size)?, table.count()?)?;
    // What is mapped into the process for the questions must not be there while its memory is copied.
    // Nor may this thread, and those it makes, remain bound to one CPU.
    remote.finish().map_err(DumpError::tracee(pid))?;
    Ok(Answers { stat, status, timers, state, threads, lock_future, policies, table, open })
}

/// Why a process with children, or one that traces others, cannot be dumped.
fn children(pid: Pid) -> Result<DumpError> {
    let found = preflight::children(pid, Search::Thorough)?.into_iter().next();
    let (object, refusal) = found.unwrap_or_else(|| {
        let reason = "it traces another process (ptrace), which cannot be dumped".to_owned();
        ("tracing".to_owned(), Refusal { reason, remedy: "have it detach first" })
    });
    Ok(refused(pid, &object, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::After;

    #[test]
    fn flags_are_read_early_only_for_dumps_that_are_to_be_short() {
        let options = |change: fn(&mut DumpOptions)| {
            let mut options = DumpOptions::new(Pid::from_raw(1), "nowhere");
            change(&mut options);
            options
        };
        assert_eq!(Flags::of(&options(|_| {}), false), Flags::Standing);
        assert_eq!(Flags::of(&options(|o| o.after = After::LeaveRunning), false), Flags::Standing);
        assert_eq!(Flags::of(&options(|o| o.snapshot = true), false), Flags::Standing, "it is killed");
        let snapshot = options(|o| (o.snapshot, o.after) = (true, After::LeaveRunning));
        assert_eq!(Flags::of(&snapshot, false), Flags::Before);
        assert_eq!(Flags::of(&options(|o| o.parent = Some("../1".into())), false), Flags::Before);
        assert_eq!(Flags::of(&options(|_| {}), true), Flags::Before);
    }
}
