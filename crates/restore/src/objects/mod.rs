//! Opening the files of a checkpoint: one module per kind of object.

mod eventfd;
mod eventpoll;
mod ghost;
mod memfd;
mod pipe;
mod regfile;
mod signalfd;
mod timerfd;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::fcntl::OFlag;
use rewake_images::proto::{FdTypes, FileEntry, FownEntry, RegFileEntry, VmaEntry};
use rewake_images::{Checkpoint, PAGE_SIZE};

use crate::error::{RestoreError, Result};
use crate::plan::{Plan, status};
use crate::sys;

pub(crate) use eventpoll::epoll_steps;
pub(crate) use regfile::opening;

/// A file, and the access (O_ACCMODE) that a shared mapping has to it.
pub(crate) type MappedAs = (u32, u32);

/// How the file of a shared mapping must be open when its own entry is open in another way, `None` if that will do.
///
/// A mapping can never do more than the descriptor it was made with. CRIU writes one entry for all mappings of a file,
/// with the flags of the first, and keeps what each needs with the mapping.
pub(crate) fn mapped_as(plan: &Plan, vma: &VmaEntry) -> Option<MappedAs> {
    let accmode = libc::O_ACCMODE.unsigned_abs();
    if vma.status & status::FILE_SHARED == 0 {
        return None;
    }
    let id = u32::try_from(vma.shmid).ok()?;
    let file = plan.task.files.get(&id)?;
    let opened = match (&file.reg, &file.memfd) {
        (Some(reg), _) => reg.flags,
        (_, Some(memfd)) => memfd.flags,
        _ => return None,
    };
    let written = vma.prot & libc::PROT_WRITE.unsigned_abs() != 0;
    let wanted = vma.fdflags.unwrap_or(if written { libc::O_RDWR.unsigned_abs() } else { 0 }) & accmode;
    (opened & accmode != wanted).then_some((id, wanted))
}

/// What a file is needed for. What comes first includes what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Used {
    AsDescriptor,
    Mapped,
    StoodIn,
}

/// The files of a plan, open.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    files: BTreeMap<u32, OwnedFd>,
    /// Files opened once more for shared mappings, by what these may do.
    mapped: BTreeMap<MappedAs, OwnedFd>,
    /// Shared memory by its number in the images.
    objects: HashMap<u64, OwnedFd>,
    /// Those of which the file that they were made with is a descriptor already.
    as_made: HashSet<u64>,
    pipes: HashMap<u32, pipe::Pipe>,
    /// Deleted files while they are being opened.
    ghosts: ghost::Ghosts,
    /// Pages of shared memory put back.
    pub(crate) pages: u64,
}

/// The files of a plan that must be open, ascending, and what for.
fn wanted(plan: &Plan) -> Vec<(u32, Used)> {
    let task = &plan.task;
    let mapped = plan.areas.iter().filter_map(|area| area.file).chain([task.mm.exe_file_id]);
    let mut wanted: Vec<_> = plan.descriptors.iter().map(|fd| (fd.file, Used::AsDescriptor)).collect();
    wanted.extend(mapped.map(|id| (id, Used::Mapped)));
    wanted.extend([task.fs.cwd_id, task.fs.root_id].map(|id| (id, Used::StoodIn)));
    wanted.sort_unstable();
    wanted.dedup_by_key(|(id, _)| *id);
    wanted
}

fn entry(plan: &Plan, id: u32) -> Result<&FileEntry> {
    let file = plan.task.files.get(&id);
    file.map(|file| &**file)
        .ok_or_else(|| RestoreError::inconsistent(format!("file {id}"), "it is not in the list of files"))
}

/// Files that are just opened again, by the names they have, ascending by id.
pub(crate) fn by_name(plan: &Plan) -> Result<Vec<&RegFileEntry>> {
    let mut by_name = Vec::new();
    for (id, used) in wanted(plan) {
        let file = entry(plan, id)?;
        let named =
            file.r#type() == FdTypes::Reg && !plan.task.ghost_of.contains_key(&id) && used != Used::StoodIn;
        by_name.extend(file.reg.as_ref().filter(|_| named));
    }
    Ok(by_name)
}

/// Opens everything the plan mentions. `verified` are those of `by_name` that are open already.
pub(crate) fn open(
    plan: &Plan,
    checkpoint: &Checkpoint,
    by_name: &[&RegFileEntry],
    verified: Vec<Option<OwnedFd>>,
) -> Result<OpenFiles> {
    let mut open = OpenFiles::default();
    let outcome = open.named(by_name, verified).and_then(|()| open.others(plan, checkpoint));
    // A ghost has a name only as long as it is being opened.
    let removed = open.ghosts.remove();
    open.pipes.clear();
    outcome.and(removed).map(|()| open)
}

impl OpenFiles {
    /// Files that open by their names, as far as they are not open already.
    fn named(&mut self, by_name: &[&RegFileEntry], verified: Vec<Option<OwnedFd>>) -> Result<()> {
        let file = |(reg, open): (&&RegFileEntry, Option<OwnedFd>)| {
            Ok((reg.id, open.map_or_else(|| regfile::open(reg, None, false), Ok)?))
        };
        self.files = by_name.iter().zip(verified).map(file).collect::<Result<_>>()?;
        Ok(())
    }

    fn others(&mut self, plan: &Plan, checkpoint: &Checkpoint) -> Result<()> {
        let task = &plan.task;
        for &remap_id in task.ghosts.keys() {
            let orig = task.ghost_of.iter().find(|(_, remap)| **remap == remap_id).map(|(orig, _)| *orig);
            let reg = orig.and_then(|id| task.files.get(&id)).and_then(|file| file.reg.as_ref());
            let reg = reg.ok_or_else(|| {
                RestoreError::inconsistent(format!("ghost file {remap_id}"), "no file is it")
            })?;
            let extra = task.extra.ghosts.iter().find(|extra| extra.remap_id == remap_id);
            let unnamed = reg.flags & OPENED_UNNAMED.unsigned_abs() != 0;
            self.ghosts.create(ghost::Wanted { name: &reg.name, remap_id, unnamed, extra }, checkpoint)?;
        }
        for (id, used) in wanted(plan) {
            if !self.files.contains_key(&id) {
                let fd = self.one(plan, checkpoint, entry(plan, id)?, used)?;
                self.files.insert(id, fd);
            }
        }
        for mapped in plan.task.mm.vmas.iter().filter_map(|vma| mapped_as(plan, vma)) {
            let (id, access) = mapped;
            if let (false, Some(file)) = (self.mapped.contains_key(&mapped), self.files.get(&id)) {
                let inode = plan.task.files.get(&id).and_then(|file| file.memfd.as_ref());
                let object = inode.and_then(|memfd| self.objects.get(&u64::from(memfd.inode_id)));
                let again = match object.filter(|_| access == libc::O_RDWR.unsigned_abs()) {
                    // As in a mapping of what memfd_create made.
                    Some(object) => {
                        object.try_clone().map_err(RestoreError::file("/proc/self/fd", "duplicate"))?
                    }
                    None => reopen(file.as_fd(), access)?,
                };
                self.mapped.insert(mapped, again);
            }
        }
        self.old_shared_memory(plan, checkpoint)
    }

    fn one(&mut self, plan: &Plan, checkpoint: &Checkpoint, file: &FileEntry, used: Used) -> Result<OwnedFd> {
        let task = &plan.task;
        let id = file.id;
        let empty =
            || RestoreError::inconsistent(format!("file {id}"), "its entry lacks the part of its kind");
        let path_of =
            |open: &Self, id: u32| -> Option<PathBuf> { open.ghosts.path(*task.ghost_of.get(&id)?) };
        match file.r#type() {
            FdTypes::Reg => {
                let reg = file.reg.as_ref().ok_or_else(empty)?;
                regfile::open(reg, path_of(self, id), used == Used::StoodIn)
            }
            FdTypes::Pipe => {
                let entry = file.pipe.as_ref().ok_or_else(empty)?;
                let made = match self.pipes.entry(entry.pipe_id) {
                    std::collections::hash_map::Entry::Occupied(made) => made.into_mut(),
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(pipe::create(entry.pipe_id, task.pipes.get(&entry.pipe_id))?)
                    }
                };
                made.open(entry)
            }
            FdTypes::Fifo => {
                let entry = file.fifo.as_ref().ok_or_else(empty)?;
                let regf_id = entry.regf_id.unwrap_or(id);
                let reg = task.files.get(&regf_id).and_then(|f| f.reg.as_ref()).ok_or_else(empty)?;
                let path = path_of(self, regf_id).unwrap_or_else(|| PathBuf::from(&reg.name));
                let made = match self.pipes.entry(entry.pipe_id) {
                    std::collections::hash_map::Entry::Occupied(made) => made.into_mut(),
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(pipe::hold_fifo(&path, task.fifos.get(&entry.pipe_id))?)
                    }
                };
                made.open_fifo(&path, reg)
            }
            FdTypes::Eventfd => eventfd::open(file.efd.as_ref().ok_or_else(empty)?),
            FdTypes::Eventpoll => eventpoll::open(file.epfd.as_ref().ok_or_else(empty)?),
            FdTypes::Timerfd => timerfd::open(file.tfd.as_ref().ok_or_else(empty)?),
            FdTypes::Signalfd => signalfd::open(file.sgfd.as_ref().ok_or_else(empty)?),
            FdTypes::Memfd => {
                let entry = file.memfd.as_ref().ok_or_else(empty)?;
                let inode_id = u64::from(entry.inode_id);
                let writable = entry.flags & libc::O_ACCMODE.unsigned_abs() == libc::O_RDWR.unsigned_abs();
                // memfd_create gives one open file; a mapping is most likely of that, others were opened later.
                let as_made = writable && (used != Used::AsDescriptor || self.as_made.insert(inode_id));
                memfd::open(self.memfd_object(plan, checkpoint, inode_id)?, entry, as_made)
            }
            other => Err(RestoreError::unsupported(
                format!("file {id} ({})", other.as_str_name()),
                "not built yet",
            )),
        }
    }

    fn memfd_object(
        &mut self,
        plan: &Plan,
        checkpoint: &Checkpoint,
        inode_id: u64,
    ) -> Result<BorrowedFd<'_>> {
        if !self.objects.contains_key(&inode_id) {
            let inode = plan.task.memfds.get(&inode_id);
            let inode = inode
                .ok_or_else(|| RestoreError::inconsistent(format!("memfd {inode_id}"), "it has no entry"))?;
            let (object, pages) = memfd::create(inode, checkpoint)?;
            self.pages += pages;
            self.objects.insert(inode_id, object);
        }
        Ok(self.objects.get(&inode_id).expect("just put there").as_fd())
    }

    /// Shared anonymous memory as older dumpers wrote it: by the number of the object alone, its size only in the areas.
    fn old_shared_memory(&mut self, plan: &Plan, checkpoint: &Checkpoint) -> Result<()> {
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        for vma in plan.task.mm.vmas.iter().filter(|vma| vma.status & status::ANON_SHARED != 0) {
            let end = vma.pgoff.saturating_add(vma.end - vma.start);
            let size = sizes.entry(vma.shmid).or_default();
            *size = (*size).max(end);
        }
        for (shmid, size) in sizes {
            let size = size.next_multiple_of(PAGE_SIZE);
            let object = memfd::anonymous(size)?;
            self.pages += memfd::fill(&object, checkpoint, shmid, size)?;
            self.objects.insert(OLD_SHARED | shmid, object);
        }
        Ok(())
    }

    /// The files by id, those of mappings, and old shared memory by its number.
    pub(crate) fn into_parts(self) -> Parts {
        let old = self.objects.into_iter().filter(|(number, _)| number & OLD_SHARED != 0);
        (self.files, self.mapped, old.map(|(number, fd)| (number & !OLD_SHARED, fd)).collect())
    }
}

type Parts = (BTreeMap<u32, OwnedFd>, BTreeMap<MappedAs, OwnedFd>, HashMap<u64, OwnedFd>);

/// Keeps numbers of old shared memory apart from those of memfds.
const OLD_SHARED: u64 = 1 << 63;

/// Files of which somebody is signalled about input, and who.
pub(crate) fn owners(plan: &Plan) -> Vec<(u32, &FownEntry)> {
    plan.task.files.iter().filter_map(|(id, file)| Some((*id, owner(plan, file)?))).collect()
}

/// Sets them: at the end, since it is mostly the process itself or a thread of it.
pub(crate) fn set_owners(owners: &[(u32, &FownEntry)], numbers: &BTreeMap<u32, RawFd>) -> Result<()> {
    for (id, owner) in owners {
        let Some(&fd) = numbers.get(id) else { continue };
        sys::set_owner(fd, owner.pid_type, owner.pid.cast_signed(), owner.signum)
            .map_err(RestoreError::call("fcntl(F_SETOWN_EX)", format!("file {id}")))?;
    }
    Ok(())
}

fn owner<'a>(plan: &'a Plan, file: &'a FileEntry) -> Option<&'a FownEntry> {
    let owner = match file.r#type() {
        FdTypes::Reg => file.reg.as_ref().map(|entry| &entry.fown),
        FdTypes::Pipe => file.pipe.as_ref().map(|entry| &entry.fown),
        // Kept with its path, which is a file of its own in the images.
        FdTypes::Fifo => {
            let path = file.fifo.as_ref()?.regf_id.unwrap_or(file.id);
            plan.task.files.get(&path)?.reg.as_ref().map(|entry| &entry.fown)
        }
        FdTypes::Eventfd => file.efd.as_ref().map(|entry| &entry.fown),
        FdTypes::Eventpoll => file.epfd.as_ref().map(|entry| &entry.fown),
        FdTypes::Timerfd => file.tfd.as_ref().map(|entry| &entry.fown),
        FdTypes::Signalfd => file.sgfd.as_ref().map(|entry| &entry.fown),
        FdTypes::Memfd => file.memfd.as_ref().map(|entry| &entry.fown),
        _ => None,
    };
    owner.filter(|owner| owner.pid != 0 || owner.signum != 0)
}

/// Opens a file once more, with other flags, through its descriptor.
fn reopen(fd: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    // What is followed here is that link, not one of the program's.
    let opened = open_with(&path, flags & !libc::O_NOFOLLOW.unsigned_abs())?;
    Ok(opened.into())
}

/// The file under a number from `floor` on.
pub(crate) fn raised(fd: OwnedFd, floor: RawFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= floor {
        return Ok(fd);
    }
    sys::dup_above(fd.as_fd(), floor).map_err(RestoreError::call("fcntl(F_DUPFD)", "a file"))
}

/// What O_TMPFILE has beyond O_DIRECTORY.
const OPENED_UNNAMED: i32 = 0o20_000_000;
/// Flags that say how a file was opened, not how it is open: they must not be repeated.
const OPENING: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC | OPENED_UNNAMED;

/// With what a file is opened again that was open with `flags`.
fn open_flags(flags: u32) -> i32 {
    let mut flags = flags.cast_signed();
    if flags & OPENED_UNNAMED != 0 {
        // O_TMPFILE has the bit of O_DIRECTORY, for the directory in which the file was made.
        flags &= !libc::O_DIRECTORY;
    }
    (flags & !OPENING) | libc::O_CLOEXEC | libc::O_NOCTTY
}

fn open_with(path: &std::path::Path, flags: u32) -> Result<File> {
    let flags = OFlag::from_bits_retain(open_flags(flags));
    let opened = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty());
    let fd = opened.map_err(|errno| RestoreError::file(path, "open")(errno.into()))?;
    Ok(File::from(fd))
}

/// Sets the flags that can be set on an open file: those of O_APPEND, O_NONBLOCK and the like.
fn set_status(fd: &OwnedFd, flags: u32, id: u32) -> Result<()> {
    let settable = libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME;
    let flags = flags.cast_signed() & settable;
    sys::fcntl_int(fd.as_fd(), libc::F_SETFL, flags)
        .map(drop)
        .map_err(RestoreError::call("fcntl(F_SETFL)", format!("file {id}")))
}
