//! Reading contents at most once: what is known already, what may still be read, and how.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use crate::build_id::{self, BuildId};
use crate::cache::HashCache;
use crate::cookie::{Cookie, Parts, Verity};
use crate::crc::{self, Crc32c, CrcMode};
use crate::error::{CookieError, Result};
use crate::hash::{self, Blake3, Budget, Strategy};
use crate::open::FileState;

/// Bytes of an ELF header alone: what is shorter has no build-id, and many files of a process are.
const SMALLEST_ELF: u64 = 52;

/// Asks the kernel for the fs-verity digest of an open file, `None` for a file without.
///
/// [`measure_verity`](crate::measure_verity) is the one of Linux.
pub type MeasureVerity = fn(&File) -> io::Result<Option<Verity>>;

/// Calculates hashes and checksums of files, each once in its lifetime however often it is asked, within a budget.
///
/// At dump one value serves twice: files are hashed while the tasks run, and when they are stopped [`Hashing::known`]
/// gives the same cookies again without a single system call, but not those of files that changed since. After
/// [`Hashing::known_only`] such a file is not hashed either.
#[derive(Debug, Default)]
pub struct Hashing {
    measure: Option<MeasureVerity>,
    budget: Budget,
    known_only: bool,
    strategy: Strategy,
    cache: Option<HashCache>,
    blake3: HashMap<FileState, Blake3>,
    checksum: HashMap<(FileState, CrcMode), u32>,
    build_id: HashMap<FileState, Option<BuildId>>,
    verity: HashMap<FileState, Option<Verity>>,
    bytes_hashed: u64,
}

impl Hashing {
    /// Without limit, without a cache between runs.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// Limits what is read from now on.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Chooses how contents are read.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Uses hashes of earlier runs and keeps new ones.
    #[must_use]
    pub fn with_cache(mut self, cache: HashCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Uses fs-verity digests: recorded where files have one, and compared instead of reading the file.
    #[must_use]
    pub fn with_verity(mut self, measure: MeasureVerity) -> Self {
        self.measure = Some(measure);
        self
    }

    /// From now on nothing is hashed any more: what is not known fails with [`CookieError::NotHashed`]. Build-ids, which
    /// are a few bytes, still are read.
    pub fn known_only(&mut self) {
        self.known_only = true;
    }

    /// The cookie of a file in this state as far as it is known already; `None` when any part would have to be read.
    pub fn known(&self, state: &FileState, parts: Parts) -> Option<Cookie> {
        if !state.is_regular() {
            return Some(Cookie { mode: Some(state.mode), ..Cookie::default() });
        }
        let mut cookie = Cookie { size: Some(state.size), mode: Some(state.mode), ..Cookie::default() };
        if state.size == 0 && !parts.blake3 {
            return Some(cookie);
        }
        if parts.build_id && state.size >= SMALLEST_ELF {
            cookie.build_id = self.build_id.get(state)?.clone();
        }
        if parts.verity && self.measure.is_some() {
            cookie.verity = self.verity.get(state)?.clone();
        }
        if let Some(mode) = parts.checksum {
            cookie.checksum = Some(Crc32c { mode, value: *self.checksum.get(&(*state, mode))? });
        }
        if parts.blake3 {
            cookie.blake3 = Some(*self.blake3.get(state)?);
        }
        Some(cookie)
    }

    /// The build-id of an open regular file, `None` when it has none that can be found.
    ///
    /// # Errors
    ///
    /// As [`build_id::read`].
    pub fn build_id(&mut self, file: &File) -> Result<Option<BuildId>> {
        let state = FileState::of(file)?;
        if state.size < SMALLEST_ELF {
            return Ok(None);
        }
        if let Some(known) = self.build_id.get(&state) {
            return Ok(known.clone());
        }
        let found = build_id::read(file)?;
        self.build_id.insert(state, found.clone());
        Ok(found)
    }

    /// The cache, to be written to its file.
    pub fn cache(&self) -> Option<&HashCache> {
        self.cache.as_ref()
    }

    /// Bytes read so far; what was known does not count.
    pub fn bytes_hashed(&self) -> u64 {
        self.bytes_hashed
    }

    /// BLAKE3 of an open regular file.
    ///
    /// # Errors
    ///
    /// As [`hash::of_file`].
    pub fn blake3(&mut self, file: &File) -> Result<Blake3> {
        let state = FileState::of(file)?;
        if let Some(hash) = self.blake3.get(&state) {
            return Ok(*hash);
        }
        if let Some(hash) = self.cache.as_mut().and_then(|cache| cache.find(&state)) {
            self.blake3.insert(state, hash);
            return Ok(hash);
        }
        self.may_read()?;
        let keeps = self.cache.is_some() && HashCache::prepare(file, &state);
        let hash = hash::of_file(file, self.strategy, &mut self.budget)?;
        self.unchanged(file, &state)?;
        self.bytes_hashed = self.bytes_hashed.saturating_add(state.size);
        self.blake3.insert(state, hash);
        if let Some(cache) = self.cache.as_mut().filter(|_| keeps) {
            cache.keep(state, hash);
        }
        Ok(hash)
    }

    /// CRC32C of an open regular file.
    ///
    /// # Errors
    ///
    /// [`CookieError::Changed`], [`CookieError::BudgetBytes`], [`CookieError::BudgetTime`], [`CookieError::Read`].
    pub fn checksum(&mut self, file: &File, mode: CrcMode) -> Result<Crc32c> {
        let state = FileState::of(file)?;
        if let Some(value) = self.checksum.get(&(state, mode)) {
            return Ok(Crc32c { mode, value: *value });
        }
        self.may_read()?;
        let cost = mode.cost_bytes(state.size);
        self.budget.take(cost)?;
        let crc = crc::of_file(file, mode, self.budget)?;
        self.unchanged(file, &state)?;
        self.bytes_hashed = self.bytes_hashed.saturating_add(cost);
        self.checksum.insert((state, mode), crc.value);
        Ok(crc)
    }

    /// The fs-verity digest of an open regular file, if it has one and somebody lent the means to ask for it.
    ///
    /// # Errors
    ///
    /// [`CookieError::Read`].
    pub fn verity(&mut self, file: &File) -> Result<Option<Verity>> {
        let Some(measure) = self.measure else { return Ok(None) };
        let state = FileState::of(file)?;
        if let Some(known) = self.verity.get(&state) {
            return Ok(known.clone());
        }
        let found = measure(file).map_err(|source| CookieError::Read { what: "fs-verity digest", source })?;
        self.verity.insert(state, found.clone());
        Ok(found)
    }

    fn may_read(&self) -> Result<()> {
        if self.known_only { Err(CookieError::NotHashed) } else { Ok(()) }
    }

    fn unchanged(&self, file: &File, before: &FileState) -> Result<()> {
        if FileState::of(file)? == *before { Ok(()) } else { Err(CookieError::Changed) }
    }
}
