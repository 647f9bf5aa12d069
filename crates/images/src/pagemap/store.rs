//! Memory as it was: every page of a task or shared object, wherever in the chain it is stored.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::entry::pe;
use super::level::Level;
use super::read::read_pagemap;
use super::resolve::resolve;
use super::run::PageRun;
use crate::PAGE_SIZE;
use crate::error::{ImageError, Result};
use crate::kind::Kind;

/// Name of the symbolic link to the parent checkpoint.
pub const PARENT_LINK: &str = "parent";

/// Longer chains than any dumper makes are taken for a mistake.
const MAX_CHAIN: usize = 4096;

/// The memory of one task or shared object: where every page is, and the pages themselves.
#[derive(Debug)]
pub struct PageStore {
    pagemap: PathBuf,
    runs: Vec<PageRun>,
    lazy: Vec<PageRun>,
    levels: Vec<Level>,
}

impl PageStore {
    /// Opens `kind` (task or shared memory) number `number` of the checkpoint in `dir`, and of its ancestors.
    ///
    /// # Errors
    /// Any error of reading a pagemap; [`ImageError::Invalid`] for entries that overlap or are not whole pages, pages
    /// files of the wrong size and `parent` links that form a loop; [`ImageError::NoPage`] for a page no ancestor has.
    pub fn open(dir: &Path, kind: Kind, number: u64) -> Result<Self> {
        let name = kind.file_name(Some(number));
        let mut maps = vec![read_pagemap(kind, &dir.join(&name))?];
        let mut levels = vec![Level::open(dir, maps.last_mut().expect("just put there"))?];
        let mut dirs = vec![canonical(dir)?];
        // Only as far as pages are wanted: a parent nobody asks need not exist.
        while maps.last().is_some_and(|m| m.runs.iter().any(|r| r.flags & pe::PARENT != 0)) {
            let link = dirs.last().expect("starts with one").join(PARENT_LINK);
            let Some(parent) = parent_of(&link)?.filter(|_| dirs.len() <= MAX_CHAIN) else { break };
            if dirs.contains(&parent) {
                return Err(ImageError::Invalid { path: link, what: "the parent links form a loop".into() });
            }
            let path = parent.join(&name);
            if !path.exists() {
                break;
            }
            let mut map = read_pagemap(kind, &path)?;
            levels.push(Level::open(&parent, &mut map)?);
            maps.push(map);
            dirs.push(parent);
        }
        let pagemap = maps.first().expect("just put there").path.clone();
        let (runs, lazy) = resolve(&maps)?;
        Ok(Self { pagemap, runs, lazy, levels })
    }

    /// Every page there is, ascending, parents followed.
    #[must_use]
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// Pages that a page server still holds: neither here nor in an ancestor. `file_offset` means nothing.
    #[must_use]
    pub fn kept_back(&self) -> &[PageRun] {
        &self.lazy
    }

    /// Adds the pages that were [kept back](Self::kept_back): they have been fetched, and lie in `file` from its beginning on, in
    /// the order of that list.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the file is not as long as they are; [`ImageError::Io`].
    pub fn supply(&mut self, file: File) -> Result<()> {
        let path = PathBuf::from("(pages that were fetched)");
        let wanted: u64 = self.lazy.iter().map(PageRun::bytes).sum();
        let level = self.levels.len();
        self.levels.push(Level::of(path, file, wanted)?);
        let mut file_offset = 0;
        for run in std::mem::take(&mut self.lazy) {
            self.runs.push(PageRun { level, file_offset, ..run });
            file_offset += run.bytes();
        }
        self.runs.sort_by_key(|run| run.vaddr);
        Ok(())
    }

    /// Number of pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|r| r.pages).sum()
    }

    /// The pages file of `level`.
    #[must_use]
    pub fn pages_file(&self, level: usize) -> Option<(&Path, &File)> {
        self.levels.get(level).map(|l| (l.path(), l.file()))
    }

    /// Which bytes of its pages file hold `run`, ascending; of compressed pages, whole blocks.
    #[must_use]
    pub fn stored(&self, run: &PageRun) -> Vec<Range<u64>> {
        self.levels.get(run.level).map(|level| level.stored(run)).unwrap_or_default()
    }

    /// Runs with a page in `start..end`, cut to it.
    pub fn runs_in(&self, start: u64, end: u64) -> impl Iterator<Item = PageRun> {
        let first = self.runs.partition_point(|r| r.end() <= start);
        let rest = self.runs.get(first..).unwrap_or_default();
        rest.iter().map_while(move |r| if r.vaddr < end { r.clip(start, end) } else { None })
    }

    /// Fills `buf` with the memory at `vaddr`, which need not be page aligned.
    ///
    /// # Errors
    /// [`ImageError::NoPage`] if a page of it is not in the store; [`ImageError::Io`]; [`ImageError::Invalid`] for
    /// compressed pages that are damaged.
    pub fn read_at(&self, vaddr: u64, buf: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (vaddr, buf);
        while !rest.is_empty() {
            let index = self.runs.partition_point(|r| r.end() <= at);
            let run = self.runs.get(index).filter(|r| r.vaddr <= at);
            let missing = || ImageError::NoPage { path: self.pagemap.clone(), vaddr: at & !(PAGE_SIZE - 1) };
            let run = run.ok_or_else(missing)?;
            let len = usize::try_from(run.end() - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            self.level(run)?.read(run, at, now)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn level(&self, run: &PageRun) -> Result<&Level> {
        self.levels.get(run.level).ok_or_else(|| self.foreign(run))
    }

    fn foreign(&self, run: &PageRun) -> ImageError {
        let what = format!("no pages at {:#x} in its pages file", run.vaddr);
        ImageError::Invalid { path: self.pagemap.clone(), what }
    }
}

#[cfg(feature = "mmap")]
impl PageStore {
    /// The bytes of `run`: straight from the page cache, or decompressed into `scratch`.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the pages file cannot be mapped; [`ImageError::Invalid`] for a run that is not of this store,
    /// and for compressed pages that are damaged.
    pub fn bytes<'a>(&'a self, run: &PageRun, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let level = self.level(run)?;
        if run.compressed {
            scratch.resize(usize::try_from(run.bytes()).map_err(|_| self.foreign(run))?, 0);
            level.read(run, run.vaddr, scratch)?;
            return Ok(scratch);
        }
        level.slice(run)?.ok_or_else(|| self.foreign(run))
    }

    /// Brings the bytes of `run` into this process' mapping at once, instead of page by page as they are touched.
    /// Only makes [`Self::bytes`] of it faster.
    pub fn prefetch(&self, run: &PageRun) {
        if let Some(level) = self.levels.get(run.level) {
            level.prefetch(run);
        }
    }

    /// Takes the bytes of `run` out of this process' mapping again, which otherwise grows to the size of what was read.
    /// They can still be read.
    pub fn release(&self, run: &PageRun) {
        if let Some(level) = self.levels.get(run.level) {
            level.release(run);
        }
    }
}

fn canonical(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().map_err(ImageError::io(dir, "resolve"))
}

/// The directory of the parent of the checkpoint in `dir`, `None` if it has none.
///
/// # Errors
/// [`ImageError::Invalid`] for a link that leads nowhere; [`ImageError::Io`].
pub fn parent_dir(dir: &Path) -> Result<Option<PathBuf>> {
    parent_of(&dir.join(PARENT_LINK))
}

/// The directory `link` leads to, `None` if there is no link. Archives and version control that cannot keep a symbolic link
/// leave a small file with its text, which says the same.
fn parent_of(link: &Path) -> Result<Option<PathBuf>> {
    const LONGEST: u64 = 4096;
    let Ok(meta) = link.metadata() else { return Ok(None) };
    if meta.is_dir() {
        return canonical(link).map(Some);
    }
    let invalid = || ImageError::Invalid { path: link.to_owned(), what: "leads to no directory".into() };
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(invalid());
    }
    let text = std::fs::read_to_string(link).map_err(ImageError::io(link, "read"))?;
    let target = link.with_file_name(text.trim_end());
    if target.is_dir() { canonical(&target).map(Some) } else { Err(invalid()) }
}
