//! Images changed in place, through their types. What is not changed keeps its bytes: other entries, other fields, fields
//! this crate does not know, what follows the entries.
//!
//! A file of a checkpoint has moved, and all that had it open or mapped shall find it:
//!
//! ```
//! use rewake_images::{Kind, edit::ImageEditor, proto};
//!
//! # let dir = tempfile::tempdir()?;
//! # let files = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h/files.img");
//! # std::fs::copy(files, dir.path().join("files.img"))?;
//! # let checkpoint = dir.path();
//! let mut files = ImageEditor::open(Kind::Files, checkpoint.join("files.img"))?;
//! let changed = files.edit_each(|file: &mut proto::FileEntry| {
//!     if let Some(file) = file.reg.as_mut().filter(|file| file.name.ends_with("/libc.so.6")) {
//!         file.name = "/opt/lib/libc.so.6".into();
//!     }
//! })?;
//! files.save()?;
//! assert_eq!(changed, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A server shall listen on another port when it wakes up:
//!
//! ```
//! use rewake_images::{Kind, edit::ImageEditor, proto};
//!
//! # let dir = tempfile::tempdir()?;
//! # let files = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kinds/socket_listen-h/files.img");
//! # std::fs::copy(files, dir.path().join("files.img"))?;
//! # let checkpoint = dir.path();
//! const LISTEN: u32 = 10;
//!
//! let mut files = ImageEditor::open(Kind::Files, checkpoint.join("files.img"))?;
//! let changed = files.edit_each(|file: &mut proto::FileEntry| {
//!     if let Some(socket) = file.isk.as_mut().filter(|socket| socket.state == LISTEN && socket.src_port == 8880) {
//!         socket.src_port = 8080;
//!     }
//! })?;
//! files.save()?;
//! assert_eq!(changed, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use prost::{Message, Name};

use crate::Layout;
use crate::error::{ImageError, Result};
use crate::framing::{self, Entry, ImageReader, ImageWriter};
use crate::kind::Kind;
use crate::merge::merge;

/// An image open for change, all of it in memory. Nothing happens to the file before [`Self::save`].
#[derive(Debug)]
pub struct ImageEditor {
    kind: Kind,
    layout: Layout,
    path: PathBuf,
    entries: Vec<Entry>,
}

impl ImageEditor {
    /// Reads the image at `path`, which is of `kind`.
    ///
    /// # Errors
    /// Any error of reading.
    pub fn open(kind: Kind, path: impl Into<PathBuf>) -> Result<Self> {
        let mut reader = ImageReader::open(kind, path)?;
        let entries = reader.by_ref().collect::<Result<_>>()?;
        Ok(Self { kind, layout: reader.layout(), path: reader.path().to_owned(), entries })
    }

    /// The entries as they stand now.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes the entry at `index`; whether anything did change.
    ///
    /// # Errors
    /// [`ImageError::Decode`], [`ImageError::MissingField`] for an entry that is no `M`; [`ImageError::EntryCount`] if there
    /// is no such entry.
    pub fn edit<M: Message + Name + Default>(
        &mut self,
        index: usize,
        change: impl FnOnce(&mut M),
    ) -> Result<bool> {
        let found = self.entries.len() as u64;
        let Some(entry) = self.entries.get_mut(index) else {
            return Err(ImageError::EntryCount { path: self.path.clone(), found, expected: "more" });
        };
        let mut message: M = framing::decode(&self.path, entry)?;
        let old = message.encode_to_vec();
        change(&mut message);
        let new = message.encode_to_vec();
        if old == new {
            return Ok(false);
        }
        entry.message = merge(M::NAME, &entry.message, &old, &new);
        Ok(true)
    }

    /// Changes every entry, of which all must be `M` (but for pagemaps and ghost files they are all the same); how many did
    /// change.
    ///
    /// # Errors
    /// As [`Self::edit`].
    pub fn edit_each<M: Message + Name + Default>(
        &mut self,
        mut change: impl FnMut(&mut M),
    ) -> Result<usize> {
        let mut changed = 0;
        for index in 0..self.entries.len() {
            changed += usize::from(self.edit(index, &mut change)?);
        }
        Ok(changed)
    }

    /// Replaces the bytes that follow the entry at `index`. Its message must tell their length: change it as well.
    ///
    /// # Errors
    /// [`ImageError::EntryCount`] if there is no such entry.
    pub fn set_payload(&mut self, index: usize, payload: Vec<u8>) -> Result<()> {
        let found = self.entries.len() as u64;
        let Some(entry) = self.entries.get_mut(index) else {
            return Err(ImageError::EntryCount { path: self.path.clone(), found, expected: "more" });
        };
        entry.payload = payload;
        Ok(())
    }

    /// Adds an entry and the bytes that follow it.
    pub fn push<M: Message>(&mut self, message: &M, payload: Vec<u8>) {
        let index = self.entries.len() as u64;
        self.entries.push(Entry { index, offset: 0, message: message.encode_to_vec(), payload });
    }

    /// Keeps the entries of which `keep` says so.
    pub fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
    }

    /// The bytes of the image as it stands now.
    ///
    /// # Errors
    /// Any error of reading it back, for a length that does not fit its message.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut image = ImageWriter::new(self.kind, self.layout, &self.path, Vec::new())?;
        for entry in &self.entries {
            image.push_raw(&entry.message, &entry.payload)?;
        }
        let bytes = image.into_inner()?;
        let mut back = ImageReader::new(self.kind, &self.path, bytes.as_slice(), bytes.len() as u64)?;
        for entry in &self.entries {
            let same = back
                .next_entry()?
                .is_some_and(|b| (&b.message, &b.payload) == (&entry.message, &entry.payload));
            if !same {
                let what = format!("entry {} does not tell the length of what follows it", entry.index);
                return Err(ImageError::Invalid { path: self.path.clone(), what });
            }
        }
        Ok(bytes)
    }

    /// Puts the image in the place of the file, at once.
    ///
    /// # Errors
    /// As [`Self::to_bytes`]; [`ImageError::Io`]. The file is then as it was.
    pub fn save(self) -> Result<()> {
        let bytes = self.to_bytes()?;
        let mut name = self.path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        name.push(format!(".rewake-{}", std::process::id()));
        let staged = self.path.with_file_name(name);
        let write = || {
            let mut file = File::create_new(&staged)?;
            file.set_permissions(fs::metadata(&self.path)?.permissions())?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&staged, &self.path)
        };
        write().map_err(|error| {
            // What stays is a file that no reader takes for an image.
            let _ = fs::remove_file(&staged);
            ImageError::io(&self.path, "replace")(error)
        })
    }
}
