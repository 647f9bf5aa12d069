//! What will be done, as plain data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use rewake_images::extra::{TaskExtra, ThreadExtra};
use rewake_images::proto::{
    CoreEntry, FdTypes, FdinfoEntry, FileEntry, FileLockEntry, FsEntry, GhostFileEntry, MemfdInodeEntry,
    MmEntry, PipeDataEntry, PstreeEntry, RemapFilePathEntry, RemapType, TaskKobjIdsEntry,
};
use rewake_images::{Checkpoint, Kind, PAGE_SIZE, framing};
use rewake_tracee::SCRATCH_LEN;
use serde::Serialize;

use crate::error::{RestoreError, Result};

/// Bits of `vma_entry.status`.
pub(crate) mod status {
    pub(crate) const VSYSCALL: u32 = 1 << 2;
    pub(crate) const VDSO: u32 = 1 << 3;
    pub(crate) const FILE_PRIVATE: u32 = 1 << 6;
    pub(crate) const FILE_SHARED: u32 = 1 << 7;
    pub(crate) const ANON_SHARED: u32 = 1 << 8;
    pub(crate) const VVAR: u32 = 1 << 12;
    pub(crate) const UNSUPPORTED: u32 = 1 << 10 | 1 << 11 | 1 << 13 | 1 << 15 | 1 << 31;
}

/// Everything a restore does: read from the checkpoint, checked, and put in order.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// The process.
    pub pid: u32,
    /// It becomes the leader of a session of its own; otherwise it joins that of whoever restores.
    pub session_leader: bool,
    /// It becomes the leader of a process group of its own.
    pub group_leader: bool,
    /// Its threads, the first one first.
    pub threads: Vec<u32>,
    /// It was in a job-control stop.
    pub stopped: bool,
    /// What each descriptor leads to.
    pub descriptors: Vec<Descriptor>,
    /// Its mappings.
    pub areas: Vec<PlannedArea>,
    /// Where code and data for system calls are mapped meanwhile: free before, during and after.
    pub scratch: u64,
    /// Everything else, for those who carry it out.
    #[serde(skip)]
    pub(crate) task: Task,
}

/// A descriptor of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// The open file it leads to; equal ids share one.
    pub file: u32,
    /// It is closed by execve(2).
    pub close_on_exec: bool,
    /// Kind of the file.
    pub kind: &'static str,
}

/// A mapping of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedArea {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// PROT_* bits.
    pub prot: u32,
    /// MAP_* bits.
    pub flags: u32,
    /// The file, `None` for memory without one.
    pub file: Option<u32>,
    /// Position in the file.
    pub offset: u64,
}

/// The images of the task.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) cores: Vec<(u32, CoreEntry)>,
    pub(crate) mm: MmEntry,
    pub(crate) fs: FsEntry,
    pub(crate) extra: TaskExtra,
    /// What `extra` says of threads, by their ids.
    pub(crate) threads: HashMap<u32, ThreadExtra>,
    /// Boxed: an entry has room for every kind of file, and there may be many thousands.
    pub(crate) files: BTreeMap<u32, Box<FileEntry>>,
    pub(crate) memfds: HashMap<u64, MemfdInodeEntry>,
    pub(crate) pipes: HashMap<u32, (PipeDataEntry, Vec<u8>)>,
    pub(crate) fifos: HashMap<u32, (PipeDataEntry, Vec<u8>)>,
    /// Contents of deleted files, by remap id, and which file entry is which of them.
    pub(crate) ghosts: BTreeMap<u32, GhostFileEntry>,
    pub(crate) ghost_of: HashMap<u32, u32>,
    pub(crate) remaps: Vec<RemapFilePathEntry>,
    pub(crate) fdinfo: Vec<FdinfoEntry>,
    pub(crate) locks: Vec<FileLockEntry>,
}

/// Reads a checkpoint and says what restoring it means. Nothing is created.
///
/// `busy` are the addresses that are taken in the process that will carry it out ([`crate::own_mappings`]).
///
/// # Errors
/// [`RestoreError::Image`], [`RestoreError::Unsupported`], [`RestoreError::Inconsistent`].
pub fn plan(checkpoint: &Checkpoint, busy: &[Range<u64>]) -> Result<Plan> {
    if checkpoint.inventory().fdinfo_per_id != Some(true) {
        return Err(RestoreError::unsupported("a checkpoint of this age", "descriptors are not kept by id"));
    }
    let tasks = checkpoint.tasks()?;
    let [root] = tasks.as_slice() else {
        return Err(RestoreError::unsupported(
            format!("a tree of {} processes", tasks.len()),
            "only single processes can, so far",
        ));
    };
    refuse_other_kinds(checkpoint)?;
    let pid = root.pid;
    let number = Some(u64::from(pid));
    let ids: TaskKobjIdsEntry = checkpoint.read(Kind::Ids, number)?;
    refuse_namespaces(checkpoint, &ids)?;
    let fdinfo: Vec<FdinfoEntry> = checkpoint.read_all(Kind::Fdinfo, Some(ids.files_id.into()))?;
    let mut task = read_task(checkpoint, root)?;
    let descriptors = fdinfo.iter().map(|fd| descriptor(fd, &task)).collect::<Result<Vec<_>>>()?;
    task.fdinfo = fdinfo;
    let areas = areas(&task)?;
    let stopped =
        task.cores.first().and_then(|(_, core)| core.tc.as_ref()).is_some_and(|tc| tc.task_state == STOPPED);
    Ok(Plan {
        pid,
        session_leader: root.sid == pid,
        group_leader: root.pgid == pid,
        threads: task.cores.iter().map(|(tid, _)| *tid).collect(),
        stopped,
        descriptors,
        scratch: free_range(busy, &areas)?,
        areas,
        task,
    })
}

const ALIVE: u32 = 1;
const STOPPED: u32 = 3;

/// Images of things that are not restored yet: leaving them out would be silent loss.
fn refuse_other_kinds(checkpoint: &Checkpoint) -> Result<()> {
    const KINDS: &[(Kind, &str)] = &[
        (Kind::TcpStream, "TCP connections"),
        (Kind::SkQueues, "queues of sockets"),
        (Kind::TtyInfo, "terminals"),
        (Kind::Autofs, "autofs mounts"),
        (Kind::BpfmapData, "BPF maps"),
    ];
    for (kind, _, _) in checkpoint.images()? {
        if let Some((_, what)) = KINDS.iter().find(|(k, _)| *k == kind) {
            return Err(RestoreError::unsupported(*what, "not built yet"));
        }
    }
    Ok(())
}

fn refuse_namespaces(checkpoint: &Checkpoint, ids: &TaskKobjIdsEntry) -> Result<()> {
    let Some(root) = &checkpoint.inventory().root_ids else { return Ok(()) };
    let pairs = [
        ("pid", ids.pid_ns_id, root.pid_ns_id),
        ("net", ids.net_ns_id, root.net_ns_id),
        ("ipc", ids.ipc_ns_id, root.ipc_ns_id),
        ("uts", ids.uts_ns_id, root.uts_ns_id),
        ("mount", ids.mnt_ns_id, root.mnt_ns_id),
        ("user", ids.user_ns_id, root.user_ns_id),
    ];
    for (name, theirs, dumpers) in pairs {
        if theirs.is_some() && theirs != dumpers {
            return Err(RestoreError::unsupported(format!("a {name} namespace"), "not built yet"));
        }
    }
    Ok(())
}

fn read_task(checkpoint: &Checkpoint, root: &PstreeEntry) -> Result<Task> {
    let pid = root.pid;
    let number = Some(u64::from(pid));
    let mut tids = root.threads.clone();
    tids.retain(|&tid| tid != pid);
    tids.insert(0, pid);
    let mut cores = Vec::with_capacity(tids.len());
    for tid in tids {
        let core = checkpoint.core(tid.into())?;
        refuse_core(tid, &core)?;
        cores.push((tid, core));
    }
    let mm: MmEntry = checkpoint.read(Kind::Mm, number)?;
    if !mm.aios.is_empty() {
        return Err(RestoreError::unsupported("asynchronous input/output (io_setup)", "not built yet"));
    }
    let memfds: Vec<MemfdInodeEntry> = checkpoint.read_all(Kind::Memfd, None)?;
    let queued = |kind| -> Result<HashMap<u32, (PipeDataEntry, Vec<u8>)>> {
        let data = checkpoint.read_all_with::<PipeDataEntry>(kind, None)?;
        Ok(data.into_iter().map(|(entry, bytes)| (entry.pipe_id, (entry, bytes))).collect())
    };
    let mut extra: TaskExtra = checkpoint.read_opt(Kind::TaskExtra, number)?.unwrap_or_default();
    let mut task = Task {
        cores,
        mm,
        fs: checkpoint.read(Kind::Fs, number)?,
        threads: std::mem::take(&mut extra.threads).into_iter().map(|thread| (thread.tid, thread)).collect(),
        extra,
        files: files(checkpoint)?,
        memfds: memfds.into_iter().map(|inode| (inode.inode_id, inode)).collect(),
        pipes: queued(Kind::PipesData)?,
        fifos: queued(Kind::FifoData)?,
        ghosts: BTreeMap::new(),
        ghost_of: HashMap::new(),
        remaps: checkpoint.read_all(Kind::RemapFpath, None)?,
        fdinfo: Vec::new(),
        locks: checkpoint.read_all(Kind::Filelocks, None)?,
    };
    read_ghosts(checkpoint, &mut task)?;
    Ok(task)
}

fn files(checkpoint: &Checkpoint) -> Result<BTreeMap<u32, Box<FileEntry>>> {
    let mut files = BTreeMap::new();
    if let Some(mut image) = checkpoint.entries(Kind::Files, None)? {
        let mut entry = framing::Entry::default();
        while image.read_entry(&mut entry)? {
            let file: FileEntry = framing::decode(image.path(), &entry)?;
            files.insert(file.id, Box::new(file));
        }
    }
    Ok(files)
}

fn refuse_core(tid: u32, core: &CoreEntry) -> Result<()> {
    let object = format!("thread {tid}");
    let Some(thread) = &core.thread_core else {
        return Err(RestoreError::inconsistent(object, "its core image says nothing of the thread"));
    };
    let Some(info) = &core.thread_info else {
        return Err(RestoreError::unsupported(object, "it is not of an x86-64 machine"));
    };
    if info.gpregs.cs != rewake_tracee::USER_CS_64 {
        return Err(RestoreError::unsupported(object, "it runs 32-bit code"));
    }
    if thread.seccomp_mode.unwrap_or(0) != 0 {
        return Err(RestoreError::unsupported(object, "it has seccomp filters, which are not built yet"));
    }
    match &core.tc {
        Some(tc) if tc.task_state != ALIVE && tc.task_state != STOPPED => {
            Err(RestoreError::unsupported(object, format!("its state is {}", tc.task_state)))
        }
        _ => Ok(()),
    }
}

fn read_ghosts(checkpoint: &Checkpoint, task: &mut Task) -> Result<()> {
    for remap in task.remaps.clone() {
        if remap.remap_type() != RemapType::Ghost {
            return Err(RestoreError::unsupported(
                format!("file {}", remap.orig_id),
                "its path was replaced by a link",
            ));
        }
        task.ghost_of.insert(remap.orig_id, remap.remap_id);
        if task.ghosts.contains_key(&remap.remap_id) {
            continue;
        }
        let number = Some(u64::from(remap.remap_id));
        let missing =
            || RestoreError::inconsistent(format!("ghost file {}", remap.remap_id), "it has no image");
        let mut image = checkpoint.entries(Kind::GhostFile, number)?.ok_or_else(missing)?;
        let (entry, _) = image.next_message::<GhostFileEntry>()?.ok_or_else(missing)?;
        task.ghosts.insert(remap.remap_id, entry);
    }
    Ok(())
}

fn descriptor(fd: &FdinfoEntry, task: &Task) -> Result<Descriptor> {
    let object = || format!("descriptor {}", fd.fd);
    let Some(file) = task.files.get(&fd.id) else {
        return Err(RestoreError::inconsistent(object(), format!("there is no file {}", fd.id)));
    };
    let supported = matches!(
        file.r#type(),
        FdTypes::Reg
            | FdTypes::Pipe
            | FdTypes::Fifo
            | FdTypes::Eventfd
            | FdTypes::Eventpoll
            | FdTypes::Timerfd
            | FdTypes::Signalfd
            | FdTypes::Memfd
    );
    let kind = file.r#type().as_str_name();
    if !supported {
        return Err(RestoreError::unsupported(format!("{} ({kind})", object()), "not built yet"));
    }
    Ok(Descriptor { fd: fd.fd, file: fd.id, close_on_exec: fd.flags & FD_CLOEXEC != 0, kind })
}

const FD_CLOEXEC: u32 = 1;

/// Highest address of a 64-bit process, exclusive.
pub(crate) const TASK_SIZE: u64 = 0x7fff_ffff_f000;

fn areas(task: &Task) -> Result<Vec<PlannedArea>> {
    let mut areas = Vec::with_capacity(task.mm.vmas.len());
    let mut floor = 0;
    for vma in task.mm.vmas.iter().filter(|vma| vma.status & status::VSYSCALL == 0) {
        let object = || format!("memory {:#x}-{:#x}", vma.start, vma.end);
        let whole = vma.start.is_multiple_of(PAGE_SIZE) && vma.end.is_multiple_of(PAGE_SIZE);
        if !whole || vma.start >= vma.end || vma.start < floor || vma.end > TASK_SIZE {
            return Err(RestoreError::inconsistent(
                object(),
                "it is no range of pages behind the one before",
            ));
        }
        floor = vma.end;
        if vma.status & status::UNSUPPORTED != 0 {
            return Err(RestoreError::unsupported(
                object(),
                format!("its kind (status {:#x}) is not built yet", vma.status),
            ));
        }
        let file = vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0;
        let file = file.then(|| u32::try_from(vma.shmid).unwrap_or(u32::MAX));
        if let Some(id) = file.filter(|id| !task.files.contains_key(id)) {
            return Err(RestoreError::inconsistent(object(), format!("there is no file {id}")));
        }
        areas.push(PlannedArea {
            start: vma.start,
            end: vma.end,
            prot: vma.prot,
            flags: vma.flags,
            file,
            offset: vma.pgoff,
        });
    }
    Ok(areas)
}

/// Room beside the scratch area for the vdso on its way.
pub(crate) const STAGING_LEN: u64 = 256 << 10;

/// Lowest address with room for the scratch area and the staging area behind it, free now and in the restored process.
fn free_range(busy: &[Range<u64>], areas: &[PlannedArea]) -> Result<u64> {
    const LOWEST: u64 = 0x1000_0000;
    // Stacks grow downwards, and the gap below them is checked.
    const MARGIN: u64 = 16 << 20;
    let taken = busy.iter().cloned().chain(areas.iter().map(|area| area.start..area.end));
    let taken: BTreeSet<(u64, u64)> =
        taken.map(|range| (range.start.saturating_sub(MARGIN), range.end)).collect();
    let len = SCRATCH_LEN + STAGING_LEN;
    let mut at = LOWEST;
    for (start, end) in taken {
        if at + len <= start {
            break;
        }
        at = at.max(end);
    }
    if at + len > TASK_SIZE {
        return Err(RestoreError::unsupported(
            "this address space",
            "it has no free room for a scratch area",
        ));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64) -> PlannedArea {
        PlannedArea { start, end, prot: 0, flags: 0, file: None, offset: 0 }
    }

    #[test]
    fn scratch_keeps_clear_of_both_layouts() {
        let need = SCRATCH_LEN + STAGING_LEN;
        assert_eq!(free_range(&[], &[]).unwrap(), 0x1000_0000);
        let busy = [0x1000_0000..0x1000_0800, 0x1000_0800..0x1000_1000];
        let areas = [area(0x5000_0000, 0x5000_1000)];
        assert_eq!(free_range(&busy, &areas).unwrap(), 0x1000_1000);
        let close = [area(0x1000_1000 + need, 0x7000_0000)];
        assert_eq!(free_range(&busy, &close).unwrap(), 0x7000_0000, "a stack may grow down");
        assert!(free_range(&[], &[area(0x1000_0000, TASK_SIZE)]).is_err());
    }
}
