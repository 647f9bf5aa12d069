//! Hashes remembered between runs, in an optional file that only makes things faster.
//!
//! A hash is found again by device, inode, size, mtime and ctime. That the same five numbers mean the same contents is
//! true only if every later change moves the ctime, so a hash is kept when all of this holds:
//!
//! * the file system is a local one that stamps writes through mappings when a clean page becomes dirty (tmpfs never
//!   does, network and user-space file systems may change behind our back);
//! * its dirty pages were written out before it was hashed, so that later writes through mappings are stamped;
//! * its time stamps were at least two seconds old then, so that a later change cannot get the same ones.
//!
//! What remains are changes the kernel does not see as such: the raw device written to, the clock set back.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs,
};
use serde::{Deserialize, Serialize};

use crate::error::{CookieError, Result};
use crate::hash::Blake3;
use crate::open::FileState;
use crate::own::replace;

/// File systems that stamp writes through mappings. All ext versions share one number.
const TRUSTED: [FsType; 4] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC];

/// Time stamps younger than this may be given to a later change, too. File systems count in nanoseconds to seconds.
const SETTLED_SECONDS: i64 = 2;

const VERSION: u32 = 1;
const MAX_BYTES: u64 = 64 << 20;
/// Entries kept; beyond, those not used in this run go first.
const MAX_ENTRIES: usize = 100_000;

/// Hashes remembered between runs.
#[derive(Debug, Clone, Default)]
pub struct HashCache {
    known: HashMap<FileState, Known>,
    changed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    blake3: Blake3,
    used: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    state: FileState,
    blake3: Blake3,
}

impl HashCache {
    /// Reads the cache file. A missing, foreign or damaged one is an empty cache: it only makes things faster.
    ///
    /// # Errors
    ///
    /// [`CookieError::Store`] when the file exists and cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |source| CookieError::Store { path: path.to_owned(), action: "read", source };
        let file = match OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(fail(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(fail)?;
        let document: Option<Document> = serde_json::from_slice(&text).ok();
        let files = document.filter(|document| document.version == VERSION).map(|document| document.files);
        let known = files
            .unwrap_or_default()
            .into_iter()
            .map(|entry| (entry.state, Known { blake3: entry.blake3, used: false }))
            .collect();
        Ok(Self { known, changed: false })
    }

    /// Writes the cache file in one step, if there is anything new.
    ///
    /// # Errors
    ///
    /// [`CookieError::Store`].
    pub fn write(&self, path: &Path) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let mut files: Vec<(&FileState, &Known)> = self.known.iter().collect();
        files.sort_by_key(|(state, known)| (!known.used, state.dev, state.inode));
        files.truncate(MAX_ENTRIES);
        let files =
            files.into_iter().map(|(state, known)| Entry { state: *state, blake3: known.blake3 }).collect();
        let text = serde_json::to_vec(&Document { version: VERSION, files }).map_err(|error| {
            CookieError::Store { path: path.to_owned(), action: "encode", source: error.into() }
        })?;
        replace(path, &text)
    }

    /// How many hashes it knows.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The hash of a file in this state.
    pub(crate) fn find(&mut self, state: &FileState) -> Option<Blake3> {
        let known = self.known.get_mut(state)?;
        known.used = true;
        Some(known.blake3)
    }

    /// Makes the file ready for its hash to be kept, before it is hashed; says whether it may be.
    pub(crate) fn prepare(file: &File, state: &FileState) -> bool {
        let trusted = fstatfs(file).is_ok_and(|statfs| TRUSTED.contains(&statfs.filesystem_type()));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|now| i64::try_from(now.as_secs()).ok());
        let settled = |(seconds, _): (i64, i64)| now.is_some_and(|now| seconds < now - SETTLED_SECONDS);
        trusted && settled(state.mtime) && settled(state.ctime) && file.sync_data().is_ok()
    }

    /// Keeps a hash for which [`HashCache::prepare`] said yes.
    pub(crate) fn keep(&mut self, state: FileState, blake3: Blake3) {
        self.known.insert(state, Known { blake3, used: true });
        self.changed = true;
    }
}
