//! One pages file of a chain.

use std::fs::File;
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::blocks::{Block, Blocks};
use super::read::Pagemap;
use super::run::PageRun;
use crate::PAGE_SIZE;
use crate::error::{ImageError, Result};
use crate::kind::Kind;

/// A pages file, with what is needed to find pages in it that are compressed.
#[derive(Debug)]
pub(super) struct Level {
    path: PathBuf,
    file: File,
    /// Ascending.
    blocks: Vec<Blocks>,
    /// The block of which a part was read last, for who reads piece by piece.
    last: Mutex<Option<(u64, Vec<u8>)>>,
    #[cfg(feature = "mmap")]
    map: std::sync::OnceLock<memmap2::Mmap>,
}

impl Level {
    /// Opens the pages file of `map`, and takes its blocks over.
    pub(super) fn open(dir: &Path, map: &mut Pagemap) -> Result<Self> {
        let path = dir.join(Kind::Pages.file_name(Some(map.pages_id.into())));
        let file = File::open(&path).map_err(ImageError::io(&path, "open"))?;
        let found = file.metadata().map_err(ImageError::io(&path, "stat"))?.len();
        if found < map.size {
            let what = format!("{found} bytes, but {} needs {}", map.path.display(), map.size);
            return Err(ImageError::Invalid { path, what });
        }
        Ok(Self::new(path, file, std::mem::take(&mut map.blocks)))
    }

    /// A file of pages that are not compressed.
    pub(super) fn of(path: PathBuf, file: File, wanted: u64) -> Result<Self> {
        let found = file.metadata().map_err(ImageError::io(&path, "stat"))?.len();
        if found != wanted {
            let what = format!("{found} bytes instead of {wanted}");
            return Err(ImageError::Invalid { path, what });
        }
        Ok(Self::new(path, file, Vec::new()))
    }

    fn new(path: PathBuf, file: File, blocks: Vec<Blocks>) -> Self {
        Self {
            path,
            file,
            blocks,
            last: Mutex::default(),
            #[cfg(feature = "mmap")]
            map: std::sync::OnceLock::new(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buf` with memory from `at` on, all of it inside `run`.
    pub(super) fn read(&self, run: &PageRun, at: u64, buf: &mut [u8]) -> Result<()> {
        if !run.compressed {
            let offset = run.file_offset + (at - run.vaddr);
            return self.file.read_exact_at(buf, offset).map_err(ImageError::io(&self.path, "read"));
        }
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let block = self.block_at(at).ok_or_else(|| self.damaged(at, "no block"))?;
            let skipped = at - block.vaddr;
            let len = usize::try_from(block.bytes - skipped).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            if len as u64 == block.bytes {
                self.unpack(&block, now)?;
            } else {
                self.unpack_part(&block, skipped, now)?;
            }
            at += len as u64;
            rest = later;
        }
        Ok(())
    }

    /// What of the file is needed to read `run`, ascending.
    pub(super) fn stored(&self, run: &PageRun) -> Vec<Range<u64>> {
        if !run.compressed {
            return iter::once(run.file_offset..run.file_offset + run.bytes()).collect();
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = run.vaddr;
        while let Some(block) = self.block_at(at).filter(|_| at < run.end()) {
            let range = block.offset..block.offset + u64::from(block.stored);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
            at = block.vaddr + block.bytes;
        }
        ranges
    }

    fn block_at(&self, vaddr: u64) -> Option<Block> {
        let index = self.blocks.partition_point(|blocks| blocks.end() <= vaddr);
        self.blocks.get(index)?.at(vaddr)
    }

    /// Fills `out`, which is as long as the block.
    fn unpack(&self, block: &Block, out: &mut [u8]) -> Result<()> {
        let io = || ImageError::io(&self.path, "read");
        if block.stored == 0 {
            out.fill(0);
        } else if u64::from(block.stored) == block.bytes {
            self.file.read_exact_at(out, block.offset).map_err(io())?;
        } else {
            let mut stored = vec![0; usize::try_from(block.stored).unwrap_or(usize::MAX)];
            self.file.read_exact_at(&mut stored, block.offset).map_err(io())?;
            self.decompress(block, &stored, out)?;
        }
        Ok(())
    }

    #[cfg(feature = "lz4")]
    fn decompress(&self, block: &Block, stored: &[u8], out: &mut [u8]) -> Result<()> {
        super::compress::decompress(stored, out).map_err(|what| self.damaged(block.vaddr, &what))
    }

    #[cfg(not(feature = "lz4"))]
    fn decompress(&self, block: &Block, _stored: &[u8], _out: &mut [u8]) -> Result<()> {
        Err(self.damaged(block.vaddr, "built without LZ4"))
    }

    fn unpack_part(&self, block: &Block, skipped: u64, out: &mut [u8]) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(vaddr, _)| *vaddr != block.vaddr) {
            let mut bytes = last.take().map(|(_, bytes)| bytes).unwrap_or_default();
            bytes.resize(usize::try_from(block.bytes).unwrap_or(usize::MAX), 0);
            self.unpack(block, &mut bytes)?;
            *last = Some((block.vaddr, bytes));
        }
        let part = last.as_ref().and_then(|(_, bytes)| bytes.get(usize::try_from(skipped).ok()?..));
        let part = part.and_then(|part| part.get(..out.len()));
        out.copy_from_slice(part.ok_or_else(|| self.damaged(block.vaddr, "a block too short"))?);
        Ok(())
    }

    fn damaged(&self, vaddr: u64, what: &str) -> ImageError {
        let what = format!("compressed pages at {:#x}: {what}", vaddr & !(PAGE_SIZE - 1));
        ImageError::Invalid { path: self.path.clone(), what }
    }
}

#[cfg(feature = "mmap")]
impl Level {
    /// The bytes of a run that is stored as it is; `None` if it is not of this file.
    pub(super) fn slice(&self, run: &PageRun) -> Result<Option<&[u8]>> {
        let map = self.map()?;
        Ok(bounds(run).and_then(|(start, len)| map.get(start..)?.get(..len)))
    }

    fn map(&self) -> Result<&memmap2::Mmap> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        // SAFETY: the file is mapped read-only and shared; a checkpoint that is open is not changed, which the crate's
        // documentation asks of its users, and its size was checked against the pagemap.
        #[expect(unsafe_code, reason = "mapping a file is the point of the feature")]
        let map = unsafe { memmap2::Mmap::map(&self.file) }.map_err(ImageError::io(&self.path, "map"))?;
        Ok(self.map.get_or_init(|| map))
    }

    pub(super) fn prefetch(&self, run: &PageRun) {
        #[cfg(target_os = "linux")]
        if let Some((map, (start, len))) = self.mapped(run) {
            // A kernel before 5.14 does not know the advice, and then the pages come when they are touched.
            let _ = map.advise_range(memmap2::Advice::PopulateRead, start, len);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = run;
    }

    pub(super) fn release(&self, run: &PageRun) {
        #[cfg(target_os = "linux")]
        if let Some((map, (start, len))) = self.mapped(run) {
            // SAFETY: of a read-only shared mapping of a file nothing is lost: what is dropped is read again.
            #[expect(unsafe_code, reason = "memmap2 cannot know that nothing is lost")]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = run;
    }

    #[cfg(target_os = "linux")]
    fn mapped(&self, run: &PageRun) -> Option<(&memmap2::Mmap, (usize, usize))> {
        let map = self.map.get()?;
        let (start, len) = bounds(run)?;
        (!run.compressed && start.checked_add(len)? <= map.len()).then_some((map, (start, len)))
    }
}

/// Where a run lies in its file: position and length.
#[cfg(feature = "mmap")]
fn bounds(run: &PageRun) -> Option<(usize, usize)> {
    usize::try_from(run.file_offset).ok().zip(usize::try_from(run.bytes()).ok())
}
