//! A checkpoint opened for reading.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use prost::{Message, Name};

use crate::error::{ImageError, Result};
use crate::framing::ImageReader;
use crate::kind::Kind;
use crate::pagemap::PageStore;
use crate::{Layout, proto};

/// A directory of images. Holds the inventory; every other image is read when asked for.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    dir: PathBuf,
    inventory: proto::InventoryEntry,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`.
    ///
    /// # Errors
    /// Any error of reading `inventory.img`; [`ImageError::Invalid`] for an image version this crate does not know.
    /// The directory of a pre-dump, which holds memory alone, has version 0 and is accepted.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join(Kind::Inventory.file_name(None));
        let inventory: proto::InventoryEntry = single(ImageReader::open(Kind::Inventory, &path)?, &path)?;
        let version = inventory.img_version;
        if version > 3 || (version == 0 && inventory.pre_dump_mode.is_none()) {
            return Err(ImageError::Invalid { path, what: format!("image version {version} is not known") });
        }
        Ok(Self { dir, inventory })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the dumper said of itself and of the host.
    #[must_use]
    pub fn inventory(&self) -> &proto::InventoryEntry {
        &self.inventory
    }

    /// Whether it is nothing but memory, copied before a dump.
    #[must_use]
    pub fn is_pre_dump(&self) -> bool {
        self.inventory.img_version == 0 || self.inventory.pre_dump_mode.is_some()
    }

    /// Layout of its images.
    #[must_use]
    pub fn layout(&self) -> Layout {
        if self.inventory.img_version == 1 { Layout::V10 } else { Layout::V11 }
    }

    /// Every image in the directory, by kind and number. Files of other names (logs, an engine's own) are left out.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn images(&self) -> Result<Vec<(Kind, Option<u64>, PathBuf)>> {
        let list = || ImageError::io(&self.dir, "list");
        let mut images = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(list())? {
            let entry = entry.map_err(list())?;
            let name = entry.file_name();
            if let Some((kind, number)) = name.to_str().and_then(Kind::from_file_name) {
                images.push((kind, number, entry.path()));
            }
        }
        images.sort();
        Ok(images)
    }

    /// Path of an image, whether it exists or not.
    #[must_use]
    pub fn path(&self, kind: Kind, number: Option<u64>) -> PathBuf {
        self.dir.join(kind.file_name(number))
    }

    /// Whether the image is there.
    #[must_use]
    pub fn exists(&self, kind: Kind, number: Option<u64>) -> bool {
        self.path(kind, number).is_file()
    }

    /// The one entry of an image of a single entry.
    ///
    /// # Errors
    /// Any error of reading it; [`ImageError::EntryCount`] for none or several.
    pub fn read<M: Message + Name + Default>(&self, kind: Kind, number: Option<u64>) -> Result<M> {
        let path = self.path(kind, number);
        single(ImageReader::open(kind, &path)?, &path)
    }

    /// As [`Self::read`], `None` if there is no such image.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_opt<M: Message + Name + Default>(
        &self,
        kind: Kind,
        number: Option<u64>,
    ) -> Result<Option<M>> {
        let path = self.path(kind, number);
        self.entries_at(kind, &path)?.map(|reader| single(reader, &path)).transpose()
    }

    /// All entries of an array image, without what follows them. Empty if there is no such image.
    ///
    /// # Errors
    /// Any error of reading it.
    pub fn read_all<M: Message + Name + Default>(&self, kind: Kind, number: Option<u64>) -> Result<Vec<M>> {
        let mut all = Vec::new();
        if let Some(mut reader) = self.entries(kind, number)? {
            while let Some((message, _)) = reader.next_message()? {
                all.push(message);
            }
        }
        Ok(all)
    }

    /// All entries of an array image, each with the bytes that follow it. Empty if there is no such image.
    ///
    /// # Errors
    /// Any error of reading it.
    pub fn read_all_with<M: Message + Name + Default>(
        &self,
        kind: Kind,
        number: Option<u64>,
    ) -> Result<Vec<(M, Vec<u8>)>> {
        let mut all = Vec::new();
        if let Some(mut reader) = self.entries(kind, number)? {
            while let Some(entry) = reader.next_message()? {
                all.push(entry);
            }
        }
        Ok(all)
    }

    /// A reader of the entries of an image, `None` if there is no such image.
    ///
    /// # Errors
    /// As [`ImageReader::open`].
    pub fn entries(&self, kind: Kind, number: Option<u64>) -> Result<Option<ImageReader<BufReader<File>>>> {
        self.entries_at(kind, &self.path(kind, number))
    }

    fn entries_at(&self, kind: Kind, path: &Path) -> Result<Option<ImageReader<BufReader<File>>>> {
        match ImageReader::open(kind, path) {
            Err(ImageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            reader => reader.map(Some),
        }
    }

    /// The process tree, root first.
    ///
    /// # Errors
    /// Any error of reading `pstree.img`; [`ImageError::EntryCount`] for an empty one.
    pub fn tasks(&self) -> Result<Vec<proto::PstreeEntry>> {
        let tasks = self.read_all(Kind::Pstree, None)?;
        if tasks.is_empty() {
            let path = self.path(Kind::Pstree, None);
            return Err(ImageError::EntryCount { path, found: 0, expected: "at least one task" });
        }
        Ok(tasks)
    }

    /// Registers and scheduling of a thread; of a task as well, if `tid` is its first thread.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn core(&self, tid: u64) -> Result<proto::CoreEntry> {
        self.read(Kind::Core, Some(tid))
    }

    /// What was queued in the pipes.
    ///
    /// # Errors
    /// As [`Self::read_all`].
    pub fn pipe_data(&self) -> Result<Vec<(proto::PipeDataEntry, Vec<u8>)>> {
        self.read_all_with(Kind::PipesData, None)
    }

    /// Memory of a task.
    ///
    /// # Errors
    /// As [`PageStore::open`].
    pub fn memory(&self, pid: u64) -> Result<PageStore> {
        PageStore::open(&self.dir, Kind::Pagemap, pid)
    }

    /// Memory of a shared object: anonymous mapping, memfd or System V segment.
    ///
    /// # Errors
    /// As [`PageStore::open`].
    pub fn shmem(&self, shmid: u64) -> Result<PageStore> {
        PageStore::open(&self.dir, Kind::PagemapShmem, shmid)
    }
}

fn single<M: Message + Name + Default>(mut reader: ImageReader<BufReader<File>>, path: &Path) -> Result<M> {
    let count = |found| ImageError::EntryCount { path: path.to_owned(), found, expected: "one" };
    let (message, _) = reader.next_message()?.ok_or_else(|| count(0))?;
    match reader.next_entry()? {
        None => Ok(message),
        Some(_) => Err(count(2)),
    }
}
