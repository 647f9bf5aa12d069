//! BLAKE3 of whole files, on all processors, within a budget.

use std::fs::File;
use std::io;
use std::time::Instant;

use crate::error::{CookieError, Result};
use crate::open::{FileState, descriptor_path};
use crate::parallel;

/// A BLAKE3 hash of whole contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blake3([u8; 32]);

impl Blake3 {
    /// Takes the 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl std::fmt::Display for Blake3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Blake3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blake3({self})")
    }
}

/// How contents reach the hasher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Positioned reads into a buffer per thread. A file that shrinks meanwhile is an error, nothing worse.
    #[default]
    Read,
    /// A memory map, by blake3's own code. Only for files nobody truncates: the kernel answers a touch past the new end
    /// with SIGBUS, which ends this process.
    Map,
}

/// Bytes that may still be hashed, and until when.
#[derive(Debug, Clone, Copy, Default)]
pub struct Budget {
    /// Bytes left; `None` is no limit.
    pub bytes: Option<u64>,
    /// When to stop; `None` is never. Looked at between chunks, so a hash can end a few milliseconds late.
    pub until: Option<Instant>,
}

impl Budget {
    /// No limit at all.
    pub const UNLIMITED: Self = Self { bytes: None, until: None };

    /// So many bytes, from now on for so long.
    pub fn within(bytes: u64, time: std::time::Duration) -> Self {
        Self { bytes: Some(bytes), until: Instant::now().checked_add(time) }
    }

    /// Takes `bytes` off, before they are read.
    ///
    /// # Errors
    ///
    /// [`CookieError::BudgetBytes`], [`CookieError::BudgetTime`].
    pub fn take(&mut self, bytes: u64) -> Result<()> {
        self.check_time()?;
        if let Some(left) = &mut self.bytes {
            *left = left.checked_sub(bytes).ok_or(CookieError::BudgetBytes { wanted: bytes, left: *left })?;
        }
        Ok(())
    }

    pub(crate) fn check_time(&self) -> Result<()> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            Err(CookieError::BudgetTime)
        } else {
            Ok(())
        }
    }
}

/// Hashes an open regular file.
///
/// # Errors
///
/// [`CookieError::Changed`] when size or time stamps are others afterwards, [`CookieError::BudgetBytes`] and
/// [`CookieError::BudgetTime`] when the budget does not cover it, [`CookieError::Read`].
pub fn of_file(file: &File, strategy: Strategy, budget: &mut Budget) -> Result<Blake3> {
    let before = FileState::of(file)?;
    budget.take(before.size)?;
    let hash = match strategy {
        Strategy::Read => parallel::by_reading(file, before.size, *budget)?,
        Strategy::Map => by_map(file).map_err(read_error)?,
    };
    if FileState::of(file)? != before {
        return Err(CookieError::Changed);
    }
    Ok(Blake3(*hash.as_bytes()))
}

pub(crate) fn read_error(source: io::Error) -> CookieError {
    CookieError::Read { what: "contents for the hash", source }
}

fn by_map(file: &File) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(descriptor_path(file))?;
    Ok(hasher.finalize())
}
