//! Where a checkpoint is read from: a directory, or an archive of a container engine.

use std::path::Path;

use rewake_images::archive::{Archive, Container, Contents};
use rewake_images::{Checkpoint, ImageError};

/// A checkpoint, and what keeps it readable.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(Box<Checkpoint>),
    Archive(Box<Archive>),
}

impl Source {
    /// Opens either; of an archive's memory, `contents`.
    pub(crate) fn open(path: &Path, contents: Contents) -> Result<Self, ImageError> {
        if path.is_file() {
            Archive::open(path, contents).map(|archive| Self::Archive(Box::new(archive)))
        } else {
            Checkpoint::open(path).map(|checkpoint| Self::Directory(Box::new(checkpoint)))
        }
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::Directory(checkpoint) => checkpoint,
            Self::Archive(archive) => archive.checkpoint(),
        }
    }

    pub(crate) fn container(&self) -> Option<&Container> {
        match self {
            Self::Directory(_) => None,
            Self::Archive(archive) => archive.container(),
        }
    }
}
