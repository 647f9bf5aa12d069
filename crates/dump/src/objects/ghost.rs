//! Files that were deleted while open: their contents go along.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::sys::stat::FileStat;
use rewake_images::extra::{AttributeExtra, GhostExtra};
use rewake_images::proto::{GhostChunkEntry, GhostFileEntry, Timeval};
use rewake_images::{CheckpointWriter, Kind};
use rewake_memdump::object_runs;

use super::Refusal;
use crate::error::{DumpError, Result as DumpResult};

/// A deleted file, to be written when nothing moves.
#[derive(Debug)]
pub(crate) struct Ghost {
    pub(crate) remap_id: u32,
    pub(crate) entry: GhostFileEntry,
    /// The file, open for reading; `None` if it has no contents (a named pipe, a directory).
    pub(crate) file: Option<File>,
    /// Its extended attributes.
    pub(crate) attributes: Vec<AttributeExtra>,
}

impl Ghost {
    pub(super) fn of(
        file: BorrowedFd<'_>,
        stat: &FileStat,
        remap_id: u32,
        limit: u64,
    ) -> Result<Self, Refusal> {
        // Holes cost nothing.
        let size = stat.st_size.min(stat.st_blocks.saturating_mul(BLOCK)).unsigned_abs();
        let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if regular && size > limit {
            let reason = format!("the file was deleted, and its {size} bytes exceed the limit of {limit}");
            return Err(Refusal::new(reason, "raise --ghost-limit"));
        }
        if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFIFO | libc::S_IFDIR) {
            return Err(Refusal::new(
                "it was deleted and is neither a file, a directory nor a named pipe",
                "close it before the dump",
            ));
        }
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let reopen = || File::open(&path);
        let failed = |e| {
            Refusal::new(format!("the file was deleted and cannot be read: {e}"), "close it before the dump")
        };
        let contents = if regular { Some(reopen().map_err(failed)?) } else { None };
        let time =
            |sec: i64, nsec: i64| Timeval { tv_sec: sec.unsigned_abs(), tv_usec: nsec.unsigned_abs() / 1000 };
        let entry = GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            dev: u32::try_from(kernel_dev(stat.st_dev)).ok(),
            ino: Some(stat.st_ino),
            rdev: None,
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            chunks: Some(false),
            size: regular.then_some(stat.st_size.unsigned_abs()),
            symlnk_target: None,
        };
        let attributes = attributes(&path).map_err(failed)?;
        Ok(Self { remap_id, entry, file: contents, attributes })
    }

    /// What the format has no place for, `None` if there is nothing.
    pub(crate) fn extra(&self) -> Option<GhostExtra> {
        let Self { remap_id, attributes, .. } = self;
        let extra = GhostExtra { remap_id: *remap_id, attributes: attributes.clone() };
        (!attributes.is_empty()).then_some(extra)
    }

    /// Writes its image: a file without holes in one piece if it is small, else in pieces, and never what is a hole.
    pub(crate) fn write(&self, writer: &CheckpointWriter) -> DumpResult<()> {
        let number = Some(u64::from(self.remap_id));
        let Some(file) = &self.file else {
            return Ok(writer.write(
                Kind::GhostFile,
                number,
                &GhostFileEntry { size: None, ..self.entry.clone() },
            )?);
        };
        let name = Kind::GhostFile.file_name(number);
        let failed = || DumpError::proc(nix::unistd::Pid::from_raw(0), format!("contents for {name}"));
        let size = self.entry.size();
        let runs = object_runs(file, 0..size).map_err(failed())?;
        let data = runs.iter().map(|run| run.start..run.end().min(size));
        let stored: u64 = data.clone().map(|range| range.end - range.start).sum();
        let chunks = stored < size || size > CHUNK;
        let mut image = writer.image(Kind::GhostFile, number)?;
        let mut bytes = Vec::new();
        let mut read = |from: u64, len: u64| -> DumpResult<Vec<u8>> {
            bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
            file.read_exact_at(&mut bytes, from).map_err(failed())?;
            Ok(bytes.clone())
        };
        if !chunks {
            image.push_with(&GhostFileEntry { size: None, ..self.entry.clone() }, &read(0, size)?)?;
            return Ok(image.finish()?);
        }
        image.push(&GhostFileEntry { chunks: Some(true), ..self.entry.clone() })?;
        for range in data {
            let mut off = range.start;
            while off < range.end {
                let len = (range.end - off).min(CHUNK);
                image.push_with(&GhostChunkEntry { len, off }, &read(off, len)?)?;
                off += len;
            }
        }
        Ok(image.finish()?)
    }
}

/// Extended attributes of the file behind a path, but for those that security modules give every file themselves.
fn attributes(path: &str) -> std::io::Result<Vec<AttributeExtra>> {
    const LABELS: [&[u8]; 4] = [b"security.selinux", b"security.SMACK64", b"security.ima", b"security.evm"];
    // What the kernel limits them to: XATTR_LIST_MAX and XATTR_SIZE_MAX.
    const MOST: usize = 64 << 10;
    let mut names = vec![0; MOST];
    let listed = match rustix::fs::listxattr(path, &mut names) {
        Ok(listed) => listed,
        // The file system has none.
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let names = names.get(..listed).unwrap_or_default().split(|&byte| byte == 0);
    let kept = names.filter(|name| !name.is_empty() && !LABELS.contains(name));
    kept.map(|name| {
        let mut value = vec![0; MOST];
        let len = rustix::fs::getxattr(path, name, &mut value)?;
        value.truncate(len);
        Ok(AttributeExtra { name: name.to_owned(), value })
    })
    .collect()
}

/// Bytes that `st_blocks` counts by, whatever `st_blksize` says, stat(2).
const BLOCK: i64 = 512;
/// Bytes that are held at once.
const CHUNK: u64 = 1 << 20;

/// The kernel's own encoding of a device number, which the format uses here.
fn kernel_dev(dev: u64) -> u64 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    u64::from(major) << 20 | u64::from(minor)
}
