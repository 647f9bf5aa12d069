//! Checkpoints of a running process, one after another, of which the youngest are kept.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{DumpError, Result};
use crate::options::{After, DumpOptions, DumpReport};
use crate::preflight::preflight;
use crate::series::Series;
use crate::survey::dump_with;
use crate::sys;
use crate::tracking::Tracking;

/// How often, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periodic {
    /// Time from the start of one checkpoint to the start of the next; one that takes longer is followed at once.
    pub every: Duration,
    /// How many can be restored at any moment.
    pub keep: NonZeroUsize,
}

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The process has ended.
    Process,
    /// It was to end; the process goes on.
    Asked,
}

/// So many generations, and the next is a full one: a restore looks at all of them.
const LONGEST_LINE: usize = 16;

/// How long an error waits for the end of the process, which would explain it.
const DYING: Duration = Duration::from_secs(1);

/// Makes checkpoints of a process again and again, in directories `1`, `2` and so on below that of the options, until the
/// process ends or `end` can be read from. The link `latest` leads to the youngest. `told` is told of each.
///
/// The process goes on after each, with [`DumpOptions::snapshot`] as soon as a copy holds its memory. Each checkpoint holds
/// what changed since the one before, which is its parent; writes are tracked all the time. Of checkpoints that are not kept
/// the memory stays as long as one that is needs it, and only as far; now and then one is full, so that this ends.
///
/// Of what stands in the way of one checkpoint only ([`DumpError::Obstacles`], except at the first) there is a warning.
///
/// # Errors
/// As [`crate::dump`]. What was made before stays.
pub fn dump_periodically(
    options: &DumpOptions,
    periodic: Periodic,
    end: BorrowedFd<'_>,
    mut told: impl FnMut(&Path, &DumpReport),
) -> Result<Ended> {
    let pid = options.pid;
    let process = sys::pidfd_open(pid).map_err(DumpError::call(pid, "pidfd_open", "the process"))?;
    let obstacles = preflight(options)?;
    if !obstacles.is_empty() {
        return Err(DumpError::Obstacles { obstacles });
    }
    let series = Series::open(&options.images_dir)?;
    let mut run = Run {
        options,
        keep: periodic.keep.get(),
        series,
        parent: None,
        tracking: Tracking::lasting(options),
    };
    let mut due = Instant::now();
    loop {
        if let Some(ended) = wait(pid, process.as_fd(), end, due)? {
            return Ok(ended);
        }
        due = Instant::now() + periodic.every;
        match run.once() {
            Ok((path, report)) => told(&path, &report),
            Err(DumpError::Obstacles { obstacles }) if run.parent.is_some() => {
                let error = DumpError::Obstacles { obstacles };
                tracing::warn!(%error, "a checkpoint is left out");
                run.tracking.distrust();
            }
            Err(error) => match wait(pid, process.as_fd(), end, Instant::now() + DYING)? {
                Some(Ended::Process) => return Ok(Ended::Process),
                _ => return Err(error),
            },
        }
    }
}

struct Run<'a> {
    options: &'a DumpOptions,
    keep: usize,
    series: Series,
    /// The checkpoint before, if it was made by this run.
    parent: Option<u64>,
    tracking: Tracking,
}

impl Run<'_> {
    fn once(&mut self) -> Result<(std::path::PathBuf, DumpReport)> {
        let pid = self.options.pid;
        let number = self.series.next()?;
        let mut options = self.options.clone();
        options.after = After::LeaveRunning;
        options.auto_dedup = false;
        options.images_dir = self.series.path(number);
        options.parent = None;
        if let Some(parent) = self.parent
            && self.series.generations(parent)? < LONGEST_LINE.max(self.keep)
        {
            options.parent = Some(format!("../{parent}").into());
        }
        let mut before = DumpReport::default();
        if self.tracking.is_new() {
            let areas = rewake_memdump::areas(pid).map_err(DumpError::capture(pid))?;
            self.tracking.look(&areas, &mut before)?;
        }
        let mut report = dump_with(&options, Some(&mut self.tracking))?;
        report.freezing += before.freezing;
        report.frozen += before.frozen;
        self.parent = Some(number);
        self.series.publish(number)?;
        self.series.retain(self.keep)?;
        Ok((options.images_dir, report))
    }
}

/// Waits until `due`, unless there is an end before that.
fn wait(
    pid: nix::unistd::Pid,
    process: BorrowedFd<'_>,
    end: BorrowedFd<'_>,
    due: Instant,
) -> Result<Option<Ended>> {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN), PollFd::new(end, PollFlags::POLLIN)];
    loop {
        // The kernel counts milliseconds: rounded up, or the last one would be spent asking.
        let left = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        let timeout = i32::try_from(left)
            .map_or(PollTimeout::MAX, |ms| PollTimeout::try_from(ms).expect("it is not negative"));
        match poll(&mut fds, timeout) {
            Ok(0) if left == 0 => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(DumpError::call(pid, "poll", "the process")(errno)),
        }
        let [process_ended, asked] = fds.each_ref().map(|fd| fd.any().unwrap_or(true));
        if process_ended {
            return Ok(Some(Ended::Process));
        }
        if asked {
            return Ok(Some(Ended::Asked));
        }
    }
}
