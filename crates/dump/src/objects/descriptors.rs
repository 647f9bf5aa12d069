//! The descriptors of a process: which there are, and what each leads to.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::{Pid, Whence, lseek};
use rewake_images::proto::FownEntry;

use super::{ObjectKind, Refusal, classify};
use crate::error::{DumpError, Result};
use crate::preflight::list;
use crate::{proc, sys};

/// What a descriptor led to while the process ran.
#[derive(Debug)]
pub(crate) struct Glance {
    pub(crate) fd: RawFd,
    pub(crate) stat: FileStat,
    /// O_* of the open file.
    pub(crate) flags: u32,
    /// What /proc shows as its name.
    pub(crate) link: PathBuf,
    /// File locks and leases taken through it, as proc_locks(5) has them.
    pub(crate) locks: Vec<String>,
    /// There may be a lease: opening the file would break it, and the signal that tells of that ends most programs.
    pub(crate) leased: bool,
}

/// An open file of the task, in our hands as well.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) pid: Pid,
    pub(crate) fd: RawFd,
    pub(crate) dup: OwnedFd,
    pub(crate) stat: FileStat,
    /// O_* of the open file.
    pub(crate) flags: u32,
    pub(crate) close_on_exec: bool,
    /// `None` for what cannot seek.
    pub(super) position: Option<u64>,
    /// Who is signalled about input.
    pub(super) fown: FownEntry,
    /// What /proc shows as its name.
    pub(crate) link: PathBuf,
    /// That name was seen to lead to this very file.
    pub(super) followed: bool,
    info: FdInfo,
}

/// How thoroughly to look at a process while it runs. There will be another look when it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Search {
    /// Of many descriptors, only what kind of object each leads to: neither locks, nor whether its path leads there.
    Kinds,
    /// Not for locks of flock(2), which only the text file of the descriptor tells: it costs as much as everything
    /// else. Nor for children of threads but the first.
    Quick,
    /// For everything.
    Thorough,
}

/// The descriptors of a process. Held open, so that none of the many looks at it resolves its path again.
///
/// What the kernel tells of an open file is asked of our duplicate where it can be: numbers of ours are used again and
/// again, while the first look at each of the process' has the kernel make an inode for it.
#[derive(Debug)]
pub(crate) struct DescriptorTable {
    pid: Pid,
    pidfd: OwnedFd,
    /// /proc/PID/fd
    dir: File,
    /// /proc/PID/fdinfo
    infos: File,
    /// As `dir`, of our duplicates.
    own: File,
    /// As `infos`, of our duplicates.
    own_infos: File,
}

impl DescriptorTable {
    pub(crate) fn open(pid: Pid) -> Result<Self> {
        let pidfd = sys::pidfd_open(pid).map_err(DumpError::call(pid, "pidfd_open", "the process"))?;
        let open = |pid: Pid, of: String| File::open(format!("/proc/{of}")).map_err(DumpError::proc(pid, of));
        let theirs = |name| open(pid, format!("{pid}/{name}"));
        let ours = |name| open(Pid::this(), format!("thread-self/{name}"));
        let (dir, infos) = (theirs("fd")?, theirs("fdinfo")?);
        Ok(Self { pid, pidfd, dir, infos, own: ours("fd")?, own_infos: ours("fdinfo")? })
    }

    /// How many are open, if the kernel tells (Linux 6.2).
    pub(crate) fn count(&self) -> Result<Option<usize>> {
        let size = fstat(&self.dir).map_err(DumpError::call(self.pid, "fstat", "fd"))?.st_size;
        Ok(usize::try_from(size).ok().filter(|&count| count > 0))
    }

    /// Numbers that may be open, ascending. `size` is that of the table, FDSize in proc_pid_status(5).
    ///
    /// Listing them has the kernel make an inode for each, which costs more than trying some that are not open.
    pub(crate) fn numbers(&self, size: u32) -> Result<Vec<RawFd>> {
        const TRIED_FOR_ONE: usize = 4;
        const TRIED_ANYWAY: usize = 256;
        let few = self.count()?.map(|open| open.saturating_mul(TRIED_FOR_ONE).saturating_add(TRIED_ANYWAY));
        match (RawFd::try_from(size), usize::try_from(size)) {
            (Ok(end), Ok(size)) if few.is_some_and(|few| size <= few) => Ok((0..end).collect()),
            _ => list(self.pid, "fd"),
        }
    }

    /// What `fd` leads to, without keeping it; `None` if it is not open.
    pub(crate) fn glance(&self, fd: RawFd, search: Search) -> Result<Option<Glance>> {
        let call = |name| DumpError::call(self.pid, name, format!("descriptor {fd}"));
        let Some(dup) = self.duplicate(fd)? else { return Ok(None) };
        let stat = fstat(&dup).map_err(call("fstat"))?;
        let flags = sys::status_flags(dup.as_fd()).map_err(call("fcntl"))?;
        let link = self.name(&dup).map_err(call("readlink"))?;
        let leased = holds_locks(&stat) && sys::may_be_leased(dup.as_fd());
        let looks = match search {
            Search::Kinds => leased,
            Search::Quick => leased || sys::may_be_locked(dup.as_fd()),
            Search::Thorough => true,
        };
        let mut locks = Vec::new();
        if looks && holds_locks(&stat) {
            let info = self.info(&self.infos, fd)?;
            locks = info.map(|info| info.locks().map(str::to_owned).collect()).unwrap_or_default();
        }
        Ok(Some(Glance { fd, stat, flags, link, locks, leased }))
    }

    /// Takes descriptor `fd` of a process that stands; `None` if it is not open. `seen` is what was seen of this number
    /// before, which saves asking for its name if that still leads there.
    pub(crate) fn take(
        &self,
        fd: RawFd,
        close_on_exec: bool,
        seen: Option<&Glance>,
    ) -> Result<Option<OpenFile>> {
        let pid = self.pid;
        let call = |name| DumpError::call(pid, name, format!("descriptor {fd}"));
        let Some(dup) = self.duplicate(fd)? else { return Ok(None) };
        let stat = fstat(&dup).map_err(call("fstat"))?;
        // Locks of fcntl(2) belong to the process: of our duplicate the kernel does not list them.
        let info = match sys::may_be_locked(dup.as_fd()) {
            true => self.info(&self.infos, fd)?,
            false => self.info(&self.own_infos, dup.as_raw_fd())?,
        };
        let info = info.ok_or(Errno::ENOENT).map_err(call("open"))?;
        let flags = info.flags().ok_or_else(|| info.malformed(pid, fd, "flags"))?;
        let known = seen.filter(|seen| leads_to(&seen.link, &stat)).map(|seen| seen.link.clone());
        let followed = known.is_some();
        let link = known.map_or_else(|| self.name(&dup), Ok).map_err(call("readlink"))?;
        let position = lseek(&dup, 0, Whence::SeekCur).ok().and_then(|pos| u64::try_from(pos).ok());
        let fown = fown(dup.as_fd());
        Ok(Some(OpenFile { pid, fd, dup, stat, flags, close_on_exec, position, fown, link, followed, info }))
    }

    fn duplicate(&self, fd: RawFd) -> Result<Option<OwnedFd>> {
        match sys::pidfd_getfd(self.pidfd.as_fd(), fd) {
            Ok(dup) => Ok(Some(dup)),
            Err(Errno::EBADF) => Ok(None),
            Err(e) => Err(DumpError::call(self.pid, "pidfd_getfd", format!("descriptor {fd}"))(e)),
        }
    }

    fn name(&self, dup: &OwnedFd) -> Result<PathBuf, Errno> {
        readlinkat(&self.own, dup.as_raw_fd().to_string().as_str()).map(PathBuf::from)
    }

    fn info(&self, infos: &File, fd: RawFd) -> Result<Option<FdInfo>> {
        let name = fd.to_string();
        let opened = openat(infos, name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        let text = match opened {
            Ok(info) => whole(&mut File::from(info)),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => Err(e.into()),
        };
        Ok(Some(FdInfo(text.map_err(DumpError::proc(self.pid, format!("fdinfo/{fd}")))?)))
    }
}

/// Whether locks can be on such a file.
fn holds_locks(stat: &FileStat) -> bool {
    matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

fn leads_to(path: &Path, file: &FileStat) -> bool {
    stat(path).is_ok_and(|found| (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino))
}

/// The text of a file that the kernel makes in one piece: a read that leaves room in the buffer was the last.
fn whole(file: &mut File) -> std::io::Result<String> {
    let mut text = Vec::new();
    while proc::read_some(file, &mut text)? == proc::PIECE {}
    String::from_utf8(text).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

/// Who is signalled about input. O_PATH descriptors have no such thing.
fn fown(fd: BorrowedFd<'_>) -> FownEntry {
    let Ok(owner) = sys::owner(fd) else { return FownEntry::default() };
    if owner.pid == 0 && owner.signal == 0 {
        return FownEntry::default();
    }
    let [uid, euid] = sys::owner_uids(fd).unwrap_or_default();
    FownEntry {
        uid,
        euid,
        signum: owner.signal.unsigned_abs(),
        pid_type: owner.kind,
        pid: owner.pid.unsigned_abs(),
    }
}

/// Text of a file in /proc/PID/fdinfo. proc_pid_fdinfo(5).
#[derive(Debug, Clone)]
pub(super) struct FdInfo(String);

impl FdInfo {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// O_* of the open file.
    fn flags(&self) -> Option<u32> {
        let flags = u32::from_str_radix(self.field("flags")?, 8).ok()?;
        // That is of the descriptor.
        Some(flags & !libc::O_CLOEXEC.unsigned_abs())
    }

    /// /proc/locks is no place to ask: it makes the kernel wait for a grace period, and it lists a lock of an open file
    /// description under the process that took it, not those that inherited it.
    fn locks(&self) -> impl Iterator<Item = &str> {
        self.0.lines().filter_map(|line| line.strip_prefix("lock:")).map(str::trim)
    }

    fn malformed(&self, pid: Pid, fd: RawFd, what: &str) -> DumpError {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, format!("no {what} as documented"));
        DumpError::Proc { pid, file: format!("fdinfo/{fd}"), source }
    }
}

impl OpenFile {
    pub(crate) fn is_pipe(&self) -> bool {
        self.kind() == Ok(ObjectKind::Pipe)
    }

    /// The same open file once more.
    pub(crate) fn again(&self) -> Result<Self> {
        let dup = self.dup.try_clone().map_err(DumpError::proc(self.pid, format!("fd/{}", self.fd)))?;
        Ok(Self { dup, link: self.link.clone(), info: self.info.clone(), ..*self })
    }

    pub(crate) fn kind(&self) -> Result<ObjectKind, Refusal> {
        classify(&self.stat, &self.link)
    }

    /// File locks and leases taken through it.
    pub(crate) fn locks(&self) -> impl Iterator<Item = &str> {
        self.info.locks()
    }

    /// The lines of its file in /proc/PID/fdinfo.
    pub(super) fn fdinfo_lines(&self) -> std::str::Lines<'_> {
        self.info.0.lines()
    }

    /// Its file in /proc/PID/fdinfo as it is now, after something was done to it.
    pub(super) fn fdinfo_now(&self) -> Result<FdInfo> {
        proc::read(self.pid, &format!("fdinfo/{}", self.fd)).map(FdInfo)
    }

    pub(super) fn fdinfo_field(&self, name: &str) -> Result<&str> {
        self.info.field(name).ok_or_else(|| self.fdinfo_malformed(name))
    }

    pub(super) fn fdinfo_malformed(&self, what: &str) -> DumpError {
        self.info.malformed(self.pid, self.fd, what)
    }
}
