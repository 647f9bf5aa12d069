//! What a descriptor can lead to: one module per kind of object.

mod eventfd;
mod eventpoll;
mod ghost;
mod memfd;
mod pipe;
mod regfile;
mod signalfd;
mod table;
mod timerfd;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::Pid;
use rewake_images::proto::{FdTypes, FileEntry, FownEntry};

use crate::error::{DumpError, Result};
use crate::{proc, sys};

pub(crate) use memfd::SharedObject;
pub(crate) use pipe::{other_end_is_open, readable};
pub(crate) use regfile::reachable;
pub(crate) use table::{FileTable, NamedFile, refused, shared_of_running};

/// Why an object cannot be dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) remedy: &'static str,
}

impl Refusal {
    fn new(reason: impl Into<String>, remedy: &'static str) -> Self {
        Self { reason: reason.into(), remedy }
    }
}

/// The kinds of objects that can be dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// Regular file, directory or device: whatever opens again by its path.
    Path,
    Memfd,
    Pipe,
    Fifo,
    Eventfd,
    Eventpoll,
    Timerfd,
    Signalfd,
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
    /// What /proc shows as its name.
    pub(crate) link: PathBuf,
}

/// The descriptors of a process. Held open, so that none of the many looks at it resolves its path again.
#[derive(Debug)]
pub(crate) struct DescriptorTable {
    pid: Pid,
    pidfd: OwnedFd,
    /// /proc/PID/fd
    dir: File,
    /// /proc/PID/fdinfo
    infos: File,
}

impl DescriptorTable {
    pub(crate) fn open(pid: Pid) -> Result<Self> {
        let pidfd = sys::pidfd_open(pid).map_err(DumpError::call(pid, "pidfd_open", "the process"))?;
        let dir = File::open(format!("/proc/{pid}/fd")).map_err(DumpError::proc(pid, "fd"))?;
        let infos = File::open(format!("/proc/{pid}/fdinfo")).map_err(DumpError::proc(pid, "fdinfo"))?;
        Ok(Self { pid, pidfd, dir, infos })
    }

    /// Takes descriptor `fd`.
    pub(crate) fn take(&self, fd: RawFd) -> Result<OpenFile> {
        let pid = self.pid;
        let call = |name| DumpError::call(pid, name, format!("descriptor {fd}"));
        let dup = sys::pidfd_getfd(self.pidfd.as_fd(), fd).map_err(call("pidfd_getfd"))?;
        let stat = fstat(&dup).map_err(call("fstat"))?;
        let flags = sys::status_flags(dup.as_fd()).map_err(call("fcntl"))?;
        let link = self.link(fd).map_err(call("readlink"))?;
        Ok(OpenFile { pid, fd, dup, stat, flags, link })
    }

    /// What `fd` leads to, without taking it; `None` if it is not open.
    pub(crate) fn glance(&self, fd: RawFd) -> Result<Option<(FileStat, PathBuf)>> {
        let name = fd.to_string();
        let seen =
            fstatat(&self.dir, name.as_str(), AtFlags::empty()).and_then(|stat| Ok((stat, self.link(fd)?)));
        match seen {
            Ok(seen) => Ok(Some(seen)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(DumpError::call(self.pid, "fstatat", format!("descriptor {fd}"))(e)),
        }
    }

    /// The file locks and leases taken through `fd`, as proc_locks(5) has them.
    ///
    /// /proc/locks is no place to ask: it makes the kernel wait for a grace period, and it lists a lock of an open
    /// file description under the process that took it, not those that inherited it.
    pub(crate) fn locks(&self, fd: RawFd) -> Result<Vec<String>> {
        let name = fd.to_string();
        let mut text = String::new();
        let opened = openat(&self.infos, name.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        match opened {
            Ok(info) => File::from(info).read_to_string(&mut text),
            // Closed since it was listed.
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
        .map_err(DumpError::proc(self.pid, format!("fdinfo/{fd}")))?;
        let locks = text.lines().filter_map(|line| line.strip_prefix("lock:"));
        Ok(locks.map(|lock| lock.trim().to_owned()).collect())
    }

    fn link(&self, fd: RawFd) -> Result<PathBuf, Errno> {
        readlinkat(&self.dir, fd.to_string().as_str()).map(PathBuf::from)
    }
}

impl OpenFile {
    pub(crate) fn is_pipe(&self) -> bool {
        self.kind() == Ok(ObjectKind::Pipe)
    }

    /// The same open file once more.
    pub(crate) fn again(&self) -> Result<Self> {
        let dup = self.dup.try_clone().map_err(DumpError::proc(self.pid, format!("fd/{}", self.fd)))?;
        Ok(Self { dup, link: self.link.clone(), ..*self })
    }

    pub(crate) fn kind(&self) -> Result<ObjectKind, Refusal> {
        classify(&self.stat, &self.link)
    }

    /// Text of its file in /proc/PID/fdinfo.
    fn fdinfo(&self) -> Result<String> {
        proc::read(self.pid, &format!("fdinfo/{}", self.fd))
    }

    fn fdinfo_field(&self, info: &str, name: &str) -> Result<String> {
        let field = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        field.map(|value| value.trim().to_owned()).ok_or_else(|| self.fdinfo_malformed(name))
    }

    fn fdinfo_malformed(&self, what: &str) -> DumpError {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, format!("no {what} as documented"));
        DumpError::Proc { pid: self.pid, file: format!("fdinfo/{}", self.fd), source }
    }

    /// Who is signalled about input. O_PATH descriptors have no such thing.
    fn fown(&self) -> FownEntry {
        let Ok(owner) = sys::owner(self.dup.as_fd()) else { return FownEntry::default() };
        if owner.pid == 0 && owner.signal == 0 {
            return FownEntry::default();
        }
        let [uid, euid] = sys::owner_uids(self.dup.as_fd()).unwrap_or_default();
        FownEntry {
            uid,
            euid,
            signum: owner.signal.unsigned_abs(),
            pid_type: owner.kind,
            pid: owner.pid.unsigned_abs(),
        }
    }
}

fn entry(kind: FdTypes, id: u32) -> FileEntry {
    FileEntry { r#type: kind.into(), id, ..Default::default() }
}

/// What kind of object a descriptor leads to.
pub(crate) fn classify(stat: &FileStat, link: &std::path::Path) -> Result<ObjectKind, Refusal> {
    let name = link.as_os_str().as_encoded_bytes();
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG if name.starts_with(b"/memfd:") && stat.st_nlink == 0 => Ok(ObjectKind::Memfd),
        libc::S_IFREG | libc::S_IFDIR => Ok(ObjectKind::Path),
        libc::S_IFCHR if plain_device(stat.st_rdev) => Ok(ObjectKind::Path),
        libc::S_IFCHR | libc::S_IFBLK if terminal(stat.st_rdev) => Err(Refusal::new(
            "terminals cannot be dumped",
            "start the program with setsid and its output in files",
        )),
        libc::S_IFCHR | libc::S_IFBLK => {
            Err(Refusal::new("devices with state of their own cannot be dumped", "close it before the dump"))
        }
        libc::S_IFLNK => {
            Err(Refusal::new("O_PATH descriptors of links cannot be dumped", "close it before the dump"))
        }
        libc::S_IFIFO if name.starts_with(b"pipe:[") => Ok(ObjectKind::Pipe),
        libc::S_IFIFO => Ok(ObjectKind::Fifo),
        libc::S_IFSOCK => Err(Refusal::new("sockets cannot be dumped yet", "close it before the dump")),
        _ => anonymous(name),
    }
}

fn anonymous(name: &[u8]) -> Result<ObjectKind, Refusal> {
    match name {
        b"anon_inode:[eventfd]" => Ok(ObjectKind::Eventfd),
        b"anon_inode:[eventpoll]" => Ok(ObjectKind::Eventpoll),
        b"anon_inode:[timerfd]" => Ok(ObjectKind::Timerfd),
        b"anon_inode:[signalfd]" => Ok(ObjectKind::Signalfd),
        _ => {
            let name = String::from_utf8_lossy(name);
            let kind = name.trim_start_matches("anon_inode:").trim_matches(['[', ']']).to_owned();
            Err(Refusal::new(format!("{kind} descriptors cannot be dumped"), "close it before the dump"))
        }
    }
}

/// /dev/null, zero, full, random, urandom: all their state is in the name.
fn plain_device(rdev: u64) -> bool {
    const MEMORY: u64 = 1;
    libc::major(rdev) as u64 == MEMORY && matches!(libc::minor(rdev), 3 | 5 | 7 | 8 | 9)
}

fn terminal(rdev: u64) -> bool {
    matches!(libc::major(rdev), 4 | 5 | 136..=143)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(path: &str) -> Result<ObjectKind, Refusal> {
        classify(&nix::sys::stat::stat(path).unwrap(), path.as_ref())
    }

    #[test]
    fn paths_and_devices() {
        for path in ["/", "/proc/self/exe", "/dev/null", "/dev/urandom"] {
            assert_eq!(kind_of(path), Ok(ObjectKind::Path), "{path}");
        }
        assert!(kind_of("/dev/tty").unwrap_err().reason.contains("terminals"));
    }

    #[test]
    fn unknown_anonymous_objects_are_named() {
        assert_eq!(anonymous(b"anon_inode:[eventfd]"), Ok(ObjectKind::Eventfd));
        assert_eq!(
            anonymous(b"anon_inode:[io_uring]").unwrap_err().reason,
            "io_uring descriptors cannot be dumped"
        );
    }
}
