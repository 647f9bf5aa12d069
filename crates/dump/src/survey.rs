//! The dump itself: freeze, look, write, let go.

use std::os::fd::RawFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::unistd::Pid;
use rewake_images::CheckpointWriter;
use rewake_images::extra::{OptionExtra, TaskExtra};
use rewake_images::proto::{CoreEntry, FdinfoEntry, FsEntry, MmEntry, VmaEntry};
use rewake_memdump::{Area, AreaKind, CaptureError, same_mappings};
use rewake_tracee::{Release, ThreadGroup};

use crate::answers::{Answers, Flags, Standing, ask};
use crate::asked::ThreadState;
use crate::cookies::FileCookies;
use crate::core::{self, Process};
use crate::error::{DumpError, Result};
use crate::memory::{Known, Memory, Parent};
use crate::objects::{DescriptorTable, FileTable, Ghost, Glance, Search, refused};
use crate::options::{After, DumpOptions, DumpReport};
use crate::preflight::{self, Pipes, Running};
use crate::proc::Stat;
use crate::snapshot::{self, Snapshot};
use crate::tracking::Tracking;
use crate::{extra, mm, parallel, sys, write};

/// A process as it is written down.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) pid: Pid,
    pub(crate) stat: Stat,
    pub(crate) cores: Vec<(Pid, CoreEntry)>,
    pub(crate) mm: MmEntry,
    pub(crate) fs: FsEntry,
    pub(crate) fdinfo: Vec<FdinfoEntry>,
    pub(crate) extra: TaskExtra,
}

/// Dumps a process.
///
/// # Errors
/// [`DumpError::Obstacles`] if it holds what cannot be dumped; the others when something fails. In every case the
/// process goes on as before and no checkpoint is left behind.
pub fn dump(options: &DumpOptions) -> Result<DumpReport> {
    dump_with(options, None)
}

/// As [`dump`], with what `tracking` knows of writes since the parent was made.
pub(crate) fn dump_with(options: &DumpOptions, tracking: Option<&mut Tracking>) -> Result<DumpReport> {
    let begun = Instant::now();
    let pid = options.pid;
    let mut own = Tracking::new(options);
    let rounds = tracking.is_some();
    let tracking = tracking.unwrap_or(&mut own);
    let flags = Flags::of(options, rounds);
    let areas = || match flags {
        Flags::Before => rewake_memdump::areas(pid).map_err(capture(pid)),
        Flags::Standing => rewake_memdump::maps(pid).map_err(capture(pid)),
    };
    let looked = preflight::look(options, Search::Quick, areas, |areas| tracking.unmarked(areas))?;
    let Running { mut areas, descriptors } = looked.unobstructed()?;
    let mut writer = CheckpointWriter::create(&options.images_dir)?;
    let parent = options.parent.as_ref().map(|link| writer.set_parent(link)).transpose()?;
    let elsewhere = options.memory_target.is_some();
    let parent = parent.map(|dir| Parent::open(dir, pid, elsewhere)).transpose()?;

    let hashing = Instant::now();
    let mut cookies = FileCookies::prepare(pid, &areas, &descriptors, &options.files);
    let mut report = DumpReport { hashing: hashing.elapsed(), ..Default::default() };
    options.go_on()?;

    // What changed since a parent of another run nobody has watched. It is compared now, while the process runs and its
    // writes are seen, so that only those are left to look at when it stands. A snapshot is compared when it runs again.
    let (mut before, mut same) = (None, None);
    if !options.wants_snapshot() && !tracking.is_lasting() {
        let compared = parent.as_ref().filter(|parent| parent.has_private() && !rounds);
        if compared.is_some() {
            tracking.look(&areas, &mut report)?;
        }
        if tracking.is_on() {
            let mut memory = Memory::new(pid, &writer, options, parent.as_ref(), &mut report);
            let there = memory.there_now(&areas)?;
            if compared.is_some() {
                same = Some(memory.same_now(&there)?);
                areas = tracking.unmarked(rewake_memdump::areas(pid).map_err(capture(pid))?);
            }
            before = Some(there);
        }
    }

    tell_of_control_groups(pid);
    let freezing = Instant::now();
    // Dropped after the group: it stops the process once more, to have it forget the copy.
    let snapshot;
    let mut group = ThreadGroup::seize(pid).map_err(DumpError::tracee(pid))?;
    let frozen = Instant::now();
    report.freezing += frozen.duration_since(freezing);
    let stood = report.frozen;
    let areas = match flags {
        Flags::Before => tracking.unmarked(settled(pid, areas)?),
        Flags::Standing => rewake_memdump::maps(pid).map_err(capture(pid))?,
    };
    if let Some(vdso) = areas.iter().find(|area| area.kind == AreaKind::Vdso) {
        group.set_vdso(vdso.range()).map_err(DumpError::tracee(pid))?;
    }
    let mut files = FileTable::new(options);
    let Standing { areas, pages, answers } = ask(&mut group, areas, flags)?;
    for area in &areas {
        if let Some(refusal) = mm::refusal(area) {
            return Err(refused(pid, &format!("memory {:#x}-{:#x}", area.start, area.end), refusal));
        }
    }
    let mut task = survey(&group, answers, &areas, &descriptors, &mut files)?;
    cookies.take(&mut files, &executable(&task));
    report.threads = task.cores.len();
    report.mappings = areas.len();
    report.descriptors = task.fdinfo.len();
    let looked = tracking.look_standing(&areas, before.as_deref())?;
    let known = match &looked.written {
        Some(written) => Known::Written { written, same: same.as_deref(), compare: tracking.is_lasting() },
        None => Known::Nothing,
    };
    let mut memory = Memory::new(pid, &writer, options, parent.as_ref(), &mut report);
    memory.known = known;
    memory.surveyed = looked.pages.or(pages);
    memory.shared(&files.shared)?;
    snapshot = take_snapshot(options, &mut group, &areas)?;
    if snapshot.is_none() {
        memory.private(&areas, Some(&mut task.extra))?;
    }
    write::images(&writer, &task, &files)?;
    write::own_cookies(&writer, cookies.own())?;

    let held = match options.after {
        // Not before the checkpoint is safe.
        After::Kill => Some(group),
        After::LeaveRunning => released(group, Release::Resume)?,
        After::LeaveStopped => released(group, Release::Stop)?,
    };
    report.frozen = stood + frozen.elapsed();
    if let Some(snapshot) = snapshot {
        let mut memory = Memory::new(pid, &writer, options, parent.as_ref(), &mut report);
        memory.source = snapshot.pid();
        memory.known = known;
        memory.private(&areas, Some(&mut task.extra))?;
        snapshot.finish()?;
    }
    write::task_extra(&writer, &task)?;
    write::commit(writer, &task, options)?;
    if let Some(group) = held {
        report.frozen = stood + frozen.elapsed();
        released(group, Release::Kill)?;
    }
    report.files = cookies.finish(&task, &files);
    report.total = begun.elapsed();
    finished(options, &report)?;
    Ok(report)
}

/// Control groups are not restored, which matters if they are not those of whoever restores.
fn tell_of_control_groups(pid: Pid) {
    let groups = |of: &str| std::fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap_or_default();
    if groups(&pid.to_string()) != groups("self") {
        tracing::warn!(%pid, "its control groups are not kept: it will be in those of whoever restores it");
    }
}

/// Lets go of the process: nothing of it is held any more.
fn released(group: ThreadGroup, how: Release) -> Result<Option<ThreadGroup>> {
    let pid = group.pid();
    group.release(how).map_err(DumpError::tracee(pid))?;
    Ok(None)
}

/// What remains to be done when the checkpoint is in its place.
pub(crate) fn finished(options: &DumpOptions, report: &DumpReport) -> Result<()> {
    write::stats(options, report);
    // Pages at another place are not ours to free.
    if options.auto_dedup && options.parent.is_some() && options.memory_target.is_none() {
        rewake_memdump::dedup(&options.images_dir)
            .map_err(|source| DumpError::Capture { pid: options.pid, source })?;
    }
    Ok(())
}

/// A copy of the process to read its memory from, if that is asked for and possible.
fn take_snapshot(options: &DumpOptions, group: &mut ThreadGroup, areas: &[Area]) -> Result<Option<Snapshot>> {
    if !options.wants_snapshot() {
        return Ok(None);
    }
    if !snapshot::holds_all(areas) {
        tracing::warn!(
            "it has memory that no child gets (MADV_DONTFORK, MADV_WIPEONFORK): it stands while all is copied"
        );
        return Ok(None);
    }
    match Snapshot::take(group)? {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) => {
            tracing::warn!(error, "no copy of the process can be made: it stands while its memory is copied");
            Ok(None)
        }
    }
}

/// Ids of the files whose code can run.
fn executable(task: &Task) -> Vec<u32> {
    let code = |vma: &&VmaEntry| vma.prot & rewake_memdump::Prot::EXEC.bits() != 0 && mm::of_file(vma);
    let mapped = task.mm.vmas.iter().filter(code);
    let ids = mapped.filter_map(|vma| u32::try_from(vma.shmid).ok());
    ids.chain([task.mm.exe_file_id]).collect()
}

fn capture(pid: Pid) -> impl FnOnce(CaptureError) -> DumpError {
    move |source| DumpError::Capture { pid, source }
}

/// The mappings of a process that stands: those read before if they still hold, else read again.
fn settled(pid: Pid, before: Vec<Area>) -> Result<Vec<Area>> {
    let now = rewake_memdump::maps(pid).map_err(capture(pid))?;
    if same_mappings(&before, &now) { Ok(before) } else { rewake_memdump::areas(pid).map_err(capture(pid)) }
}

fn survey(
    group: &ThreadGroup,
    answers: Answers,
    areas: &[Area],
    seen: &[Glance],
    files: &mut FileTable,
) -> Result<Task> {
    let pid = group.pid();
    let Answers { stat, status, timers, state, threads: thread_states, lock_future, policies, table, open } =
        answers;
    // Files that are mapped come first, as in every checkpoint.
    let exe = files.add_link(pid, "exe", 0)?;
    let mut task = Task {
        pid,
        cores: Vec::new(),
        mm: MmEntry::default(),
        fs: FsEntry::default(),
        fdinfo: Vec::new(),
        extra: TaskExtra { lock_future, ..Default::default() },
        stat: stat.clone(),
    };
    let mut vmas = Vec::with_capacity(areas.len());
    for area in areas {
        let (vma, extra) = mm::vma(pid, area, files)?;
        vmas.push(vma);
        if !extra.is_plain() {
            task.extra.areas.push(extra);
        }
    }
    for (area, policy) in policies {
        task.extra.area_mut(area.start, area.end).memory_policy = Some(policy);
    }
    mm::merge_vvar(&mut vmas);
    task.fs = FsEntry {
        cwd_id: files.add_link(pid, "cwd", 0)?.id,
        root_id: files.add_link(pid, "root", 0)?.id,
        umask: Some(status.umask),
    };

    task.fdinfo = descriptors(pid, &table, &open, seen, files)?;
    task.mm = mm::entry(pid, &stat, &state, exe.id, vmas)?;
    task.extra.timer_slack_ns = Some(state.timer_slack_ns);
    task.extra.options.clone_from(&state.options);
    task.extra.coredump_filter = extra::coredump_filter(pid)?;
    let process = Process { pid, stat, status, timers, state };
    let leader = thread_states.first().expect("a group has its first thread").clone();
    let usual = extra::Usual::of_this_machine();
    for (thread, state) in group.threads().iter().zip(&thread_states) {
        let tid = thread.tid();
        let sched = sys::sched_getattr(tid).map_err(DumpError::call(tid, "sched_getattr", "the thread"))?;
        task.cores.push((tid, core::survey(&process, thread, state, &leader, &sched)?));
        task.extra.threads.extend(extra::thread(
            thread,
            &sched,
            usual,
            options(state, &leader),
            state.memory_policy.clone(),
        )?);
    }
    task.extra.ghosts = files.ghosts.iter().filter_map(Ghost::extra).collect();
    Ok(task)
}

/// Settings of a thread, as far as they are not what all have.
fn options(thread: &ThreadState, leader: &ThreadState) -> Vec<OptionExtra> {
    let option = libc::PR_SET_TIMERSLACK.unsigned_abs();
    let slack = OptionExtra { option, value: thread.timer_slack_ns };
    let own = (thread.timer_slack_ns != leader.timer_slack_ns).then_some(slack);
    own.into_iter().chain(thread.options.iter().copied()).collect()
}

/// `open` are the numbers that are open, each with whether it is closed by execve(2).
fn descriptors(
    pid: Pid,
    table: &DescriptorTable,
    open: &[(RawFd, bool)],
    seen: &[Glance],
    files: &mut FileTable,
) -> Result<Vec<FdinfoEntry>> {
    let mut entries = Vec::with_capacity(open.len());
    let mut pipes = Pipes::default();
    let take = |&(fd, close_on_exec): &(RawFd, bool)| -> Result<_> {
        let place = seen.binary_search_by_key(&fd, |glance| glance.fd).ok();
        let taken = table.take(fd, close_on_exec, place.and_then(|place| seen.get(place)))?;
        taken.ok_or_else(|| DumpError::call(pid, "pidfd_getfd", format!("descriptor {fd}"))(Errno::EBADF))
    };
    parallel::in_order(open, take, |file| {
        let pipe = file.is_pipe().then(|| file.again()).transpose()?;
        let (fd, flags) = (file.fd.unsigned_abs(), u32::from(file.close_on_exec));
        let (id, kind) = files.add_fd(file)?;
        entries.push(FdinfoEntry { id, flags, r#type: kind.into(), fd, ..Default::default() });
        if let Some(pipe) = pipe {
            pipes.add(pipe);
        }
        Ok(())
    })?;
    match pipes.foreign().into_iter().next() {
        Some((object, refusal)) => Err(refused(pid, &object, refusal)),
        None => Ok(entries),
    }
}
