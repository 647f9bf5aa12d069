//! Making a checkpoint appear at once, or not at all.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use prost::Message;

use crate::error::{ImageError, Result};
use crate::framing::ImageWriter;
use crate::kind::Kind;
use crate::pagemap::PARENT_LINK;
use crate::{Layout, proto};

/// Writes a checkpoint into a staging directory, which takes its place when [`Self::commit`] is called. Dropped before
/// that, it leaves nothing behind.
///
/// A directory that exists already (made for its access rights, a mount point, holding a `parent` link or logs) is kept:
/// staging then happens in a hidden directory inside, and the images move out of it, the inventory last. Either way a
/// directory with an `inventory.img` is a complete checkpoint.
#[derive(Debug)]
pub struct CheckpointWriter {
    target: PathBuf,
    staging: PathBuf,
    /// Staging lies inside the target, which existed before.
    inside: bool,
    next_pages_id: AtomicU32,
    /// Images written so far are on disk already.
    synced: bool,
    parent: Option<PathBuf>,
    committed: bool,
}

impl CheckpointWriter {
    /// Prepares a checkpoint in `dir`.
    ///
    /// # Errors
    /// [`ImageError::Exists`] if it holds one already; [`ImageError::Io`].
    pub fn create(dir: impl Into<PathBuf>) -> Result<Self> {
        let target: PathBuf = dir.into();
        if target.join(Kind::Inventory.file_name(None)).exists() {
            return Err(ImageError::Exists { path: target });
        }
        let inside = target.exists();
        let hidden = format!(".rewake-{}", std::process::id());
        let staging = if inside {
            target.join(hidden)
        } else {
            let mut name = target.file_name().map(ToOwned::to_owned).unwrap_or_default();
            name.push(hidden);
            target.with_file_name(name)
        };
        fs::create_dir(&staging).map_err(ImageError::io(&staging, "create"))?;
        Ok(Self {
            target,
            staging,
            inside,
            next_pages_id: AtomicU32::new(1),
            parent: None,
            synced: false,
            committed: false,
        })
    }

    /// Where the files are until [`Self::commit`]: for files of other makers.
    #[must_use]
    pub fn staging_dir(&self) -> &Path {
        &self.staging
    }

    /// Makes this the child of an earlier checkpoint: a `parent` link with the text `link`, relative to the directory
    /// of this one. Gives the parent's directory, to be read from now on.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if no checkpoint is there, or another `parent` link is in the way; [`ImageError::Io`].
    pub fn set_parent(&mut self, link: &Path) -> Result<PathBuf> {
        let base = if self.inside { &self.target } else { &self.staging };
        let dir = base.join(link);
        let invalid = |what: &str| ImageError::Invalid { path: dir.clone(), what: what.into() };
        if !dir.join(Kind::Inventory.file_name(None)).is_file() {
            return Err(invalid("there is no checkpoint that could be the parent"));
        }
        match fs::read_link(self.target.join(PARENT_LINK)) {
            Ok(present) if present != link => return Err(invalid("another parent link is there already")),
            _ => self.parent = Some(link.to_owned()),
        }
        dir.canonicalize().map_err(ImageError::io(&dir, "resolve"))
    }

    /// Writes an image of one entry.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn write<M: Message>(&self, kind: Kind, number: Option<u64>, message: &M) -> Result<()> {
        let mut image = self.image(kind, number)?;
        image.push(message)?;
        image.finish()
    }

    /// Writes an image of any number of entries; no file if there are none.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn write_all<M: Message>(&self, kind: Kind, number: Option<u64>, messages: &[M]) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut image = self.image(kind, number)?;
        for message in messages {
            image.push(message)?;
        }
        image.finish()
    }

    /// Starts an image, which is created now: call it with the first entry in hand.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn image(&self, kind: Kind, number: Option<u64>) -> Result<ImageWriter<BufWriter<File>>> {
        ImageWriter::create(kind, Layout::V11, self.staging.join(kind.file_name(number)))
    }

    /// Creates the next pages file.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn pages(&self) -> Result<PagesWriter> {
        let pages_id = self.next_pages_id.fetch_add(1, Ordering::Relaxed);
        let path = self.staging.join(Kind::Pages.file_name(Some(pages_id.into())));
        let file = File::create_new(&path).map_err(ImageError::io(&path, "create"))?;
        Ok(PagesWriter { pages_id, path, file })
    }

    /// Writes the pagemap (of a task or of shared memory) of the pages file `pages_id`.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn write_pagemap(
        &self,
        kind: Kind,
        number: u64,
        pages_id: u32,
        entries: &[proto::PagemapEntry],
    ) -> Result<()> {
        let mut image = self.image(kind, Some(number))?;
        image.push(&proto::PagemapHead { pages_id })?;
        for entry in entries {
            image.push(entry)?;
        }
        image.finish()
    }

    /// Says that all images written so far have been brought to disk by the caller, say with syncfs(2): one call costs
    /// less than one for each of a thousand files.
    pub fn synced(&mut self) {
        self.synced = true;
    }

    /// Writes the inventory, brings everything to disk and puts the checkpoint in its place.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Exists`] if another checkpoint took the place meanwhile.
    pub fn commit(mut self, inventory: &proto::InventoryEntry) -> Result<()> {
        self.write(Kind::Inventory, None, inventory)?;
        let inventory_name = Kind::Inventory.file_name(None);
        let mut names = Vec::new();
        let list = || ImageError::io(&self.staging, "list");
        for entry in fs::read_dir(&self.staging).map_err(list())? {
            names.push(entry.map_err(list())?.file_name());
        }
        if self.synced {
            sync(&self.staging, &[inventory_name.clone().into()])?;
        } else {
            sync(&self.staging, &names)?;
        }
        if self.target.join(&inventory_name).exists() {
            return Err(ImageError::Exists { path: self.target.clone() });
        }
        if let Some(parent) = &self.parent {
            let link = if self.inside { &self.target } else { &self.staging }.join(PARENT_LINK);
            match std::os::unix::fs::symlink(parent, &link) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && self.inside => {}
                made => made.map_err(ImageError::io(&link, "make"))?,
            }
        }
        if self.inside {
            names.retain(|name| *name != *inventory_name);
            names.push(inventory_name.into());
            for name in &names {
                let to = self.target.join(name);
                fs::rename(self.staging.join(name), &to).map_err(ImageError::io(&to, "put in place"))?;
            }
            fs::remove_dir(&self.staging).map_err(ImageError::io(&self.staging, "remove"))?;
        } else {
            fs::rename(&self.staging, &self.target).map_err(ImageError::io(&self.target, "put in place"))?;
        }
        self.committed = true;
        if let Some(parent) = self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_file(parent)?;
        }
        Ok(())
    }
}

/// Syncs the directory's files. Linux has one call for a whole file system, but it waits for everybody's data.
fn sync(dir: &Path, names: &[std::ffi::OsString]) -> Result<()> {
    for name in names {
        sync_file(&dir.join(name))?;
    }
    sync_file(dir)
}

fn sync_file(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(ImageError::io(path, "open"))?;
    match file.sync_all() {
        // Some file systems have nothing to sync and say so.
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        done => done.map_err(ImageError::io(path, "sync")),
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if !self.committed {
            // Nobody is left to tell; what stays is a hidden directory that no reader takes for a checkpoint.
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

/// A pages file being written.
#[derive(Debug)]
pub struct PagesWriter {
    pages_id: u32,
    path: PathBuf,
    file: File,
}

impl PagesWriter {
    /// Its number, for the pagemap.
    #[must_use]
    pub fn pages_id(&self) -> u32 {
        self.pages_id
    }

    /// Its path while staged.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file: pages lie in it in the order of the pagemap, from offset 0, without gaps.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoint;

    fn inventory() -> proto::InventoryEntry {
        proto::InventoryEntry { img_version: 2, ..Default::default() }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_at_once_beside_or_inside() {
        let dir = tempfile::tempdir().unwrap();
        for exists in [false, true] {
            let target = dir.path().join(format!("checkpoint-{exists}"));
            if exists {
                fs::create_dir(&target).unwrap();
                fs::write(target.join("dump.log"), "mine").unwrap();
            }
            let writer = CheckpointWriter::create(&target).unwrap();
            writer.write(Kind::Mm, Some(7), &proto::MmEntry::default()).unwrap();
            assert!(Checkpoint::open(&target).is_err(), "not before it is whole");
            writer.commit(&inventory()).unwrap();
            let checkpoint = Checkpoint::open(&target).unwrap();
            assert!(checkpoint.exists(Kind::Mm, Some(7)));
            assert!(matches!(CheckpointWriter::create(&target), Err(ImageError::Exists { .. })));
        }
        assert_eq!(names(dir.path()), ["checkpoint-false", "checkpoint-true"]);
        assert_eq!(names(&dir.path().join("checkpoint-true")), ["dump.log", "inventory.img", "mm-7.img"]);
    }

    #[test]
    fn a_parent_is_linked_wherever_the_child_is_staged() {
        let dir = tempfile::tempdir().unwrap();
        CheckpointWriter::create(dir.path().join("1")).unwrap().commit(&inventory()).unwrap();
        fs::create_dir(dir.path().join("3")).unwrap();
        for child in ["2", "3"] {
            let target = dir.path().join(child);
            let mut writer = CheckpointWriter::create(&target).unwrap();
            let missing = writer.set_parent(Path::new("../nowhere")).unwrap_err();
            assert!(matches!(missing, ImageError::Invalid { .. }), "{missing}");
            let parent = writer.set_parent(Path::new("../1")).unwrap();
            assert_eq!(parent, dir.path().join("1").canonicalize().unwrap());
            writer.commit(&inventory()).unwrap();
            assert_eq!(fs::read_link(target.join("parent")).unwrap(), Path::new("../1"));
        }
    }

    #[test]
    fn given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("checkpoint");
        let writer = CheckpointWriter::create(&target).unwrap();
        let _pages = writer.pages().unwrap();
        drop(writer);
        assert!(names(dir.path()).is_empty());
    }
}
