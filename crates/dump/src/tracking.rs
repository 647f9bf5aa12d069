//! Writes of a running process, known from one round to the next.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rewake_memdump::{Area, AreaPages, DirtyTracker, PageRun, SoftDirtyTracker, UffdTracker, VmFlags};
use rewake_tracee::{Release, ThreadGroup};

use crate::error::{DumpError, Result};
use crate::options::{DumpOptions, DumpReport};
use crate::sys;

/// What keeps track of the writes of a process. Dropped, it leaves nothing in the process.
#[derive(Debug)]
pub(crate) struct Tracking {
    pid: Pid,
    state: State,
    /// It goes on after a dump.
    lasting: bool,
    /// Something that was told is not in any checkpoint.
    distrusted: bool,
}

enum State {
    /// Begins with the first look.
    New,
    On(Box<dyn DirtyTracker>),
    /// It does not work here.
    Off,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "New",
            Self::On(_) => "On",
            Self::Off => "Off",
        })
    }
}

impl Tracking {
    /// Of the process that is dumped, unless pages are to be compared instead; nothing happens yet.
    pub(crate) fn new(options: &DumpOptions) -> Self {
        let state = if options.compare_pages { State::Off } else { State::New };
        Self { pid: options.pid, state, lasting: false, distrusted: false }
    }

    /// As [`Self::new`], for many dumps.
    pub(crate) fn lasting(options: &DumpOptions) -> Self {
        Self { lasting: true, ..Self::new(options) }
    }

    /// Whether it begins with the next look.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.state, State::New)
    }

    /// Whether it goes on after a dump.
    pub(crate) fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The checkpoint for which there was a look was not made: the next look says that nobody knows.
    pub(crate) fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// Whether writes are seen since the last look.
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.state, State::On(_))
    }

    /// Areas without the mark that our tracking leaves on them.
    pub(crate) fn unmarked(&self, mut areas: Vec<Area>) -> Vec<Area> {
        if self.is_on() {
            areas.iter_mut().for_each(|area| area.vm_flags.remove(VmFlags::UFFD_WP));
        }
        areas
    }

    /// The pages of a running process that were written since the last look; `None` if nobody knows, as at the first one.
    ///
    /// `areas` are its mappings with their flags. What is not tracked yet of them is from now on, for which the process is
    /// stopped as long as that takes.
    pub(crate) fn look(&mut self, areas: &[Area], report: &mut DumpReport) -> Result<Option<Vec<PageRun>>> {
        let pid = self.pid;
        match &mut self.state {
            State::Off => Ok(None),
            State::New => {
                self.state = begin(pid, areas, report)?.map_or(State::Off, State::On);
                Ok(None)
            }
            State::On(tracker) => {
                if tracker.must_stand() {
                    let mut stop = Stop::of(pid)?;
                    let written = tracker.written(areas).map_err(DumpError::capture(pid))?;
                    stop.end(report)?;
                    return Ok(Some(written));
                }
                let written = tracker.written(areas).map_err(DumpError::capture(pid))?;
                if tracker.wants_to_begin() {
                    let mut stop = Stop::of(pid)?;
                    // Dropped on an error, the process goes on.
                    tracker.begin(&rewake_memdump::maps(pid).map_err(DumpError::capture(pid))?);
                    stop.end(report)?;
                    tracker.arm().map_err(DumpError::capture(pid))?;
                }
                Ok(Some(written))
            }
        }
    }

    /// As [`Self::look`], of a process that stands. With `before`, the pages of private memory that were there since the last
    /// look, it may find out in the same go which are to be stored.
    pub(crate) fn look_standing(&mut self, areas: &[Area], before: Option<&[PageRun]>) -> Result<Looked> {
        let failed = DumpError::capture(self.pid);
        let State::On(tracker) = &mut self.state else { return Ok(Looked::default()) };
        if let Some(before) = before
            && let Some(settled) = tracker.settle(areas, before).map_err(failed)?
        {
            return Ok(Looked { written: Some(settled.written), pages: Some(settled.pages) });
        }
        let written = tracker.written(areas).map_err(failed)?;
        if self.lasting && tracker.wants_to_begin() {
            tracker.begin(areas);
            // What is written before it is armed would be missed.
            tracker.arm().map_err(failed)?;
        }
        let written = Some(written).filter(|_| !std::mem::take(&mut self.distrusted));
        Ok(Looked { written, pages: None })
    }
}

/// What a look at a process that stands told.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Pages that may have been written, if anybody knows.
    pub(crate) written: Option<Vec<PageRun>>,
    /// Pages to store, if they were found as well.
    pub(crate) pages: Option<Vec<AreaPages>>,
}

/// A process stopped for a moment.
struct Stop {
    group: Option<ThreadGroup>,
    freezing: Duration,
    stands_since: Instant,
}

impl Stop {
    fn of(pid: Pid) -> Result<Self> {
        let asked = Instant::now();
        let group = ThreadGroup::seize(pid).map_err(DumpError::tracee(pid))?;
        Ok(Self { group: Some(group), freezing: asked.elapsed(), stands_since: Instant::now() })
    }

    fn end(&mut self, report: &mut DumpReport) -> Result<()> {
        if let Some(group) = self.group.take() {
            let pid = group.pid();
            group.release(Release::Resume).map_err(DumpError::tracee(pid))?;
            report.freezing += self.freezing;
            report.frozen += self.stands_since.elapsed();
        }
        Ok(())
    }
}

/// Starts tracking; `None` where it does not work: then pages are compared.
fn begin(pid: Pid, areas: &[Area], report: &mut DumpReport) -> Result<Option<Box<dyn DirtyTracker>>> {
    let theirs = VmFlags::UFFD_MISSING | VmFlags::UFFD_WP | VmFlags::UFFD_MINOR;
    if areas.iter().any(|area| area.vm_flags.intersects(theirs)) {
        tracing::info!(%pid, "somebody else tracks its memory: pages are compared");
        return Ok(None);
    }
    let mut stop = Stop::of(pid)?;
    let made = match &mut stop.group {
        Some(group) => userfaultfd_of(group)?,
        None => Err("it does not stand".to_owned()),
    };
    let tracker = made.and_then(|uffd| UffdTracker::new(pid, uffd).map_err(|error| error.to_string()));
    let mut tracker = match tracker {
        Ok(tracker) => tracker,
        Err(error) => {
            let tracker = SoftDirtyTracker::begin_with(pid).map_err(DumpError::capture(pid))?;
            stop.end(report)?;
            if tracker.is_none() {
                tracing::info!(%pid, error, "writes cannot be tracked: pages are compared");
            }
            return Ok(tracker.map(|tracker| -> Box<dyn DirtyTracker> { Box::new(tracker) }));
        }
    };
    tracker.begin(&rewake_memdump::maps(pid).map_err(DumpError::capture(pid))?);
    stop.end(report)?;
    tracker.arm().map_err(DumpError::capture(pid))?;
    Ok(Some(Box::new(tracker)))
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
    // What was mapped for the calls is no memory of the program's that could be tracked.
    remote.drop_scratch().map_err(DumpError::tracee(pid))?;
    ours.map(Ok).map_err(DumpError::call(pid, "pidfd_getfd", "userfaultfd"))
}
