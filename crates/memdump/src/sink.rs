//! Where captured pages go.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use crate::error::CaptureError;
use crate::plan::Chunk;

/// Takes in the pages that were read.
///
/// It is called by several threads at once, with chunks in any order. Whatever needs the order of the plan is done after
/// [`Turn::wait`]; what does not (compressing, say) before it, so that it is done by all threads:
///
/// ```
/// use std::sync::Mutex;
/// use rewake_memdump::{CaptureError, Chunk, PageSink, Turn};
///
/// /// Remembers a checksum of each chunk.
/// struct Checksums(Mutex<Vec<u64>>);
///
/// impl PageSink for Checksums {
///     fn put(&self, _chunk: &Chunk, bytes: &[u8], _lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
///         let sum = bytes.iter().map(|&byte| u64::from(byte)).sum();
///         turn.wait()?;
///         self.0.lock().unwrap().push(sum);
///         Ok(())
///     }
/// }
/// ```
pub trait PageSink: Sync {
    /// `bytes` are those of `chunk`. The pages `lost`, counted like [`crate::LiveCapture::lost`], mean nothing. What an
    /// implementation returns as an error ends the capture.
    ///
    /// # Errors
    /// [`CaptureError::Write`] or [`CaptureError::Sink`] if the pages cannot be stored; that of [`Turn::wait`].
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError>;

    /// All chunks were put. Not called if something failed.
    ///
    /// # Errors
    /// As [`Self::put`].
    fn finish(&self) -> Result<(), CaptureError> {
        Ok(())
    }
}

/// The turn of a chunk in the order of its plan.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    order: &'a dyn InTurn,
    number: u64,
}

/// Who knows whose turn it is.
pub(crate) trait InTurn: Sync {
    fn wait(&self, number: u64) -> Result<(), CaptureError>;

    /// Comes back when all before this one have [passed](Self::pass) or were put.
    fn wait_to_pass(&self, number: u64) -> Result<(), CaptureError>;

    fn pass(&self, number: u64);
}

impl<'a> Turn<'a> {
    pub(crate) fn new(order: &'a dyn InTurn, number: u64) -> Self {
        Self { order, number }
    }

    /// Comes back when all chunks before this one were put. The turn ends when [`PageSink::put`] returns.
    ///
    /// # Errors
    /// [`CaptureError::Cancelled`] if there is no use in going on, as another thread failed.
    pub fn wait(&self) -> Result<(), CaptureError> {
        self.order.wait(self.number)
    }

    /// Runs `work` when that of all chunks before this one was run, and at once that of the next may: for what must be in
    /// order but takes no time, such as taking a place in the output. Not to be called after [`Turn::wait`], nor twice.
    ///
    /// # Errors
    /// As [`Turn::wait`].
    pub fn in_order<T>(&self, work: impl FnOnce() -> T) -> Result<T, CaptureError> {
        self.order.wait_to_pass(self.number)?;
        let done = work();
        self.order.pass(self.number);
        Ok(done)
    }

    /// The how-many-eth chunk of its plan it is, from 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Pages lie where the plan says.
impl PageSink for File {
    fn put(&self, chunk: &Chunk, bytes: &[u8], _lost: &[u64], _turn: &Turn<'_>) -> Result<(), CaptureError> {
        let write = self.write_all_at(bytes, chunk.file_offset);
        write.map_err(|source| CaptureError::Write { offset: chunk.file_offset, source })
    }
}

/// Pages written one behind the other, in the order of the plan, to anything that can be written to.
#[derive(Debug)]
pub struct StreamSink<W>(Mutex<W>);

impl<W: Write> StreamSink<W> {
    /// Writes to `stream`, from where it is.
    pub fn new(stream: W) -> Self {
        Self(Mutex::new(stream))
    }

    /// The stream. Everything was flushed to it if the capture succeeded.
    pub fn into_inner(self) -> W {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        offset: u64,
        work: impl FnOnce(&mut W) -> std::io::Result<T>,
    ) -> Result<T, CaptureError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut stream).map_err(|source| CaptureError::Write { offset, source })
    }
}

impl<W: Write + Send> PageSink for StreamSink<W> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], _lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        turn.wait()?;
        self.with(chunk.file_offset, |stream| stream.write_all(bytes))
    }

    fn finish(&self) -> Result<(), CaptureError> {
        self.with(0, W::flush)
    }
}
