//! What stands in the way of a dump, before anything is frozen.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::unistd::Pid;
use rewake_memdump::Area;

use crate::error::{DumpError, Result};
use crate::objects::{self, DescriptorTable, Glance, ObjectKind, OpenFile, Refusal, Search};
use crate::options::DumpOptions;
use crate::proc::{self, Stat, Status};
use crate::{mm, parallel};

/// Something that cannot be dumped.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Obstacle {
    /// The task.
    pub pid: i32,
    /// What it holds.
    pub object: String,
    /// Why that cannot be dumped.
    pub reason: String,
    /// What can be done about it.
    pub remedy: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, object, reason, remedy } = self;
        write!(f, "pid {pid}: {object}: {reason} ({remedy})")
    }
}

/// Everything found that stands in the way of the dump that is asked for. Empty if the process can be dumped.
///
/// The task is looked at while it runs: what it does in between may still be an obstacle to the dump itself.
///
/// # Errors
/// [`DumpError::Proc`] for a process that is not there or may not be looked at.
pub fn preflight(options: &DumpOptions) -> Result<Vec<Obstacle>> {
    let pid = options.pid;
    let maps = || rewake_memdump::maps(pid).map_err(|source| DumpError::Capture { pid, source });
    look(options, Search::Thorough, maps, |areas| areas).map(|found| found.obstacles)
}

/// What a look at a process found while it ran.
#[derive(Debug)]
pub(crate) struct Looked {
    obstacles: Vec<Obstacle>,
    running: Running,
}

/// A process that runs, as it was when it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) areas: Vec<Area>,
    /// By number, ascending.
    pub(crate) descriptors: Vec<Glance>,
}

impl Looked {
    /// What was seen of the process, if nothing stands in the way of dumping it.
    pub(crate) fn unobstructed(self) -> Result<Running> {
        let Self { obstacles, running } = self;
        if obstacles.is_empty() { Ok(running) } else { Err(DumpError::Obstacles { obstacles }) }
    }
}

/// As [`preflight`], with mappings read by `areas`, of which `unmarked` takes away what is not the process' own doing.
pub(crate) fn look(
    options: &DumpOptions,
    search: Search,
    areas: impl FnOnce() -> Result<Vec<Area>> + Send,
    unmarked: impl FnOnce(Vec<Area>) -> Vec<Area>,
) -> Result<Looked> {
    let pid = options.pid;
    let mut found = Findings { pid, obstacles: Vec::new() };
    let stat = Stat::read(pid)?;
    let status = Status::read(pid)?;
    if let Some(refusal) = kind_of_process(pid, &stat, &status) {
        found.add("the process", refusal);
        return Ok(Looked { obstacles: found.obstacles, running: Running::default() });
    }
    let (descriptors, areas) = thread::scope(|scope| -> Result<_> {
        // The kernel takes its time over the mappings; everything else is looked at meanwhile.
        let areas = scope.spawn(areas);
        process(&mut found, &stat, &status, search)?;
        let descriptors = descriptors(&mut found, options, status.fd_size, search)?;
        Ok((descriptors, areas.join().expect("reading mappings does not panic")?))
    })?;
    let areas = unmarked(areas);
    for area in &areas {
        if let Some(refusal) = mm::refusal(area) {
            found.add(&format!("memory {:#x}-{:#x}", area.start, area.end), refusal);
        }
    }
    Ok(Looked { obstacles: found.obstacles, running: Running { areas, descriptors } })
}

struct Findings {
    pid: Pid,
    obstacles: Vec<Obstacle>,
}

impl Findings {
    fn add(&mut self, object: &str, refusal: Refusal) {
        self.obstacles.push(Obstacle {
            pid: self.pid.as_raw(),
            object: object.to_owned(),
            reason: refusal.reason,
            remedy: refusal.remedy.to_owned(),
        });
    }
}

fn refuse(reason: impl Into<String>, remedy: &'static str) -> Refusal {
    Refusal { reason: reason.into(), remedy }
}

/// What is no process that could be dumped at all.
fn kind_of_process(pid: Pid, stat: &Stat, status: &Status) -> Option<Refusal> {
    const PF_KTHREAD: u32 = 0x0020_0000;
    if pid == Pid::this() {
        return Some(refuse("it is the dumper itself", "dump it from another process"));
    }
    if stat.state == 'Z' || stat.state == 'X' {
        return Some(refuse(
            "it has ended and only waits for its parent (zombie)",
            "nothing is left to dump",
        ));
    }
    if stat.flags & PF_KTHREAD != 0 {
        return Some(refuse("it is a thread of the kernel", "dump a process"));
    }
    if status.tgid != pid.as_raw() {
        let reason = format!("it is a thread of process {}", status.tgid);
        return Some(refuse(reason, "dump the process"));
    }
    None
}

/// Children of a process, as obstacles: their pids, from those of its threads that made them.
pub(crate) fn children(pid: Pid, search: Search) -> Result<Vec<(String, Refusal)>> {
    let tids = if search == Search::Thorough { list(pid, "task")? } else { vec![pid.as_raw()] };
    let children = |tid: &i32| -> Result<String> {
        Ok(proc::read(pid, &format!("task/{tid}/children")).unwrap_or_default())
    };
    let mut found = Vec::new();
    parallel::in_order(&tids, children, |children| {
        for child in children.split_ascii_whitespace() {
            let refusal = refuse("process trees cannot be dumped yet", "dump processes without children");
            found.push((format!("child {child}"), refusal));
        }
        Ok(())
    })?;
    Ok(found)
}

fn process(found: &mut Findings, stat: &Stat, status: &Status, search: Search) -> Result<()> {
    let pid = found.pid;
    for (child, refusal) in children(pid, search)? {
        found.add(&child, refusal);
    }
    for ns in ["pid", "mnt", "net", "ipc", "uts", "user", "cgroup", "time"] {
        let theirs = proc::link(pid, &format!("ns/{ns}"))?;
        let ours = std::fs::read_link(format!("/proc/self/ns/{ns}")).ok();
        if ours.is_some_and(|ours| ours != theirs) {
            let reason = "namespaces other than the dumper's own cannot be dumped yet";
            found.add(
                &format!("{ns} namespace"),
                refuse(reason, "run the dump inside, for instance with nsenter"),
            );
        }
    }
    for (own, of_children) in [("pid", "pid_for_children"), ("time", "time_for_children")] {
        let links = [own, of_children].map(|ns| proc::link(pid, &format!("ns/{ns}")));
        if let [Ok(own), Ok(theirs)] = links
            && own != theirs
        {
            let reason = "a namespace for children only cannot be dumped yet";
            found.add(&format!("{of_children} namespace"), refuse(reason, "none but to do without it"));
        }
    }
    if status.seccomp != 0 {
        found
            .add("seccomp", refuse("seccomp filters cannot be dumped yet", "start the program without them"));
    }
    if stat.tty != 0 && stat.sid == pid.as_raw() {
        found.add(
            "controlling terminal",
            refuse("terminals cannot be dumped", "start the program with setsid"),
        );
    }
    let mut class = [0; 5];
    let exe = File::open(format!("/proc/{pid}/exe")).and_then(|mut exe| exe.read_exact(&mut class));
    exe.map_err(DumpError::proc(pid, "exe"))?;
    const ELFCLASS64: u8 = 2;
    if class.last() != Some(&ELFCLASS64) {
        found.add("the program", refuse("32-bit programs cannot be dumped", "none"));
    }
    Ok(())
}

/// The numbers that are names in a directory of /proc, ascending.
pub(crate) fn list(pid: Pid, dir: &str) -> Result<Vec<RawFd>> {
    let failed = || DumpError::proc(pid, dir);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/{dir}")).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        numbers.extend(name.to_str().and_then(|n| n.parse::<RawFd>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// From so many descriptors on, a dump looks closely only when the process stands.
const MANY_DESCRIPTORS: usize = 1024;

fn descriptors(
    found: &mut Findings,
    options: &DumpOptions,
    size: u32,
    search: Search,
) -> Result<Vec<Glance>> {
    let table = DescriptorTable::open(found.pid)?;
    let open = table.count()?.unwrap_or(usize::MAX);
    let numbers = table.numbers(size)?;
    let many = numbers.len().min(open) >= MANY_DESCRIPTORS;
    let search = if many && search == Search::Quick { Search::Kinds } else { search };
    let mut pipes = Pipes::default();
    let mut seen = Vec::new();
    let glanced = AtomicUsize::new(0);
    let look = |&fd: &RawFd| -> Result<_> {
        // The rest of the table is empty.
        if glanced.load(Ordering::Relaxed) >= open {
            return Ok(None);
        }
        let Some(glance) = table.glance(fd, search)? else { return Ok(None) };
        glanced.fetch_add(1, Ordering::Relaxed);
        Ok(Some((of_descriptor(&glance, search), glance)))
    };
    parallel::in_order(&numbers, look, |glance| {
        let Some((kind, glance)) = glance else { return Ok(()) };
        let object = || format!("descriptor {} ({})", glance.fd, glance.link.display());
        for lock in glance.locks.iter().filter(|_| !options.file_locks) {
            found.add(&object(), objects::not_asked_for(lock));
        }
        match kind {
            Err(refusal) => found.add(&object(), refusal),
            // Unless it was closed meanwhile.
            Ok(ObjectKind::Pipe) => {
                table.take(glance.fd, false, None)?.into_iter().for_each(|file| pipes.add(file));
            }
            Ok(_) => {}
        }
        seen.push(glance);
        Ok(())
    })?;
    for (object, refusal) in pipes.foreign() {
        found.add(&object, refusal);
    }
    Ok(seen)
}

/// What kind of object it leads to, if that can be dumped.
fn of_descriptor(glance: &Glance, search: Search) -> Result<ObjectKind, Refusal> {
    let kind = objects::classify(&glance.stat, &glance.link)?;
    if search != Search::Kinds
        && matches!(kind, ObjectKind::Path | ObjectKind::Fifo)
        && glance.stat.st_nlink > 0
    {
        objects::reachable(&glance.link, &glance.stat)?;
    }
    Ok(kind)
}

/// Ends of pipes, to find those whose other end is outside.
#[derive(Default)]
pub(crate) struct Pipes {
    ends: HashMap<u64, (Vec<OpenFile>, bool, bool)>,
}

impl Pipes {
    pub(crate) fn add(&mut self, file: OpenFile) {
        let read_write = file.flags & libc::O_ACCMODE.unsigned_abs() == libc::O_RDWR.unsigned_abs();
        let (ends, readers, writers) = self.ends.entry(file.stat.st_ino).or_default();
        let reads = objects::readable(&file);
        *readers |= reads;
        *writers |= !reads || read_write;
        ends.push(file);
    }

    /// Pipes that lead out of the process.
    pub(crate) fn foreign(&self) -> Vec<(String, Refusal)> {
        let open = self.ends.values().filter(|(_, readers, writers)| readers != writers);
        let mut found = Vec::new();
        for file in open.flat_map(|(ends, ..)| ends.iter().take(1)) {
            if objects::other_end_is_open(file) {
                let reason = "the other end of the pipe is open in another process";
                let object = format!("descriptor {} ({})", file.fd, file.link.display());
                found.push((object, refuse(reason, "start the program with files instead of pipes")));
            }
        }
        found
    }
}
