//! Entries taken many at once: where they are small, one at a time takes longer than all that is done with them.

use std::io::Read;

use super::ImageReader;
use crate::error::{ImageError, Result};

impl<R: Read> ImageReader<R> {
    /// All entries that are left, many at once. For images whose entries nothing follows.
    pub(crate) fn in_batches(&mut self) -> Batches<'_, R> {
        Batches { image: self, begun: Vec::new() }
    }
}

/// Entries that nothing follows, one behind the other as they stand in the file: each its size and its message.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Index of the first one, and where its size is in the file.
    index: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Batch {
    /// Index, offset of the message in the file, and message of each.
    #[inline]
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, u64, &[u8])> {
        let mut rest = self.bytes.as_slice();
        let (mut index, mut offset) = (self.index, self.offset);
        std::iter::from_fn(move || {
            let (message, behind) = split_entry(rest)?;
            let entry = (index, offset + 4, message);
            (rest, index, offset) = (behind, index + 1, entry.1 + message.len() as u64);
            Some(entry)
        })
    }
}

/// The first entry, if all of it is there, and what is behind it.
#[inline]
fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)
}

/// Reads the rest of an image.
#[derive(Debug)]
pub(crate) struct Batches<'i, R> {
    image: &'i mut ImageReader<R>,
    /// What has been read of the next entry.
    begun: Vec<u8>,
}

impl<R: Read> Batches<'_, R> {
    /// Replaces what is in `batch` by the entries in the next `about` bytes, or by one if it is longer. `false` at the end.
    ///
    /// # Errors
    /// As [`ImageReader::next_entry`]; then nothing more comes.
    pub(crate) fn next(&mut self, batch: &mut Batch, about: u64) -> Result<bool> {
        batch.bytes.clear();
        if self.image.done {
            return Ok(false);
        }
        let filled = self.fill(batch, about);
        self.image.done = !matches!(filled, Ok(true));
        filled
    }

    fn fill(&mut self, batch: &mut Batch, about: u64) -> Result<bool> {
        let image = &mut *self.image;
        (batch.index, batch.offset) = (image.index, image.offset);
        batch.bytes.append(&mut self.begun);
        let mut wanted = about;
        loop {
            let missing = wanted.min(image.left).saturating_sub(batch.bytes.len() as u64);
            let read = image.input.by_ref().take(missing).read_to_end(&mut batch.bytes);
            let ends = (read.map_err(ImageError::io(&image.path, "read"))? as u64) < missing;
            let mut rest = batch.bytes.as_slice();
            let mut count = 0;
            while let Some((_, behind)) = split_entry(rest) {
                (rest, count) = (behind, count + 1);
            }
            if count > 0 {
                let len = batch.bytes.len() - rest.len();
                self.begun.extend_from_slice(rest);
                batch.bytes.truncate(len);
                image.advance(len as u64);
                image.index += count;
                return Ok(true);
            }
            let found = batch.bytes.len() as u64;
            let Some(size) = batch.bytes.first_chunk() else {
                let is_end = found == 0 && (image.left == 0 || !image.sized);
                return if is_end { Ok(false) } else { Err(image.truncated(4, found)) };
            };
            let size = u64::from(u32::from_le_bytes(*size));
            if ends || 4 + size > image.left || usize::try_from(size).is_err() {
                let left = if ends { found } else { image.left };
                image.advance(4);
                return Err(image.truncated(size, left - 4));
            }
            wanted = 4 + size;
        }
    }
}
