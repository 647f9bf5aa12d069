//! Hashes of pages, kept where the pages themselves are not.
//!
//! Memory that went to another host cannot be compared with there. Its hashes stay here, 16 bytes for each page, so that the
//! next round knows what did not change.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;
use rewake_images::{ImageError, Kind};

use crate::capture::{Capture, CaptureOptions};
use crate::error::CaptureError;
use crate::increment::common;
use crate::plan::{Chunk, PagePlan};
use crate::query::{PAGE_SIZE, PageCategories, PageRun, push_run};
use crate::remote::RemoteMemory;
use crate::sink::{PageSink, Turn};

/// What the file begins with.
const MAGIC: [u8; 8] = *b"rwkhash1";
const HASH_BYTES: usize = 16;
/// An address and a hash.
const RECORD_BYTES: usize = 8 + HASH_BYTES;
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

type Hash = [u8; HASH_BYTES];

fn hash(page: &[u8]) -> Hash {
    let [hash @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *blake3::hash(page).as_bytes();
    hash
}

/// The hashes of the pages of a task or a shared object, as they were stored elsewhere.
#[derive(Debug)]
pub struct PageHashes {
    path: PathBuf,
    file: File,
    runs: Vec<PageRun>,
    /// How many pages come before each run.
    before: Vec<u64>,
}

impl PageHashes {
    /// The name of the file.
    #[must_use]
    pub fn file_name(kind: Kind, number: u64) -> String {
        format!("rewake-hashes-{}", kind.file_name(Some(number)))
    }

    /// Those in the checkpoint in `dir`, if there are any.
    ///
    /// # Errors
    /// [`CaptureError::Image`] if the file cannot be read or makes no sense.
    pub fn open(dir: &Path, kind: Kind, number: u64) -> Result<Option<Self>, CaptureError> {
        let path = dir.join(Self::file_name(kind, number));
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(image(&path, "open"))?,
        };
        let bad = |what: &str| ImageError::Invalid { path: path.clone(), what: what.into() };
        let mut reader = BufReader::new(&file);
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic).map_err(image(&path, "read"))?;
        if magic != MAGIC {
            return Err(bad("these are no hashes of pages").into());
        }
        let (mut runs, mut floor) = (Vec::new(), 0);
        while let Some((addr, _)) = next(&mut reader).map_err(image(&path, "read"))? {
            let end = addr.checked_add(PAGE_SIZE).filter(|_| addr >= floor && addr.is_multiple_of(PAGE_SIZE));
            floor = end.ok_or_else(|| bad("its pages are out of order"))?;
            push_run(&mut runs, PageRun { start: addr, pages: 1, categories: PageCategories::empty() });
        }
        let before = runs.iter().scan(0, |pages, run| {
            *pages += run.pages;
            Some(*pages - run.pages)
        });
        let before = before.collect();
        Ok(Some(Self { path, file, runs, before }))
    }

    /// The pages there are hashes of, ascending.
    #[must_use]
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// The pages of `runs`, ascending, that are as they were. With `live`, one that cannot be read is not.
    ///
    /// # Errors
    /// As [`crate::capture`]; [`CaptureError::Image`].
    pub fn same<M: RemoteMemory + Sync, F: RemoteMemory + Sync>(
        &self,
        (pid, memory, forced): (Pid, &M, &F),
        runs: &[PageRun],
        live: bool,
        options: &CaptureOptions,
    ) -> Result<Vec<PageRun>, CaptureError> {
        let plan = PagePlan::new(common(runs, self.runs.iter().map(|run| (run.start, run.end()))));
        let comparer = Comparer { hashes: self, same: Mutex::default() };
        Capture { pid, memory, forced, out: &comparer, live }.run(&plan, options)?;
        Ok(comparer.same.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The hashes of the pages from `start` on, which are all there, into `out`.
    fn read(&self, start: u64, out: &mut [Hash]) -> Result<(), CaptureError> {
        let index = self.runs.partition_point(|run| run.start <= start).saturating_sub(1);
        let (run, before) = self.runs.get(index).zip(self.before.get(index)).ok_or_else(|| {
            let what = format!("no page at {start:#x}");
            ImageError::Invalid { path: self.path.clone(), what }
        })?;
        let before = before + start.saturating_sub(run.start) / PAGE_SIZE;
        let mut bytes = vec![0; out.len() * RECORD_BYTES];
        let offset = to_u64(MAGIC.len()) + before * to_u64(RECORD_BYTES);
        self.file.read_exact_at(&mut bytes, offset).map_err(image(&self.path, "read"))?;
        for (hash, record) in out.iter_mut().zip(bytes.chunks_exact(RECORD_BYTES)) {
            hash.copy_from_slice(record.split_at(8).1);
        }
        Ok(())
    }
}

/// The next record, `None` at the end.
fn next(reader: &mut impl Read) -> io::Result<Option<(u64, Hash)>> {
    let mut record = [0; RECORD_BYTES];
    let mut filled = 0;
    while let Some(rest) = record.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => filled += read?,
        }
    }
    let [a0, a1, a2, a3, a4, a5, a6, a7, hash @ ..] = record;
    Ok(Some((u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), hash)))
}

fn image(path: &Path, action: &'static str) -> impl Fn(io::Error) -> ImageError {
    move |source| ImageError::Io { path: path.to_owned(), action, source }
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("usize is at most 64 bits")
}

/// The pages of a chunk with their addresses and places in the output.
fn pages_of<'a>(chunk: &Chunk, bytes: &'a [u8]) -> impl Iterator<Item = (u64, u64, &'a [u8])> {
    let addrs =
        chunk.iovecs.clone().into_iter().flat_map(|(start, len)| (start..start + len).step_by(PAGE_BYTES));
    let first = chunk.file_offset / PAGE_SIZE;
    addrs.zip(first..).zip(bytes.chunks(PAGE_BYTES)).map(|((addr, place), page)| (addr, place, page))
}

/// Keeps no page, only which of them are as they were.
#[derive(Debug)]
struct Comparer<'a> {
    hashes: &'a PageHashes,
    same: Mutex<Vec<PageRun>>,
}

impl PageSink for Comparer<'_> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        let mut theirs = vec![Hash::default(); bytes.len() / PAGE_BYTES];
        let mut rest = theirs.as_mut_slice();
        for &(start, len) in &chunk.iovecs {
            let pages = usize::try_from(len / PAGE_SIZE).unwrap_or(usize::MAX);
            let (now, behind) = rest.split_at_mut_checked(pages).unwrap_or_default();
            self.hashes.read(start, now)?;
            rest = behind;
        }
        let mut same = Vec::new();
        for ((addr, place, page), theirs) in pages_of(chunk, bytes).zip(&theirs) {
            if lost.binary_search(&place).is_err() && hash(page) == *theirs {
                push_run(&mut same, PageRun { start: addr, pages: 1, categories: PageCategories::empty() });
            }
        }
        turn.in_order(|| {
            let mut all = self.same.lock().unwrap_or_else(PoisonError::into_inner);
            same.into_iter().for_each(|run| push_run(&mut all, run));
        })
    }
}

/// Hands pages on, and remembers their hashes, in a file without a name: they may be many.
pub struct Remembering<'a> {
    inner: &'a dyn PageSink,
    path: PathBuf,
    fresh: Mutex<BufWriter<File>>,
}

impl fmt::Debug for Remembering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembering").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<'a> Remembering<'a> {
    /// Hands pages on to `inner`. The hashes are to be in the checkpoint that is made in `dir`.
    ///
    /// # Errors
    /// [`CaptureError::Image`] if no file can be made there.
    pub fn new(inner: &'a dyn PageSink, dir: &Path, kind: Kind, number: u64) -> Result<Self, CaptureError> {
        let path = dir.join(PageHashes::file_name(kind, number));
        let scratch = dir.join(format!("{}.fresh", PageHashes::file_name(kind, number)));
        let made = File::options().read(true).write(true).create_new(true).open(&scratch);
        let file = made.map_err(image(&scratch, "create"))?;
        std::fs::remove_file(&scratch).map_err(image(&scratch, "remove"))?;
        Ok(Self { inner, path, fresh: Mutex::new(BufWriter::new(file)) })
    }

    /// Writes the hashes of what was handed on, and of the pages `in_parent` (ascending), which `parent` has.
    ///
    /// # Errors
    /// [`CaptureError::Image`].
    pub fn write(self, parent: Option<&PageHashes>, in_parent: &[PageRun]) -> Result<(), CaptureError> {
        let path = &self.path;
        let fresh = self.fresh.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = fresh.into_inner().map_err(|error| image(path, "write")(error.into_error()))?;
        fresh.seek(SeekFrom::Start(0)).map_err(image(path, "read"))?;
        let mut fresh = BufReader::new(fresh);
        let out = File::create_new(path).map_err(image(path, "create"))?;
        let mut out = BufWriter::new(out);
        out.write_all(&MAGIC).map_err(image(path, "write"))?;
        let mut pending = next(&mut fresh).map_err(image(path, "read"))?;
        for run in in_parent {
            let Some(parent) = parent else { break };
            let mut at = run.start;
            while at < run.end() {
                while let Some((addr, hash)) = pending.filter(|&(addr, _)| addr < at) {
                    record(&mut out, addr, &hash).map_err(image(path, "write"))?;
                    pending = next(&mut fresh).map_err(image(path, "read"))?;
                }
                let mut hashes = [Hash::default(); 256];
                let count =
                    usize::try_from((run.end() - at) / PAGE_SIZE).unwrap_or(usize::MAX).min(hashes.len());
                let hashes = hashes.get_mut(..count).unwrap_or_default();
                parent.read(at, hashes)?;
                for hash in hashes {
                    record(&mut out, at, hash).map_err(image(path, "write"))?;
                    at += PAGE_SIZE;
                }
            }
        }
        while let Some((addr, hash)) = pending {
            record(&mut out, addr, &hash).map_err(image(path, "write"))?;
            pending = next(&mut fresh).map_err(image(path, "read"))?;
        }
        Ok(out.flush().map_err(image(path, "write"))?)
    }
}

fn record(out: &mut impl Write, addr: u64, hash: &Hash) -> io::Result<()> {
    out.write_all(&addr.to_le_bytes())?;
    out.write_all(hash)
}

impl PageSink for Remembering<'_> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        let kept = pages_of(chunk, bytes).filter(|(_, place, _)| lost.binary_search(place).is_err());
        let hashes: Vec<(u64, Hash)> = kept.map(|(addr, _, page)| (addr, hash(page))).collect();
        self.inner.put(chunk, bytes, lost, turn)?;
        turn.wait()?;
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        for (addr, hash) in hashes {
            record(&mut *fresh, addr, &hash).map_err(image(&self.path, "write"))?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), CaptureError> {
        self.inner.finish()
    }
}

#[cfg(test)]
#[path = "hashes_tests.rs"]
mod tests;
