//! memfd_create(2), and shared anonymous memory.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};
use rewake_images::proto::{MemfdFileEntry, MemfdInodeEntry};
use rewake_images::{Checkpoint, Kind};

use crate::error::{RestoreError, Result};
use crate::sys;

/// Name of shared anonymous memory in the images, and in the kernel.
const ANONYMOUS: &str = "/dev/zero";

/// Creates an object with its contents; gives how many pages that were.
pub(super) fn create(inode: &MemfdInodeEntry, checkpoint: &Checkpoint) -> Result<(OwnedFd, u64)> {
    if inode.hugetlb_flag.unwrap_or(0) != 0 {
        return Err(RestoreError::unsupported(
            format!("memfd {}", inode.name),
            "hugetlb memory is not built yet",
        ));
    }
    if inode.name == ANONYMOUS {
        let object = anonymous(inode.size)?;
        let pages = fill(&object, checkpoint, inode.shmid.into(), inode.size)?;
        return Ok((object, pages));
    }
    let call = |name| RestoreError::call(name, format!("memfd {}", inode.name));
    let name = CString::new(inode.name.as_str())
        .map_err(|_| RestoreError::inconsistent("a memfd", "its name holds a zero byte"))?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let object = memfd_create(name.as_c_str(), flags).map_err(call("memfd_create"))?;
    let size = i64::try_from(inode.size)
        .map_err(|_| RestoreError::inconsistent("a memfd", "its size is negative"))?;
    nix::unistd::ftruncate(&object, size).map_err(call("ftruncate"))?;
    let pages = fill(&object, checkpoint, inode.shmid.into(), inode.size)?;
    let (uid, gid) = (nix::unistd::Uid::from_raw(inode.uid), nix::unistd::Gid::from_raw(inode.gid));
    nix::unistd::fchown(&object, Some(uid), Some(gid)).map_err(call("fchown"))?;
    if let Some(mode) = inode.mode {
        let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
        nix::sys::stat::fchmod(&object, mode).map_err(call("fchmod"))?;
    }
    sys::fcntl_int(object.as_fd(), libc::F_ADD_SEALS, inode.seals.cast_signed())
        .map_err(call("fcntl(F_ADD_SEALS)"))?;
    Ok((object, pages))
}

/// Shared memory without a name, as mmap(MAP_SHARED | MAP_ANONYMOUS) makes it: the kernel shows the object behind the
/// mapping as a file.
pub(super) fn anonymous(size: u64) -> Result<OwnedFd> {
    let len = usize::try_from(size)
        .map_err(|_| RestoreError::inconsistent("shared memory", "its size is out of range"))?;
    let at =
        sys::map_shared(len).map_err(RestoreError::call("mmap", format!("{size} bytes of shared memory")))?;
    let path = format!("/proc/self/map_files/{at:x}-{:x}", at + len);
    let object = File::options().read(true).write(true).open(&path).map_err(RestoreError::file(path, "open"));
    sys::unmap(at, len);
    Ok(object?.into())
}

/// Pages written by one call.
const PIECE: u64 = 512;

/// Puts back the contents of shared memory `shmid` of `size` bytes; gives how many pages there were.
pub(super) fn fill(object: &OwnedFd, checkpoint: &Checkpoint, shmid: u64, size: u64) -> Result<u64> {
    if !checkpoint.exists(Kind::PagemapShmem, Some(shmid)) {
        // Never written to.
        return Ok(0);
    }
    let store = checkpoint.shmem(shmid)?;
    let file = File::from(object.try_clone().map_err(RestoreError::file("/proc/self/fd", "duplicate"))?);
    let mut scratch = Vec::new();
    for piece in store.runs().iter().flat_map(|run| run.pieces(PIECE)) {
        let bytes = store.bytes(&piece, &mut scratch)?;
        // What lies behind the end in the last page is no part of it, and would make it longer.
        let left = usize::try_from(size.saturating_sub(piece.vaddr)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..left).unwrap_or(bytes);
        file.write_all_at(bytes, piece.vaddr)
            .map_err(RestoreError::file(format!("shared memory {shmid}"), "write"))?;
    }
    Ok(store.pages())
}

/// An open file of the object: the one it was made with, if that is wanted, which does not count as one that writes, so that
/// the program can go on executing the object.
pub(super) fn open(object: BorrowedFd<'_>, entry: &MemfdFileEntry, as_made: bool) -> Result<OwnedFd> {
    let fd = if as_made {
        let fd = object.try_clone_to_owned().map_err(RestoreError::file("/proc/self/fd", "duplicate"))?;
        let status = entry.flags.cast_signed();
        sys::fcntl_int(fd.as_fd(), libc::F_SETFL, status)
            .map_err(RestoreError::call("fcntl(F_SETFL)", format!("file {}", entry.id)))?;
        fd
    } else {
        super::reopen(object, entry.flags)?
    };
    if let (Ok(position), true) = (i64::try_from(entry.pos), entry.pos > 0) {
        lseek(&fd, position, Whence::SeekSet)
            .map_err(RestoreError::call("lseek", format!("descriptor {}", fd.as_raw_fd())))?;
    }
    Ok(fd)
}
