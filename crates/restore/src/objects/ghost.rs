//! Files that were deleted while open: they come back under a name, are opened, and are deleted again.

use std::fs::{DirBuilder, File};
use std::io::BufReader;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, mkfifo};
use rewake_images::extra::GhostExtra;
use rewake_images::proto::{GhostChunkEntry, GhostFileEntry, Timeval};
use rewake_images::{Checkpoint, ImageReader, Kind};
use rustix::fs::XattrFlags;

use crate::error::{RestoreError, Result};

/// Where deleted files are while they are being opened. Call [`Self::remove`] when they are.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    by_remap: Vec<(u32, Ghost)>,
    /// Directories made because those of a file are gone as well, each before those in it.
    made: Vec<PathBuf>,
}

/// A deleted file as it is while it is being opened.
#[derive(Debug)]
enum Ghost {
    File(PathBuf),
    Directory(PathBuf),
    /// It never had a name, and may get one: open(2), O_TMPFILE.
    Unnamed(OwnedFd),
}

/// What is to be created.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) remap_id: u32,
    /// It was made by O_TMPFILE.
    pub(super) unnamed: bool,
    /// What the format has no place for.
    pub(super) extra: Option<&'a GhostExtra>,
}

impl Ghosts {
    /// A path that leads to the file.
    pub(super) fn path(&self, remap_id: u32) -> Option<PathBuf> {
        let (_, ghost) = self.by_remap.iter().find(|(id, _)| *id == remap_id)?;
        Some(match ghost {
            Ghost::File(path) | Ghost::Directory(path) => path.clone(),
            Ghost::Unnamed(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        })
    }

    /// Creates the file, under its old name if that is free.
    pub(super) fn create(&mut self, wanted: Wanted<'_>, checkpoint: &Checkpoint) -> Result<()> {
        const TRIES: u32 = 1000;
        let Wanted { name, remap_id, .. } = wanted;
        self.make_parents(Path::new(name))?;
        for number in 0..TRIES {
            let path = if number == 0 {
                PathBuf::from(name)
            } else {
                PathBuf::from(format!("{name}.ghost-{number}"))
            };
            match create_at(&path, wanted, checkpoint) {
                Err(RestoreError::File { source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    self.by_remap.push((remap_id, made?));
                    return Ok(());
                }
            }
        }
        Err(RestoreError::file(name, "find a free name beside")(Errno::EEXIST.into()))
    }

    /// Makes the directories that are not there.
    fn make_parents(&mut self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            const OWNER_ONLY: u32 = 0o700;
            DirBuilder::new().mode(OWNER_ONLY).create(dir).map_err(RestoreError::file(dir, "create"))?;
            self.made.push(dir.to_owned());
        }
        Ok(())
    }

    /// Takes all names away again; the first error is the one that is told.
    pub(super) fn remove(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        let mut directories = std::mem::take(&mut self.made);
        for (_, ghost) in self.by_remap.drain(..) {
            match ghost {
                Ghost::File(path) => {
                    let removed = std::fs::remove_file(&path);
                    outcome = outcome.and(removed.map_err(RestoreError::file(&path, "remove")));
                }
                Ghost::Directory(path) => directories.push(path),
                Ghost::Unnamed(_) => {}
            }
        }
        // What lies deeper first.
        directories.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        for path in directories {
            let removed = std::fs::remove_dir(&path);
            outcome = outcome.and(removed.map_err(RestoreError::file(&path, "remove")));
        }
        outcome
    }
}

/// A file from its image.
fn create_at(path: &Path, wanted: Wanted<'_>, checkpoint: &Checkpoint) -> Result<Ghost> {
    let inconsistent = |what| RestoreError::inconsistent(format!("ghost file {}", wanted.remap_id), what);
    let number = Some(u64::from(wanted.remap_id));
    let mut image =
        checkpoint.entries(Kind::GhostFile, number)?.ok_or_else(|| inconsistent("it has no image"))?;
    let (entry, contents) =
        image.next_message::<GhostFileEntry>()?.ok_or_else(|| inconsistent("its image is empty"))?;
    let mode = Mode::from_bits_truncate(entry.mode & 0o7777);
    let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    let failed = |action| RestoreError::file(path, action);
    let errno = |action| move |errno: Errno| RestoreError::file(path, action)(errno.into());
    let attributes = |file: &File| -> Result<()> {
        fchown(file, owner.0, owner.1).map_err(errno("change the owner of"))?;
        fchmod(file, mode).map_err(errno("change the mode of"))?;
        for attribute in wanted.extra.iter().flat_map(|extra| &extra.attributes) {
            let name = attribute.name.as_slice();
            if let Err(error) = rustix::fs::fsetxattr(file, name, &attribute.value, XattrFlags::empty()) {
                // Another file system may have none, and no file is worth more without a process.
                let name = String::from_utf8_lossy(name);
                tracing::warn!(path = %path.display(), %name, %error, "an extended attribute of a deleted file is lost");
            }
        }
        let [accessed, changed] = times(&entry);
        futimens(file, &accessed, &changed).map_err(errno("change the times of"))
    };
    match entry.mode & libc::S_IFMT {
        libc::S_IFREG => {
            let mut options = File::options();
            options.read(wanted.unnamed).write(true).mode(mode.bits());
            let file = match path.parent().filter(|_| wanted.unnamed) {
                Some(dir) => options.custom_flags(libc::O_TMPFILE).open(dir),
                None => options.create_new(true).open(path),
            };
            let file = file.map_err(failed("create"))?;
            let done =
                fill(&file, &entry, &contents, image, &inconsistent, path).and_then(|()| attributes(&file));
            if done.is_err() && !wanted.unnamed {
                // Only a whole one is known by its name.
                let _ = std::fs::remove_file(path);
            }
            done?;
            Ok(if wanted.unnamed { Ghost::Unnamed(file.into()) } else { Ghost::File(path.to_owned()) })
        }
        libc::S_IFIFO => {
            mkfifo(path, mode).map_err(errno("create"))?;
            let [accessed, changed] = times(&entry);
            fchownat(AT_FDCWD, path, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(errno("change the owner of"))
                // Some bits may have been masked.
                .and_then(|()| {
                    fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)
                        .map_err(errno("change the mode of"))
                })
                .and_then(|()| {
                    utimensat(AT_FDCWD, path, &accessed, &changed, UtimensatFlags::NoFollowSymlink)
                        .map_err(errno("change the times of"))
                })
                .inspect_err(|_| {
                    let _ = std::fs::remove_file(path);
                })?;
            Ok(Ghost::File(path.to_owned()))
        }
        libc::S_IFDIR => {
            DirBuilder::new().mode(mode.bits()).create(path).map_err(failed("create"))?;
            let made =
                File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path);
            made.map_err(failed("open")).and_then(|dir| attributes(&dir)).inspect_err(|_| {
                let _ = std::fs::remove_dir(path);
            })?;
            Ok(Ghost::Directory(path.to_owned()))
        }
        _ => {
            let object = format!("deleted file {}", path.display());
            Err(RestoreError::unsupported(object, "neither file, directory nor named pipe"))
        }
    }
}

/// Gives a file its contents, of which what no chunk covers is a hole.
fn fill(
    file: &File,
    entry: &GhostFileEntry,
    contents: &[u8],
    mut image: ImageReader<BufReader<File>>,
    inconsistent: &dyn Fn(&'static str) -> RestoreError,
    path: &Path,
) -> Result<()> {
    let failed = |action| RestoreError::file(path, action);
    file.write_all_at(contents, 0).map_err(failed("write"))?;
    if let Some(size) = entry.size {
        file.set_len(size).map_err(failed("size"))?;
    }
    while let Some((chunk, bytes)) = image.next_message::<GhostChunkEntry>()? {
        let end = chunk.off.checked_add(chunk.len);
        if end.is_none_or(|end| end > entry.size().next_multiple_of(rewake_images::PAGE_SIZE)) {
            return Err(inconsistent("a chunk lies outside"));
        }
        let left = usize::try_from(entry.size().saturating_sub(chunk.off)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..left).unwrap_or(&bytes);
        file.write_all_at(bytes, chunk.off).map_err(failed("write"))?;
    }
    Ok(())
}

/// The times of the last access and the last change of contents, as far as the image has them.
fn times(entry: &GhostFileEntry) -> [TimeSpec; 2] {
    [entry.atim.as_ref(), entry.mtim.as_ref()].map(|time: Option<&Timeval>| {
        time.map_or(TimeSpec::UTIME_OMIT, |time| {
            let micros = i64::try_from(time.tv_usec).unwrap_or(0);
            TimeSpec::new(i64::try_from(time.tv_sec).unwrap_or(i64::MAX), micros * 1000)
        })
    })
}
