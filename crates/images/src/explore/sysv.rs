//! System V objects of a checkpoint: segments, semaphores, message queues.

use std::fmt;

use serde::Serialize;

use super::explorer::Explorer;
use super::search::Space;
use crate::error::{ImageError, Result};
use crate::framing::{self, ImageWriter};
use crate::kind::Kind;
use crate::pagemap::{PageStore, pe};
use crate::{Layout, PAGE_SIZE, proto};

/// A System V object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IpcObject {
    /// What it is, and how much of it there is.
    #[serde(flatten)]
    pub kind: IpcKind,
    /// Its identifier.
    pub id: u32,
    /// Its key, 0 if it is private.
    #[serde(serialize_with = "hex32")]
    pub key: u32,
    /// Its owner.
    pub uid: u32,
    /// Its permissions.
    pub mode: u32,
}

/// Kinds of System V objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum IpcKind {
    /// Shared memory.
    Segment {
        /// In bytes.
        size: u64,
    },
    /// A set of semaphores.
    Semaphores {
        /// How many.
        count: u32,
    },
    /// A message queue.
    Queue {
        /// Messages in it.
        messages: u32,
    },
}

fn hex32<S: serde::Serializer>(value: &u32, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

impl fmt::Display for IpcObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IpcKind::Segment { size } => write!(f, "segment {} of {}", self.id, super::names::size(size))?,
            IpcKind::Semaphores { count } => write!(f, "{count} semaphores {}", self.id)?,
            IpcKind::Queue { messages } => write!(f, "queue {} with {messages} messages", self.id)?,
        }
        write!(f, ", key {:#x}, mode {:o}, user {}", self.key, self.mode & 0o777, self.uid)
    }
}

impl Explorer<'_> {
    /// All System V objects, of every namespace in the checkpoint.
    ///
    /// # Errors
    /// Any error of reading their images.
    pub fn ipc_objects(&self) -> Result<Vec<IpcObject>> {
        let mut all = Vec::new();
        let mut put = |desc: proto::IpcDescEntry, kind| {
            let proto::IpcDescEntry { key, uid, mode, id, .. } = desc;
            all.push(IpcObject { kind, id, key, uid, mode });
        };
        for (kind, number, _) in self.checkpoint.images()? {
            match kind {
                Kind::IpcnsShm => {
                    for entry in self.checkpoint.read_all::<proto::IpcShmEntry>(kind, number)? {
                        put(entry.desc, IpcKind::Segment { size: entry.size });
                    }
                }
                Kind::IpcnsSem => {
                    for entry in self.checkpoint.read_all::<proto::IpcSemEntry>(kind, number)? {
                        put(entry.desc, IpcKind::Semaphores { count: entry.nsems });
                    }
                }
                Kind::IpcnsMsg => {
                    for entry in self.checkpoint.read_all::<proto::IpcMsgEntry>(kind, number)? {
                        put(entry.desc, IpcKind::Queue { messages: entry.qnum });
                    }
                }
                _ => {}
            }
        }
        Ok(all)
    }

    /// Segments whose contents follow their entry, as CRIU wrote them before they went to pagemaps.
    pub(super) fn inline_segments(&self) -> Result<Vec<Space>> {
        let mut spaces = Vec::new();
        self.each_inline_segment(|segment, _| {
            spaces.push(Space::Shmid(segment.desc.id.into()));
            Ok(true)
        })?;
        Ok(spaces)
    }

    /// The pages of such a segment, `None` if there is none of this id.
    pub(super) fn inline_segment(&self, id: u64) -> Result<Option<PageStore>> {
        let mut found = None;
        self.each_inline_segment(|segment, mut contents| {
            if u64::from(segment.desc.id) != id {
                return Ok(true);
            }
            let pages = contents.len().next_multiple_of(usize::try_from(PAGE_SIZE).unwrap_or(1));
            contents.resize(pages, 0);
            found = Some(store_of(id, &contents)?);
            Ok(false)
        })?;
        Ok(found)
    }

    fn each_inline_segment(
        &self,
        mut each: impl FnMut(proto::IpcShmEntry, Vec<u8>) -> Result<bool>,
    ) -> Result<()> {
        for (kind, number, path) in self.checkpoint.images()? {
            if kind != Kind::IpcnsShm {
                continue;
            }
            let Some(mut reader) = self.checkpoint.entries(kind, number)? else { continue };
            while let Some(mut entry) = reader.next_entry()? {
                let segment: proto::IpcShmEntry = framing::decode(&path, &entry)?;
                let contents = std::mem::take(&mut entry.payload);
                if !segment.in_pagemaps() && !contents.is_empty() && !each(segment, contents)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A store of whole pages; the files it reads have no names any more.
fn store_of(id: u64, pages: &[u8]) -> Result<PageStore> {
    let dir = tempfile::tempdir().map_err(ImageError::io("pages of a segment", "make a directory for"))?;
    let path = dir.path().join(Kind::PagemapShmem.file_name(Some(id)));
    let mut map = ImageWriter::create(Kind::PagemapShmem, Layout::V11, path)?;
    map.push(&proto::PagemapHead { pages_id: 1 })?;
    let nr_pages = Some(pages.len() as u64 / PAGE_SIZE);
    map.push(&proto::PagemapEntry { vaddr: 0, nr_pages, flags: Some(pe::PRESENT), ..Default::default() })?;
    map.finish()?;
    let path = dir.path().join(Kind::Pages.file_name(Some(1)));
    std::fs::write(&path, pages).map_err(ImageError::io(&path, "write"))?;
    PageStore::open(dir.path(), Kind::PagemapShmem, id)
}
