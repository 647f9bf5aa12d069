//! Where a checkpoint is read from: a directory, or an archive of a container engine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rewake_images::archive::{Archive, Contents};
use rewake_images::{Checkpoint, ImageError, Kind};

/// A checkpoint, and what keeps it readable.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(Box<Checkpoint>),
    Archive(Box<Archive>),
}

impl Source {
    /// Opens either; of an archive's memory, `contents`. `ARCHIVE::NAME` is one of several checkpoints in an archive.
    pub(crate) fn open(path: &Path, contents: Contents) -> Result<Self, ImageError> {
        let (path, name) = split(path);
        if is_archive(path) {
            Archive::open(path, name, contents).map(|archive| Self::Archive(Box::new(archive)))
        } else {
            Checkpoint::open(path).map(|checkpoint| Self::Directory(Box::new(checkpoint)))
        }
    }

    /// Opens all there are, or the one that `ARCHIVE::NAME` names.
    pub(crate) fn open_all(path: &Path, contents: Contents) -> Result<Vec<Self>, ImageError> {
        if let (archive, None) = split(path)
            && is_archive(archive)
        {
            let all = Archive::open_all(archive, contents)?;
            return Ok(all.into_iter().map(|archive| Self::Archive(Box::new(archive))).collect());
        }
        Ok(vec![Self::open(path, contents)?])
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::Directory(checkpoint) => checkpoint,
            Self::Archive(archive) => archive.checkpoint(),
        }
    }

    pub(crate) fn archive(&self) -> Option<&Archive> {
        match self {
            Self::Directory(_) => None,
            Self::Archive(archive) => Some(archive),
        }
    }
}

/// The archive, and the name of the checkpoint in it. A file whose own name has the separator is a file.
fn split(path: &Path) -> (&Path, Option<&str>) {
    const SEPARATOR: &[u8] = b"::";
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.windows(SEPARATOR.len()).rposition(|window| window == SEPARATOR);
    match at.filter(|_| !path.exists()).and_then(|at| bytes.split_at_checked(at)) {
        Some((archive, name)) => {
            let name = name.get(SEPARATOR.len()..).and_then(|name| std::str::from_utf8(name).ok());
            (Path::new(OsStr::from_bytes(archive)), name)
        }
        None => (path, None),
    }
}

/// A file, or a directory that is no checkpoint itself but has an engine's in it.
fn is_archive(path: &Path) -> bool {
    path.is_file()
        || (path.is_dir() && !path.join(Kind::Inventory.file_name(None)).exists() && holds_some(path))
}

fn holds_some(dir: &Path) -> bool {
    ["config.dump", "index.json", "manifest.json", "pod.options", "checkpoint", "checkpoints"]
        .iter()
        .any(|name| dir.join(name).exists())
}
