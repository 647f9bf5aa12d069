//! Reading a pagemap.

use std::path::{Path, PathBuf};

use super::blocks::{Blocks, Places, Stored};
use super::entry::{flags_of, pages_of};
use super::run::PageRun;
use crate::error::{ImageError, Result};
use crate::framing::ImageReader;
use crate::kind::Kind;
use crate::{PAGE_SIZE, proto};

/// What one pagemap says, before its parents are asked.
#[derive(Debug)]
pub(super) struct Pagemap {
    pub(super) path: PathBuf,
    pub(super) pages_id: u32,
    /// Ascending, not overlapping; `file_offset` is meaningless without [`super::pe::PRESENT`].
    pub(super) runs: Vec<PageRun>,
    /// Of those that are compressed, ascending.
    pub(super) blocks: Vec<Blocks>,
    /// Bytes that the pages file must have.
    pub(super) size: u64,
}

pub(super) fn read_pagemap(kind: Kind, path: &Path) -> Result<Pagemap> {
    let mut reader = ImageReader::open(kind, path)?;
    let Some((head, _)) = reader.next_message::<proto::PagemapHead>()? else {
        return Err(ImageError::EntryCount { path: path.to_owned(), found: 0, expected: "a pagemap_head" });
    };
    let invalid = |what: String| ImageError::Invalid { path: path.to_owned(), what };
    let (mut runs, mut blocks) = (Vec::new(), Vec::new());
    let (mut places, mut floor) = (Places::default(), 0_u64);
    while let Some((entry, _)) = reader.next_message::<proto::PagemapEntry>()? {
        let (vaddr, pages, flags) = (entry.vaddr, pages_of(&entry), flags_of(&entry));
        let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| vaddr.checked_add(bytes));
        let Some(end) = end.filter(|_| vaddr.is_multiple_of(PAGE_SIZE)) else {
            return Err(invalid(format!("{pages} pages at {vaddr:#x} are no range of pages")));
        };
        if vaddr < floor {
            return Err(invalid(format!("pages at {vaddr:#x} come after pages up to {floor:#x}")));
        }
        floor = end;
        let stored = places.next(&entry).map_err(invalid)?;
        if pages == 0 {
            continue;
        }
        let mut run = PageRun { vaddr, pages, level: 0, file_offset: places.end(), flags, compressed: false };
        match stored {
            Stored::Elsewhere => {}
            Stored::Plain(offset) => run.file_offset = offset,
            Stored::Blocks(found) => {
                (run.file_offset, run.compressed) = (found.start(), true);
                blocks.push(found);
            }
        }
        runs.push(run);
    }
    Ok(Pagemap { path: path.to_owned(), pages_id: head.pages_id, runs, blocks, size: places.end() })
}
