//! Writing entries and the bytes that follow them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use prost::Message;

use crate::Layout;
use crate::error::{ImageError, Result};
use crate::kind::{HEAD_COMMON, HEAD_SERVICE, Head, Kind};

/// Writes the entries of one image. Nothing is created until the first entry: an array image without entries is absent.
#[derive(Debug)]
pub struct ImageWriter<W: Write> {
    path: PathBuf,
    output: W,
}

impl ImageWriter<BufWriter<File>> {
    /// Creates the image at `path`.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn create(kind: Kind, layout: Layout, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::create_new(&path).map_err(ImageError::io(&path, "create"))?;
        Self::new(kind, layout, path, BufWriter::new(file))
    }

    /// Flushes and syncs.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn finish(self) -> Result<()> {
        let Self { path, output } = self;
        let file = output.into_inner().map_err(|e| ImageError::io(&path, "write")(e.into_error()))?;
        drop(file);
        Ok(())
    }
}

impl<W: Write> ImageWriter<W> {
    /// Starts an image: head word and magic.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn new(kind: Kind, layout: Layout, path: impl Into<PathBuf>, output: W) -> Result<Self> {
        let mut writer = Self { path: path.into(), output };
        let row = kind.info();
        match (row.head, layout) {
            (Head::Common, Layout::V11) => writer.put(&HEAD_COMMON.to_le_bytes())?,
            (Head::Service, Layout::V11) => writer.put(&HEAD_SERVICE.to_le_bytes())?,
            (Head::Raw, _) => return Ok(writer),
            _ => {}
        }
        writer.put(&row.magic.to_le_bytes())?;
        Ok(writer)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn push<M: Message>(&mut self, message: &M) -> Result<()> {
        self.push_with(message, &[])
    }

    /// Adds an entry and the bytes that follow it.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Invalid`] for a message of 4 GiB.
    pub fn push_with<M: Message>(&mut self, message: &M, payload: &[u8]) -> Result<()> {
        self.push_raw(&message.encode_to_vec(), payload)
    }

    /// Adds an entry from its encoded bytes, as a reader gave them.
    ///
    /// # Errors
    /// [`ImageError::Io`]; [`ImageError::Invalid`] for a message of 4 GiB.
    pub fn push_raw(&mut self, message: &[u8], payload: &[u8]) -> Result<()> {
        let size = u32::try_from(message.len()).map_err(|_| ImageError::Invalid {
            path: self.path.clone(),
            what: format!("an entry of {} bytes", message.len()),
        })?;
        self.put(&size.to_le_bytes())?;
        self.put(message)?;
        self.put(payload)
    }

    /// The bytes written to, flushed.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn into_inner(mut self) -> Result<W> {
        self.output.flush().map_err(ImageError::io(&self.path, "write"))?;
        Ok(self.output)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(ImageError::io(&self.path, "write"))
    }
}
