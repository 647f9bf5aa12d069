//! memfd_create(2), and shared anonymous memory, which is kept the same way.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sys::stat::FileStat;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use rewake_images::proto::{FdTypes, FileEntry, MemfdFileEntry, MemfdInodeEntry};

use super::{OpenFile, Refusal, entry};
use crate::sys;

/// An object of shared memory, to be captured once.
#[derive(Debug)]
pub(crate) struct SharedObject {
    pub(crate) inode: MemfdInodeEntry,
    /// The object itself, to be read.
    pub(crate) file: OwnedFd,
}

pub(super) fn object(file: OwnedFd, stat: &FileStat, link: &Path, inode_id: u32) -> SharedObject {
    let seals = sys::seals(file.as_fd()).unwrap_or(0);
    let name = link.to_string_lossy();
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    let inode = MemfdInodeEntry {
        name: name.strip_prefix("/memfd:").unwrap_or(name).to_owned(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: stat.st_size.unsigned_abs(),
        shmid: inode_id,
        seals,
        inode_id: u64::from(inode_id),
        hugetlb_flag: None,
        mode: Some(stat.st_mode),
    };
    SharedObject { inode, file }
}

/// Why an object cannot be dumped, `None` if it can: the kernel shows one of huge pages under the same name.
pub(super) fn refusal(file: &OwnedFd) -> Option<Refusal> {
    let huge = fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == HUGETLBFS_MAGIC);
    huge.then(|| Refusal::new("hugetlb memory cannot be dumped yet", "close it before the dump"))
}

pub(super) fn survey(file: &OpenFile, id: u32, inode_id: u32) -> FileEntry {
    let memfd =
        MemfdFileEntry { id, flags: file.flags, pos: file.position.unwrap_or(0), fown: file.fown, inode_id };
    FileEntry { memfd: Some(memfd.into()), ..entry(FdTypes::Memfd, id) }
}

/// The entry of a mapping of the object: opened with `flags`, at no position.
pub(super) fn mapped(id: u32, flags: u32, inode_id: u32) -> FileEntry {
    let memfd = MemfdFileEntry { id, flags, inode_id, ..Default::default() };
    FileEntry { memfd: Some(memfd.into()), ..entry(FdTypes::Memfd, id) }
}
