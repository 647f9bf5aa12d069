//! Carrying out a plan.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use rewake_images::Checkpoint;
use rewake_images::proto::{FownEntry, TaskCoreEntry};
use rewake_tracee::{Call, Release, ThreadGroup};

use crate::error::{RestoreError, Result};
use crate::numbers::Numbers;
use crate::objects;
use crate::options::{RestoreOptions, RestoreReport};
use crate::plan::Plan;
use crate::remote::Table;
use crate::sys::{self, STEP_NAMES, STUB_FAILED, StubSteps};
use crate::{aspace, fetch, locks, memory, state, threads, verify};

/// So many descriptors are closed by a thread of their own.
const MANY: usize = 256;

/// Restores what the plan says. The new process is a child of the caller.
///
/// # Errors
/// [`RestoreError::Files`] before anything is created; [`RestoreError::PidInUse`]; the others when something fails.
/// Whatever was created by then is gone.
pub fn apply(plan: &Plan, checkpoint: &Checkpoint, options: &RestoreOptions) -> Result<RestoreReport> {
    let begun = Instant::now();
    let room = DescriptorRoom::make(plan)?;
    let checking = Instant::now();
    let by_name = objects::by_name(plan)?;
    let (files_checked, verified) = verify::files(plan, checkpoint, options, &by_name)?;
    let checking = checking.elapsed();
    let tc = plan.task.cores.first().and_then(|(_, core)| core.tc.as_ref());
    let tc = tc.ok_or_else(|| {
        RestoreError::inconsistent("the first core image", "it says nothing of the process")
    })?;
    let files = objects::open(plan, checkpoint, &by_name, verified)?;
    let pages = files.pages;
    let mut numbers = Numbers::raise(plan, files)?;
    let mut stub = Stub::spawn(plan, &numbers)?;
    drop(room);
    let group = stub.seize()?;
    let mut report = RestoreReport {
        pid: plan.pid,
        threads: plan.threads.len(),
        mappings: plan.areas.len(),
        descriptors: plan.descriptors.len(),
        pages,
        checking,
        files: files_checked,
        ..Default::default()
    };
    let stopped = options.leave_stopped || plan.stopped;
    let owners = objects::owners(plan);
    let handed_over = numbers.handed_over(&owners);
    thread::scope(|scope| {
        // Of thousands it takes milliseconds, in which this thread mostly waits for the new process.
        let _closing = (handed_over.len() > MANY).then(|| scope.spawn(|| drop(handed_over)));
        rebuild(group, plan, checkpoint, options, &numbers, &owners, tc, stopped, &mut report)
    })?;
    stub.keep();
    report.total = begun.elapsed();
    Ok(report)
}

#[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
fn rebuild(
    mut group: ThreadGroup,
    plan: &Plan,
    checkpoint: &Checkpoint,
    options: &RestoreOptions,
    numbers: &Numbers,
    owners: &[(u32, &FownEntry)],
    tc: &TaskCoreEntry,
    stopped: bool,
    report: &mut RestoreReport,
) -> Result<()> {
    let pid = plan.pid;
    let stub_areas = rewake_memdump::maps(group.pid())
        .map_err(|error| RestoreError::unsupported("the stub", error.to_string()))?;
    let mut store = checkpoint.memory(pid.into())?;
    fetch::kept_back(&mut store, pid, options)?;
    let mut remote = group.remote_at(plan.scratch).map_err(RestoreError::tracee(pid))?;
    aspace::clear(&mut remote, plan, &stub_areas, &store)?;
    // While nothing is mapped: the kernel changes the program of no process that has the old one mapped.
    let exe = numbers.files.get(&plan.task.mm.exe_file_id).copied();
    let exe = exe.ok_or_else(|| RestoreError::inconsistent("the program", "its file is not open"))?;
    aspace::describe(&mut remote, plan, exe)?;
    aspace::map(&mut remote, plan, &numbers.files, &numbers.mapped, &numbers.old_shared)?;
    let copying = Instant::now();
    report.pages += memory::fill(&mut remote, plan, &store, options)?;
    report.copying = copying.elapsed();
    aspace::advise(&mut remote, plan)?;
    let mut table = Table::new(pid);
    let last = u64::from(u32::MAX);
    let floor = u64::from(numbers.floor.unsigned_abs());
    table.add("close_range", "what the stub had", Call::new(libc::SYS_close_range, &[floor, last, 0]));
    table.run(&mut remote)?;
    locks::take(&mut remote, plan)?;
    state::login(&mut remote, plan, tc)?;
    state::sigactions(&mut remote, plan, tc)?;
    threads::create(&mut remote, plan)?;
    state::limits(&mut remote, plan, tc)?;
    state::timers(&mut remote, plan, tc)?;
    objects::set_owners(owners, &numbers.files)?;
    let finals = threads::finals(&remote, plan)?;
    threads::set_up(&mut remote, plan)?;
    state::settings(&mut remote, plan, tc)?;
    state::from_outside(plan, tc)?;
    aspace::seal(&mut remote, plan)?;
    state::pending(&mut remote, plan, tc)?;
    remote.drop_scratch().map_err(RestoreError::tracee(pid))?;
    for (tid, state) in finals {
        let thread = group.thread_mut(tid);
        thread
            .ok_or_else(|| RestoreError::inconsistent(format!("thread {tid}"), "it is not there"))?
            .set_final(state);
    }
    group.release(if stopped { Release::Stop } else { Release::Resume }).map_err(RestoreError::tracee(pid))
}

/// Room for descriptors while files are handed over: a higher limit, and a table that need not grow.
///
/// Growing it while several threads use it costs many milliseconds each time, as the kernel waits until no processor
/// looks at the old one any more: so before there are any.
#[derive(Debug)]
struct DescriptorRoom(Option<(u64, u64)>);

impl DescriptorRoom {
    fn make(plan: &Plan) -> Result<Self> {
        let failed = || RestoreError::call("setrlimit", "the number of descriptors");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed())?;
        let highest = plan.descriptors.iter().map(|fd| u64::from(fd.fd)).max().unwrap_or(0);
        let needed = highest + 2 * plan.task.files.len() as u64 + 64;
        let room = if needed <= soft {
            Self(None)
        } else {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed())?;
            Self(Some((soft, hard)))
        };
        if let (Ok(last), Ok(any)) = (RawFd::try_from(needed.min(hard).saturating_sub(1)), File::open("/")) {
            // Only makes what follows faster.
            let _ = sys::dup_above(any.as_fd(), last);
        }
        Ok(room)
    }
}

impl Drop for DescriptorRoom {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.0 {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}

/// The new process before it is anybody: killed when dropped, unless kept.
#[derive(Debug)]
struct Stub {
    pid: i32,
    kept: bool,
}

impl Stub {
    fn spawn(plan: &Plan, numbers: &Numbers) -> Result<Self> {
        let pid = plan.pid.cast_signed();
        let (ready, tell) = pipe2(OFlag::O_CLOEXEC).map_err(RestoreError::call("pipe2", "the stub"))?;
        let tell = sys::dup_above(tell.as_fd(), numbers.floor)
            .map_err(RestoreError::call("fcntl(F_DUPFD)", "a pipe"))?;
        let steps = steps(plan, numbers, tell.as_raw_fd())?;
        sys::spawn_stub(pid, &steps).map_err(|source| match source {
            Errno::EEXIST => RestoreError::PidInUse { pid: plan.pid },
            source => RestoreError::call("clone3", format!("pid {pid}"))(source),
        })?;
        let stub = Self { pid, kept: false };
        drop(tell);
        let mut byte = [0];
        let read =
            File::from(ready).read(&mut byte).map_err(RestoreError::file("a pipe to the stub", "read"))?;
        if read == 0 { Err(stub.failure()) } else { Ok(stub) }
    }

    /// Which step it could not take.
    fn failure(&self) -> RestoreError {
        let status = sys::wait(self.pid).unwrap_or(0);
        let step = libc::WEXITSTATUS(status) - STUB_FAILED;
        let name = usize::try_from(step).ok().and_then(|step| STEP_NAMES.get(step));
        let why =
            name.map_or_else(|| format!("it ended with status {status:#x}"), |name| format!("{name} failed"));
        RestoreError::inconsistent("the new process", why)
    }

    fn seize(&mut self) -> Result<ThreadGroup> {
        ThreadGroup::seize_stub(Pid::from_raw(self.pid))
            .map_err(RestoreError::tracee(self.pid.unsigned_abs()))
    }

    fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if !self.kept {
            // Gone already, if the group that held it was dropped.
            if kill(Pid::from_raw(self.pid), Signal::SIGKILL).is_ok() {
                let _ = sys::wait(self.pid);
            }
        }
    }
}

fn steps(plan: &Plan, numbers: &Numbers, tell: RawFd) -> Result<StubSteps> {
    let task = &plan.task;
    let root = task.files.get(&task.fs.root_id).and_then(|file| file.reg.as_ref());
    let root = match root {
        Some(reg) if reg.name != "/" => Some(numbers.of(task.fs.root_id)?),
        _ => None,
    };
    Ok(StubSteps {
        session: plan.session_leader,
        group: plan.group_leader,
        root,
        cwd: numbers.of(task.fs.cwd_id)?,
        umask: task.fs.umask.unwrap_or(0o022),
        moves: numbers.moves(plan, tell)?,
        close: gaps(plan, numbers.floor.unsigned_abs()),
        epolls: objects::epoll_steps(plan)?,
        tell,
    })
}

/// The numbers below `floor` that the process does not use.
fn gaps(plan: &Plan, floor: u32) -> Vec<(u32, u32)> {
    let mut used: Vec<u32> = plan.descriptors.iter().map(|fd| fd.fd).collect();
    used.push(floor);
    used.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = 0;
    for fd in used {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps
}
