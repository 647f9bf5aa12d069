//! Files of a directory replaced, all at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{ImageError, Result};

/// A directory being made to take the place of another.
#[derive(Debug)]
pub(crate) struct Staging {
    /// What it will replace, without links in its path.
    target: PathBuf,
    /// Beside it; in it, if the directory above is not ours to change.
    dir: tempfile::TempDir,
    beside: bool,
}

impl Staging {
    /// An empty one for `target`.
    pub(crate) fn new(target: &Path) -> Result<Self> {
        let target = fs::canonicalize(target).map_err(ImageError::io(target, "open"))?;
        let make = |dir: &Path| tempfile::Builder::new().prefix(".rewake-recode-").tempdir_in(dir);
        let beside = target
            .parent()
            .and_then(|above| make(above).ok())
            .filter(|dir| on_one_device(dir.path(), &target));
        let (dir, beside) = match beside {
            Some(dir) => (dir, true),
            None => (make(&target).map_err(ImageError::io(&target, "make a directory in"))?, false),
        };
        Ok(Self { target, dir, beside })
    }

    /// Where the new files are to be made.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Puts the files `names`, made here, in the place of those in the directory; the others stay. A crash leaves the directory as
    /// it was or with all of them, and perhaps the other one beside it under a hidden name. File systems that cannot exchange
    /// directories, and directories in which there are more, get one file after the other, in the order of `names`.
    pub(crate) fn commit(self, names: &[&str]) -> Result<()> {
        let io = |action| ImageError::io(&self.target, action);
        for name in names {
            let (from, to) = (self.path().join(name), self.target.join(name));
            let permissions = fs::metadata(&to).map_err(ImageError::io(&to, "stat"))?.permissions();
            fs::set_permissions(&from, permissions).map_err(ImageError::io(&from, "set the mode of"))?;
            let synced = File::open(&from).and_then(|file| file.sync_all());
            synced.map_err(ImageError::io(&from, "sync"))?;
        }
        if self.beside && self.adopt_others(names).map_err(io("link the files of"))? && self.exchange() {
            let above = self.target.parent().unwrap_or(&self.target);
            return File::open(above).and_then(|dir| dir.sync_all()).map_err(ImageError::io(above, "sync"));
        }
        for name in names {
            let to = self.target.join(name);
            fs::rename(self.path().join(name), &to).map_err(ImageError::io(&to, "put in place"))?;
        }
        File::open(&self.target).and_then(|dir| dir.sync_all()).map_err(io("sync"))
    }

    /// Makes everything else of the directory appear here, too, the same files; whether that could be done.
    fn adopt_others(&self, names: &[&str]) -> io::Result<bool> {
        for entry in fs::read_dir(&self.target)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| names.contains(&name)) {
                continue;
            }
            let (kind, to) = (entry.file_type()?, self.path().join(entry.file_name()));
            let done = if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(entry.path())?, to)
            } else if kind.is_dir() {
                return Ok(false);
            } else {
                fs::hard_link(entry.path(), to)
            };
            if done.is_err() {
                return Ok(false);
            }
        }
        let meta = fs::metadata(&self.target)?;
        let owner = std::os::unix::fs::MetadataExt::uid(&meta);
        let group = std::os::unix::fs::MetadataExt::gid(&meta);
        let same = std::os::unix::fs::chown(self.path(), Some(owner), Some(group))
            .and_then(|()| fs::set_permissions(self.path(), meta.permissions()));
        Ok(same.is_ok() && File::open(self.path())?.sync_all().is_ok())
    }

    #[cfg(target_os = "linux")]
    fn exchange(&self) -> bool {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, self.path(), CWD, &self.target, RenameFlags::EXCHANGE).is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn exchange(&self) -> bool {
        false
    }
}

fn on_one_device(a: &Path, b: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::dev(&meta)).ok();
    device(a).is_some() && device(a) == device(b)
}
