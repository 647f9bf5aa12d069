//! Our own file beside the images, for what `reg_file_entry` has no place for. CRIU looks only for names it knows, so it
//! never sees it.
//!
//! ```json
//! {"version": 1, "files": [{"id": 5, "name": "/usr/lib/libc.so.6", "blake3": "1f…", "verity": {"algorithm": 1, "digest": "9c…"}}]}
//! ```
//!
//! An entry belongs to the file of the same id *and* name in `files.img`: one left over from another checkpoint says
//! nothing about this one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cookie::{Cookie, Verity};
use crate::error::{CookieError, Result};
use crate::hash::Blake3;
use crate::verify::Expected;

/// Its name in a checkpoint.
pub const FILE_NAME: &str = "rewake-files.json";

/// The only version so far.
const VERSION: u32 = 1;

/// More is no such file: a million entries take about 200 MiB.
const MAX_BYTES: u64 = 256 << 20;

/// What our own file says, by file id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnCookies {
    files: BTreeMap<u32, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    files: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    id: u32,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<Blake3>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verity: Option<Verity>,
}

impl OwnCookies {
    /// Notes what of the cookie the format has no place for; nothing when there is no such part.
    pub fn insert(&mut self, id: u32, name: &str, cookie: &Cookie) {
        if cookie.blake3.is_none() && cookie.verity.is_none() {
            self.files.remove(&id);
            return;
        }
        let entry = Entry { id, name: name.to_owned(), blake3: cookie.blake3, verity: cookie.verity.clone() };
        self.files.insert(id, entry);
    }

    /// Whether it says anything. An empty one need not be written.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many files it speaks of.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Completes a cookie read from `reg_file_entry` of this id and name.
    pub fn complete(&self, id: u32, name: &str, cookie: &mut Cookie) {
        if let Some(entry) = self.files.get(&id).filter(|entry| entry.name == name) {
            cookie.blake3 = entry.blake3;
            cookie.verity = entry.verity.clone();
        }
    }

    /// Completes all cookies.
    pub fn complete_all(&self, entries: &mut [Expected]) {
        for entry in entries {
            if let Some(name) = entry.path.to_str() {
                self.complete(entry.id, name, &mut entry.cookie);
            }
        }
    }

    /// Reads it from a checkpoint's directory; empty when there is none.
    ///
    /// # Errors
    ///
    /// [`CookieError::Store`] when it cannot be read, [`CookieError::StoreContents`] when it is something else.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let fail = |source| CookieError::Store { path: path.clone(), action: "read", source };
        let wrong = |reason: String| CookieError::StoreContents { path: path.clone(), reason };
        // A FIFO of this name must not make a restore wait for ever.
        let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(fail(error)),
        };
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(wrong("not a regular file".to_owned()));
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(fail)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(wrong(format!("larger than {MAX_BYTES} bytes")));
        }
        let document: Document = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if document.version != VERSION {
            return Err(wrong(format!("version {} is not known", document.version)));
        }
        let mut files = BTreeMap::new();
        for entry in document.files {
            if let Some(twice) = files.insert(entry.id, entry) {
                return Err(wrong(format!("file id {} is there twice", twice.id)));
            }
        }
        Ok(Self { files })
    }

    /// Writes it into a checkpoint's directory, replacing an older one in one step; an empty one only removes it.
    ///
    /// # Errors
    ///
    /// [`CookieError::Store`]; the older one is still there then.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        if self.is_empty() {
            return match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(CookieError::Store { path, action: "remove", source })
                }
                _ => Ok(()),
            };
        }
        replace(&path, &self.to_text())
    }

    /// Its text, for who writes files in a way of his own.
    pub fn to_text(&self) -> Vec<u8> {
        let document = Document { version: VERSION, files: self.files.values().cloned().collect() };
        let mut text = serde_json::to_vec_pretty(&document).expect("plain data with keys of text");
        text.push(b'\n');
        text
    }
}

/// Makes a file with these contents appear in one step and durably, or leaves what was there.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let fail = |action| move |source| CookieError::Store { path: path.to_owned(), action, source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut staged = tempfile::Builder::new()
        .prefix(".rewake-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(fail("create"))?;
    staged.write_all(contents).and_then(|()| staged.as_file().sync_all()).map_err(fail("write"))?;
    staged.persist(path).map_err(|error| error.error).map_err(fail("rename"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail("sync"))
}
