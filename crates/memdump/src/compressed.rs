//! Pages that are compressed on their way.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rewake_images::pagemap::Compression;
use rewake_images::proto::PagemapEntry;

use crate::error::CaptureError;
use crate::plan::Chunk;
use crate::query::PAGE_SIZE;
use crate::sink::{PageSink, Turn};

/// Writes pages to a file in LZ4 blocks, one behind the other in the order of the plan, and remembers the entries that a
/// pagemap needs to find them.
///
/// All threads compress; each chunk is written when those before it are. Memory used is a buffer per thread, and the entries:
/// four bytes a block.
#[derive(Debug)]
pub struct CompressedPages<'a> {
    file: &'a File,
    how: Compression,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    entries: Vec<PagemapEntry>,
    bytes: u64,
}

impl<'a> CompressedPages<'a> {
    /// Writes to `file`, from its beginning.
    pub fn new(file: &'a File, how: Compression) -> Self {
        Self { file, how, written: Mutex::default() }
    }

    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// The entries of all pages that were put, in the order of the plan.
    pub fn into_entries(self) -> Vec<PagemapEntry> {
        self.written.into_inner().unwrap_or_else(PoisonError::into_inner).entries
    }
}

impl PageSink for CompressedPages<'_> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        let mut payload = Vec::with_capacity(bytes.len() / 2);
        let mut entries = Vec::new();
        let mut rest = bytes;
        let mut place = chunk.file_offset / PAGE_SIZE;
        for &(start, len) in &chunk.iovecs {
            let (mut addr, end) = (start, start + len);
            while addr < end {
                // Up to the next page that means nothing.
                let gone = lost.iter().copied().find(|&lost| lost >= place);
                let pages = gone
                    .map_or((end - addr) / PAGE_SIZE, |gone| (gone - place).min((end - addr) / PAGE_SIZE));
                let (now, later) = split(rest, pages * PAGE_SIZE);
                if pages > 0 {
                    entries.push(self.how.compress(addr, now, &mut payload));
                }
                (rest, addr, place) = (later, addr + pages * PAGE_SIZE, place + pages);
                if addr < end && gone == Some(place) {
                    (rest, addr, place) = (split(rest, PAGE_SIZE).1, addr + PAGE_SIZE, place + 1);
                }
            }
        }
        turn.wait()?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = written.bytes;
        self.file.write_all_at(&payload, offset).map_err(|source| CaptureError::Write { offset, source })?;
        written.bytes += u64::try_from(payload.len()).expect("usize is at most 64 bits");
        written.entries.extend(entries);
        Ok(())
    }
}

fn split(bytes: &[u8], at: u64) -> (&[u8], &[u8]) {
    usize::try_from(at).ok().and_then(|at| bytes.split_at_checked(at)).unwrap_or((bytes, &[]))
}
