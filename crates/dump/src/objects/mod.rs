//! What a descriptor can lead to: one module per kind of object.

mod descriptors;
mod eventfd;
mod eventpoll;
mod ghost;
mod locks;
mod memfd;
mod pipe;
mod regfile;
mod signalfd;
mod table;
mod timerfd;

use nix::sys::stat::FileStat;
use rewake_images::proto::{FdTypes, FileEntry};

pub(crate) use descriptors::{DescriptorTable, Glance, OpenFile, Search};
pub(crate) use ghost::Ghost;
pub(crate) use locks::not_asked_for;
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
