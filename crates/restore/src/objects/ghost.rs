//! Files that were deleted while open: they come back under a name, are opened, and are deleted again.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, mkfifo};
use rewake_images::proto::{GhostChunkEntry, GhostFileEntry, Timeval};
use rewake_images::{Checkpoint, Kind};

use crate::error::{RestoreError, Result};

/// Creates the file, under its old name if that is free; gives the name it has.
pub(super) fn create(name: &str, remap_id: u32, checkpoint: &Checkpoint) -> Result<PathBuf> {
    const TRIES: u32 = 1000;
    for number in 0..TRIES {
        let path =
            if number == 0 { PathBuf::from(name) } else { PathBuf::from(format!("{name}.ghost-{number}")) };
        match create_at(&path, remap_id, checkpoint) {
            Err(RestoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            done => return done.map(|()| path),
        }
    }
    Err(RestoreError::file(name, "find a free name beside")(Errno::EEXIST.into()))
}

/// An image of a deleted file.
fn create_at(path: &Path, remap_id: u32, checkpoint: &Checkpoint) -> Result<()> {
    let inconsistent = |what| RestoreError::inconsistent(format!("ghost file {remap_id}"), what);
    let number = Some(u64::from(remap_id));
    let mut image =
        checkpoint.entries(Kind::GhostFile, number)?.ok_or_else(|| inconsistent("it has no image"))?;
    let (entry, contents) =
        image.next_message::<GhostFileEntry>()?.ok_or_else(|| inconsistent("its image is empty"))?;
    let failed = |action| RestoreError::file(path, action);
    let errno = |action| move |errno: Errno| RestoreError::file(path, action)(errno.into());
    match entry.mode & libc::S_IFMT {
        libc::S_IFREG => {
            let mode = entry.mode & 0o7777;
            let options = File::options().write(true).create_new(true).mode(mode).open(path);
            let file = options.map_err(failed("create"))?;
            let filled = (|| {
                file.write_all_at(&contents, 0).map_err(failed("write"))?;
                if let Some(size) = entry.size {
                    file.set_len(size).map_err(failed("size"))?;
                }
                // What no chunk covers is a hole.
                while let Some((chunk, bytes)) = image.next_message::<GhostChunkEntry>()? {
                    let end = chunk.off.checked_add(chunk.len);
                    if end.is_none_or(|end| end > entry.size().next_multiple_of(rewake_images::PAGE_SIZE)) {
                        return Err(inconsistent("a chunk lies outside"));
                    }
                    let left = usize::try_from(entry.size().saturating_sub(chunk.off)).unwrap_or(usize::MAX);
                    let bytes = bytes.get(..left).unwrap_or(&bytes);
                    file.write_all_at(bytes, chunk.off).map_err(failed("write"))?;
                }
                fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                    .map_err(errno("change the owner of"))?;
                fchmod(&file, Mode::from_bits_truncate(mode)).map_err(errno("change the mode of"))?;
                put_times(path, &entry).map_err(errno("change the times of"))
            })();
            if filled.is_err() {
                // Only a whole one has a name to be removed by.
                let _ = std::fs::remove_file(path);
            }
            filled
        }
        libc::S_IFIFO => {
            mkfifo(path, Mode::from_bits_truncate(entry.mode & 0o7777)).map_err(errno("create"))?;
            nix::unistd::chown(path, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
                .map_err(errno("change the owner of"))?;
            put_times(path, &entry).map_err(errno("change the times of"))
        }
        _ => Err(RestoreError::unsupported(
            format!("deleted file {}", path.display()),
            "neither file nor named pipe",
        )),
    }
}

/// The times of the last access and the last change of contents, as far as the image has them.
fn put_times(path: &Path, entry: &GhostFileEntry) -> nix::Result<()> {
    let time = |time: Option<&Timeval>| {
        time.map_or(TimeSpec::UTIME_OMIT, |time| {
            let micros = i64::try_from(time.tv_usec).unwrap_or(0);
            TimeSpec::new(i64::try_from(time.tv_sec).unwrap_or(i64::MAX), micros * 1000)
        })
    };
    let (accessed, changed) = (time(entry.atim.as_ref()), time(entry.mtim.as_ref()));
    utimensat(nix::fcntl::AT_FDCWD, path, &accessed, &changed, UtimensatFlags::NoFollowSymlink)
}
