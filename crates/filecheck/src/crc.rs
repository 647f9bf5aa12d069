//! CRC32C over some or all bytes of a file, in the three ways the format knows.
//!
//! # Source
//!
//! `reg_file_entry` fields `checksum` (CRC32C, Castagnoli polynomial, the usual inversions), `checksum_config` and
//! `checksum_parameter`. The fields are in the schema of every release; the code that fills them was proposed to CRIU
//! (pull request 1148) and never landed, so no released CRIU checks them.

use std::fs::File;
use std::num::NonZeroU32;

use crate::build_id::ReadAt;
use crate::error::{CookieError, Result};
use crate::hash::Budget;

/// Numbers of `checksum_config`, as an early state of that proposal had them. It called 4 "every byte"; that its later
/// "full" kept the number is inferred. No image that another program wrote was there to compare with.
mod config {
    pub(super) const FULL: u32 = 4;
    pub(super) const FIRST: u32 = 5;
    pub(super) const PERIOD: u32 = 6;
}

/// Bytes covered by [`CrcMode::First`] when the user names no number.
pub const DEFAULT_FIRST: NonZeroU32 = NonZeroU32::new(1024).expect("1024 is not zero");

const CHUNK: usize = 256 * 1024;

/// Which bytes a checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrcMode {
    /// The whole file.
    Full,
    /// So many bytes from the start, or all of a shorter file.
    First(NonZeroU32),
    /// The bytes at offsets 0, N, 2N and so on.
    Period(NonZeroU32),
}

impl CrcMode {
    /// The mode stored in an image.
    ///
    /// # Errors
    ///
    /// [`CookieError::ChecksumConfig`] for a number nobody has given a meaning, or a parameter of zero or missing.
    pub fn from_format(config: u32, parameter: Option<u32>) -> Result<Self> {
        let number = parameter.and_then(NonZeroU32::new);
        match (config, number) {
            (config::FULL, _) => Ok(Self::Full),
            (config::FIRST, Some(bytes)) => Ok(Self::First(bytes)),
            (config::PERIOD, Some(step)) => Ok(Self::Period(step)),
            _ => Err(CookieError::ChecksumConfig { config, parameter }),
        }
    }

    /// `checksum_config` and `checksum_parameter`; the latter is always there, zero where it has no meaning.
    pub fn to_format(self) -> (u32, u32) {
        match self {
            Self::Full => (config::FULL, 0),
            Self::First(bytes) => (config::FIRST, bytes.get()),
            Self::Period(step) => (config::PERIOD, step.get()),
        }
    }

    /// Bytes that have to be read of a file of `size` bytes (an upper bound, for budgets).
    pub fn cost_bytes(self, size: u64) -> u64 {
        match self {
            Self::Full => size,
            Self::First(bytes) => size.min(u64::from(bytes.get())),
            // Below a page apart, everything passes through the page cache anyway.
            Self::Period(step) if step.get() <= 4096 => size,
            Self::Period(step) => (size / u64::from(step.get()) + 1).saturating_mul(4096).min(size),
        }
    }
}

impl std::fmt::Display for CrcMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("whole file"),
            Self::First(bytes) => write!(f, "first {bytes} bytes"),
            Self::Period(step) => write!(f, "every {step}. byte"),
        }
    }
}

/// A CRC32C and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crc32c {
    /// Which bytes.
    pub mode: CrcMode,
    /// Their checksum.
    pub value: u32,
}

/// The checksum of an open regular file. Of the budget only the time counts: whoever calls has taken the bytes.
///
/// # Errors
///
/// [`CookieError::Read`] when reading fails, [`CookieError::BudgetTime`].
pub fn of_file(file: &File, mode: CrcMode, budget: Budget) -> Result<Crc32c> {
    let value = match mode {
        CrcMode::Full => prefix(file, u64::MAX, budget)?,
        CrcMode::First(bytes) => prefix(file, u64::from(bytes.get()), budget)?,
        CrcMode::Period(step) => every(file, step, budget)?,
    };
    Ok(Crc32c { mode, value })
}

fn read(file: &File, buf: &mut [u8], offset: u64) -> Result<usize> {
    file.read_full_at(buf, offset)
        .map_err(|source| CookieError::Read { what: "contents for the checksum", source })
}

fn prefix(file: &File, len: u64, budget: Budget) -> Result<u32> {
    let mut buf = vec![0; CHUNK];
    let (mut crc, mut offset) = (0, 0);
    loop {
        budget.check_time()?;
        let want = usize::try_from(len - offset).unwrap_or(CHUNK).min(CHUNK);
        let part = buf.get_mut(..want).unwrap_or_default();
        let got = read(file, part, offset)?;
        crc = crc32c::crc32c_append(crc, part.get(..got).unwrap_or_default());
        offset += got as u64;
        if got < want || offset == len {
            return Ok(crc);
        }
    }
}

fn every(file: &File, step: NonZeroU32, budget: Budget) -> Result<u32> {
    let step = u64::from(step.get());
    let (mut crc, mut offset) = (0, 0u64);
    if step >= 4096 {
        // Far apart: one small read per byte is cheaper than reading what lies between.
        let mut byte = [0];
        while read(file, &mut byte, offset)? == 1 {
            budget.check_time()?;
            crc = crc32c::crc32c_append(crc, &byte);
            offset += step;
        }
        return Ok(crc);
    }
    let stride = usize::try_from(step).unwrap_or(1);
    let chunk = CHUNK / stride * stride;
    let mut buf = vec![0; chunk];
    loop {
        budget.check_time()?;
        let got = read(file, &mut buf, offset)?;
        let picked: Vec<u8> = buf.get(..got).unwrap_or_default().iter().copied().step_by(stride).collect();
        crc = crc32c::crc32c_append(crc, &picked);
        offset += got as u64;
        if got < chunk {
            return Ok(crc);
        }
    }
}
