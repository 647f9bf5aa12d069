//! Memory contents: a pagemap, its pages file, and the ancestors that hold what did not change.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{ImageError, Result};
use crate::framing::ImageReader;
use crate::kind::Kind;
use crate::{PAGE_SIZE, proto};

/// Bits of `pagemap_entry.flags`.
pub mod pe {
    /// The pages are in the parent checkpoint.
    pub const PARENT: u32 = 1;
    /// The pages may be delivered after the restore.
    pub const LAZY: u32 = 2;
    /// The pages are in this checkpoint's pages file.
    pub const PRESENT: u32 = 4;
}

/// Name of the symbolic link to the parent checkpoint.
pub const PARENT_LINK: &str = "parent";

/// Longer chains than any dumper makes are taken for a mistake.
const MAX_CHAIN: usize = 4096;

/// Number of pages of an entry: the newer 64-bit field if it is there, else the old one.
#[must_use]
pub fn pages_of(entry: &proto::PagemapEntry) -> u64 {
    match entry.nr_pages {
        Some(pages) if pages > 0 || entry.compat_nr_pages == 0 => pages,
        _ => u64::from(entry.compat_nr_pages),
    }
}

/// Flags of an entry with both old ways of writing them understood.
#[must_use]
pub fn flags_of(entry: &proto::PagemapEntry) -> u32 {
    match (entry.in_parent(), entry.flags) {
        (true, flags) => flags.unwrap_or(0) | pe::PARENT,
        (false, Some(flags)) => flags,
        (false, None) => pe::PRESENT,
    }
}

/// Consecutive pages that lie consecutively in one pages file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Address of the first page; for shared memory the offset in the object.
    pub vaddr: u64,
    /// Number of pages.
    pub pages: u64,
    /// Which checkpoint of the chain holds them: 0 is the one opened, 1 its parent.
    pub level: usize,
    /// Where they start in that checkpoint's pages file.
    pub file_offset: u64,
    /// Flags of the entry they come from ([`pe`]).
    pub flags: u32,
}

impl PageRun {
    /// Address behind the last page.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.vaddr + self.bytes()
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// The part of it inside `start..end`, `None` if there is none.
    #[must_use]
    pub fn clip(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.vaddr.max(start), self.end().min(end));
        (from < to).then(|| Self {
            vaddr: from,
            pages: (to - from) / PAGE_SIZE,
            file_offset: self.file_offset + (from - self.vaddr),
            ..*self
        })
    }
}

/// What one pagemap says, before its parents are asked.
#[derive(Debug)]
struct Pagemap {
    path: PathBuf,
    pages_id: u32,
    /// Ascending, not overlapping; `file_offset` is meaningless without [`pe::PRESENT`].
    runs: Vec<PageRun>,
}

/// One pages file of the chain.
#[derive(Debug)]
struct Level {
    path: PathBuf,
    file: File,
    #[cfg(feature = "mmap")]
    map: std::sync::OnceLock<memmap2::Mmap>,
}

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
        let mut levels = vec![open_pages(dir, maps.first().expect("just put there"))?];
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
            let map = read_pagemap(kind, &path)?;
            levels.push(open_pages(&parent, &map)?);
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

    /// Number of pages there are.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|r| r.pages).sum()
    }

    /// The pages file of `level`.
    #[must_use]
    pub fn pages_file(&self, level: usize) -> Option<(&Path, &File)> {
        self.levels.get(level).map(|l| (l.path.as_path(), &l.file))
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
    /// [`ImageError::NoPage`] if a page of it is not in the store; [`ImageError::Io`].
    pub fn read_at(&self, vaddr: u64, buf: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (vaddr, buf);
        while !rest.is_empty() {
            let index = self.runs.partition_point(|r| r.end() <= at);
            let run = self.runs.get(index).filter(|r| r.vaddr <= at);
            let missing = || ImageError::NoPage { path: self.pagemap.clone(), vaddr: at & !(PAGE_SIZE - 1) };
            let run = run.ok_or_else(missing)?;
            let len = usize::try_from(run.end() - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            let level = self.levels.get(run.level).expect("resolve() names levels it was given");
            let offset = run.file_offset + (at - run.vaddr);
            level.file.read_exact_at(now, offset).map_err(ImageError::io(&level.path, "read"))?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// The bytes of `run`, straight from the page cache.
    ///
    /// # Errors
    /// [`ImageError::Io`] if the pages file cannot be mapped; [`ImageError::Invalid`] for a run that is not of this store.
    #[cfg(feature = "mmap")]
    pub fn slice(&self, run: &PageRun) -> Result<&[u8]> {
        let foreign = || ImageError::Invalid {
            path: self.pagemap.clone(),
            what: format!("no pages at {:#x} in its pages file", run.vaddr),
        };
        let level = self.levels.get(run.level).ok_or_else(foreign)?;
        let map = level.map()?;
        let (start, len) = bounds(run).ok_or_else(foreign)?;
        map.get(start..).and_then(|s| s.get(..len)).ok_or_else(foreign)
    }

    /// Brings the bytes of `run` into this process' mapping at once, instead of page by page as they are touched.
    /// Only makes [`Self::slice`] of it faster.
    #[cfg(feature = "mmap")]
    pub fn prefetch(&self, run: &PageRun) {
        #[cfg(target_os = "linux")]
        if let Some((map, (start, len))) = self.mapped(run) {
            // A kernel before 5.14 does not know the advice, and then the pages come when they are touched.
            let _ = map.advise_range(memmap2::Advice::PopulateRead, start, len);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = run;
    }

    /// Takes the bytes of `run` out of this process' mapping again, which otherwise grows to the size of what was read.
    /// They can still be read.
    #[cfg(feature = "mmap")]
    pub fn release(&self, run: &PageRun) {
        #[cfg(target_os = "linux")]
        if let Some((map, (start, len))) = self.mapped(run) {
            // SAFETY: of a read-only shared mapping of a file nothing is lost: what is dropped is read again.
            #[expect(unsafe_code, reason = "memmap2 cannot know that nothing is lost")]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = run;
    }

    #[cfg(all(feature = "mmap", target_os = "linux"))]
    fn mapped(&self, run: &PageRun) -> Option<(&memmap2::Mmap, (usize, usize))> {
        let map = self.levels.get(run.level)?.map.get()?;
        let (start, len) = bounds(run)?;
        (start.checked_add(len)? <= map.len()).then_some((map, (start, len)))
    }
}

#[cfg(feature = "mmap")]
impl Level {
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
}

/// Where a run lies in its file: position and length.
#[cfg(feature = "mmap")]
fn bounds(run: &PageRun) -> Option<(usize, usize)> {
    usize::try_from(run.file_offset).ok().zip(usize::try_from(run.bytes()).ok())
}

fn canonical(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().map_err(ImageError::io(dir, "resolve"))
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

fn open_pages(dir: &Path, map: &Pagemap) -> Result<Level> {
    let path = dir.join(Kind::Pages.file_name(Some(map.pages_id.into())));
    let file = File::open(&path).map_err(ImageError::io(&path, "open"))?;
    let found = file.metadata().map_err(ImageError::io(&path, "stat"))?.len();
    let wanted = map.runs.iter().filter(|r| r.flags & pe::PRESENT != 0).map(PageRun::bytes).sum::<u64>();
    if found < wanted {
        let what = format!("{found} bytes, but {} needs {wanted}", map.path.display());
        return Err(ImageError::Invalid { path, what });
    }
    Ok(Level {
        path,
        file,
        #[cfg(feature = "mmap")]
        map: std::sync::OnceLock::new(),
    })
}

fn read_pagemap(kind: Kind, path: &Path) -> Result<Pagemap> {
    let mut reader = ImageReader::open(kind, path)?;
    let Some((head, _)) = reader.next_message::<proto::PagemapHead>()? else {
        return Err(ImageError::EntryCount { path: path.to_owned(), found: 0, expected: "a pagemap_head" });
    };
    let invalid = |what: String| ImageError::Invalid { path: path.to_owned(), what };
    let mut map = Pagemap { path: path.to_owned(), pages_id: head.pages_id, runs: Vec::new() };
    let (mut file_offset, mut floor) = (0_u64, 0_u64);
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
        if pages == 0 {
            continue;
        }
        map.runs.push(PageRun { vaddr, pages, level: 0, file_offset, flags });
        if flags & pe::PRESENT != 0 {
            let next = file_offset.checked_add(end - vaddr);
            file_offset = next.ok_or_else(|| invalid("more pages than any file holds".into()))?;
        }
    }
    Ok(map)
}

/// Follows every entry to the checkpoint that holds its pages. `maps[0]` is the youngest.
fn resolve(maps: &[Pagemap]) -> Result<(Vec<PageRun>, Vec<PageRun>)> {
    let (mut runs, mut lazy) = (Vec::new(), Vec::new());
    let Some(first) = maps.first() else { return Ok((runs, lazy)) };
    // A stack instead of recursion: chains are as long as their maker likes. Each item is a range and the level to ask.
    let mut todo: Vec<(u64, u64, usize)> = Vec::new();
    for run in &first.runs {
        todo.push((run.vaddr, run.end(), 0));
        while let Some((start, end, level)) = todo.pop() {
            let no_page = || ImageError::NoPage { path: first.path.clone(), vaddr: start };
            let map = maps.get(level).ok_or_else(no_page)?;
            let index = map.runs.partition_point(|r| r.end() <= start);
            let found = map.runs.get(index).and_then(|r| r.clip(start, end)).filter(|r| r.vaddr == start);
            let found = found.ok_or_else(no_page)?;
            if found.end() < end {
                todo.push((found.end(), end, level));
            }
            if found.flags & pe::PRESENT != 0 {
                push_joined(&mut runs, PageRun { level, ..found });
            } else if found.flags & pe::PARENT != 0 {
                todo.push((start, found.end(), level + 1));
            } else if found.flags & pe::LAZY != 0 {
                lazy.push(PageRun { level, ..found });
            } else {
                let what = format!("pages at {start:#x} are neither here, nor in the parent, nor lazy");
                return Err(ImageError::Invalid { path: map.path.clone(), what });
            }
        }
    }
    Ok((runs, lazy))
}

fn push_joined(runs: &mut Vec<PageRun>, run: PageRun) {
    if let Some(last) = runs.last_mut() {
        let continues = last.end() == run.vaddr && last.file_offset + last.bytes() == run.file_offset;
        if continues && last.level == run.level && last.flags == run.flags {
            last.pages += run.pages;
            return;
        }
    }
    runs.push(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, entries: &[(u64, u64, u32)]) -> Pagemap {
        let mut file_offset = 0;
        let mut runs = Vec::new();
        for &(page, pages, flags) in entries {
            runs.push(PageRun { vaddr: page * PAGE_SIZE, pages, level: 0, file_offset, flags });
            if flags & pe::PRESENT != 0 {
                file_offset += pages * PAGE_SIZE;
            }
        }
        Pagemap { path: name.into(), pages_id: 1, runs }
    }

    #[test]
    fn old_spellings_of_flags_and_counts() {
        let entry = |nr_pages, compat_nr_pages, in_parent, flags| proto::PagemapEntry {
            vaddr: 0,
            compat_nr_pages,
            in_parent,
            flags,
            nr_pages,
            ..Default::default()
        };
        assert_eq!(pages_of(&entry(Some(7), 0, None, None)), 7);
        assert_eq!(pages_of(&entry(Some(0), 3, None, None)), 3, "a writer that only knows the old field");
        assert_eq!(pages_of(&entry(None, 3, None, None)), 3);
        assert_eq!(flags_of(&entry(None, 0, None, None)), pe::PRESENT);
        assert_eq!(flags_of(&entry(None, 0, Some(true), None)), pe::PARENT);
        assert_eq!(flags_of(&entry(None, 0, None, Some(6))), 6);
    }

    #[test]
    fn one_entry_may_lie_in_several_ancestors() {
        let young = map("young", &[(10, 6, pe::PARENT), (16, 1, pe::PRESENT)]);
        let mid = map("mid", &[(10, 2, pe::PARENT), (12, 4, pe::PRESENT)]);
        let old = map("old", &[(9, 4, pe::PRESENT)]);
        let (runs, lazy) = resolve(&[young, mid, old]).unwrap();
        let seen: Vec<_> =
            runs.iter().map(|r| (r.vaddr / PAGE_SIZE, r.pages, r.level, r.file_offset / PAGE_SIZE)).collect();
        assert_eq!(seen, [(10, 2, 2, 1), (12, 4, 1, 0), (16, 1, 0, 0)]);
        assert!(lazy.is_empty());
    }

    #[test]
    fn a_page_nobody_has_is_an_error() {
        let young = map("young", &[(10, 2, pe::PARENT)]);
        let old = map("old", &[(10, 1, pe::PRESENT)]);
        let error = resolve(&[young, old]).unwrap_err();
        assert!(matches!(error, ImageError::NoPage { vaddr, .. } if vaddr == 11 * PAGE_SIZE), "{error}");
    }

    proptest::proptest! {
        /// However the pages are spread over generations, each is found in the youngest that has it.
        #[test]
        fn every_page_comes_from_the_youngest_holder(levels in proptest::collection::vec(proptest::collection::vec(0_u8..3, 40), 1..5)) {
            // 0: hole in the youngest only, 1: in the parent, 2: here. The oldest has everything.
            let mut maps: Vec<Pagemap> = Vec::new();
            for (depth, level) in levels.iter().enumerate() {
                let entries: Vec<_> = level.iter().enumerate().filter_map(|(page, state)| match (depth, state) {
                    (0, 0) => None,
                    (_, 2) => Some((page as u64, 1, pe::PRESENT)),
                    _ => Some((page as u64, 1, pe::PARENT)),
                }).collect();
                maps.push(map("m", &entries));
            }
            maps.push(map("oldest", &[(0, 40, pe::PRESENT)]));
            let (runs, _) = resolve(&maps).unwrap();
            for page in 0..40_u64 {
                let found = runs.iter().find_map(|r| r.clip(page * PAGE_SIZE, (page + 1) * PAGE_SIZE));
                let at = |level: usize| levels.get(level).map(|l| l[usize::try_from(page).unwrap()]);
                if at(0) == Some(0) {
                    proptest::prop_assert!(found.is_none());
                    continue;
                }
                let level = (0..levels.len()).find(|&l| at(l) == Some(2)).unwrap_or(levels.len());
                let run = found.unwrap();
                proptest::prop_assert_eq!(run.level, level);
                let before = maps[level].runs.iter().filter(|r| r.vaddr < page * PAGE_SIZE && r.flags == pe::PRESENT).count() as u64;
                let offset = if level == levels.len() { page } else { before };
                proptest::prop_assert_eq!(run.file_offset, offset * PAGE_SIZE);
            }
        }
    }
}
