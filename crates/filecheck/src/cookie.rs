//! A cookie: what is remembered of a file to know it again.

use std::fs::File;
use std::path::Path;

use crate::build_id::BuildId;
use crate::crc::{Crc32c, CrcMode};
use crate::error::{CookieError, Result};
use crate::hash::Blake3;
use crate::hashing::Hashing;
use crate::open::{FileState, Held};

/// An fs-verity digest: the kernel's own Merkle tree over a file that cannot be written any more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Verity {
    /// Number of the hash algorithm: 1 is SHA-256, 2 is SHA-512.
    pub algorithm: u16,
    /// The digest.
    pub digest: Vec<u8>,
}

/// What is remembered of a file to know it again. Absent parts were not asked for or do not exist for the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cookie {
    /// Size in bytes; `None` when the size must not be compared (see [`compares_size`]).
    pub size: Option<u64>,
    /// Type and permission bits.
    pub mode: Option<u32>,
    /// Build-id of an ELF file.
    pub build_id: Option<BuildId>,
    /// CRC32C of some or all bytes.
    pub checksum: Option<Crc32c>,
    /// BLAKE3 of all bytes.
    pub blake3: Option<Blake3>,
    /// fs-verity digest.
    pub verity: Option<Verity>,
}

/// Which parts of a cookie to take. Size and mode always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// The build-id, when the file is ELF.
    pub build_id: bool,
    /// A checksum over these bytes.
    pub checksum: Option<CrcMode>,
    /// The hash of all bytes.
    pub blake3: bool,
    /// The fs-verity digest, when the file has one.
    pub verity: bool,
}

impl Parts {
    /// Size and mode only.
    pub const SIZE: Self = Self { build_id: false, checksum: None, blake3: false, verity: false };
    /// Size, mode and build-id: what CRIU compares by default.
    pub const BUILD_ID: Self = Self { build_id: true, checksum: None, blake3: false, verity: false };

    fn needs_contents(self) -> bool {
        self.build_id || self.checksum.is_some() || self.blake3 || self.verity
    }
}

/// Whether the size of a file opened with these flags is recorded: not for `O_WRONLY | O_APPEND`, which are logs.
pub fn compares_size(open_flags: u32) -> bool {
    const ACCMODE: u32 = nix::libc::O_ACCMODE.cast_unsigned();
    const WRONLY: u32 = nix::libc::O_WRONLY.cast_unsigned();
    const APPEND: u32 = nix::libc::O_APPEND.cast_unsigned();
    !(open_flags & ACCMODE == WRONLY && open_flags & APPEND != 0)
}

impl Cookie {
    /// Takes the cookie of an open file, which need not be open for reading: the contents are opened once more through
    /// /proc, the same inode whatever its name leads to now.
    ///
    /// For anything but a regular file the cookie has the mode only, as in the format.
    ///
    /// # Errors
    ///
    /// Any [`CookieError`] of opening, reading, a change meanwhile, or the budget.
    pub fn of_file(file: &File, parts: Parts, hashing: &mut Hashing) -> Result<Self> {
        Self::of_held(&Held::at(&crate::open::descriptor_path(file))?, parts, hashing)
    }

    /// Takes the cookie of what a path names, `/proc/PID/fd/N` and `/proc/PID/map_files/…` included. FIFOs and devices
    /// are not opened.
    ///
    /// # Errors
    ///
    /// As [`Cookie::of_file`].
    pub fn of_path(path: &Path, parts: Parts, hashing: &mut Hashing) -> Result<Self> {
        Self::of_held(&Held::at(path)?, parts, hashing)
    }

    /// Takes the cookie of a file that is held.
    ///
    /// # Errors
    ///
    /// As [`Cookie::of_file`].
    pub fn of_held(held: &Held, parts: Parts, hashing: &mut Hashing) -> Result<Self> {
        let before = held.state();
        if !before.is_regular() {
            return Ok(Self { mode: Some(before.mode), ..Self::default() });
        }
        let mut cookie = Self { size: Some(before.size), mode: Some(before.mode), ..Self::default() };
        if !parts.needs_contents() || before.size == 0 && !parts.blake3 {
            return Ok(cookie);
        }
        let contents = held.contents()?;
        // A file that is renamed or loses its last name changes its ctime, too; its contents are the same the next time.
        for _ in 1..ATTEMPTS {
            match cookie.read_contents(&contents, parts, hashing) {
                Err(CookieError::Changed) => {}
                result => return result.map(|()| cookie),
            }
        }
        cookie.read_contents(&contents, parts, hashing).map(|()| cookie)
    }

    /// Takes over the parts that `other` has.
    pub(crate) fn add(&mut self, other: Self) {
        self.size = other.size.or(self.size);
        self.mode = other.mode.or(self.mode);
        self.build_id = other.build_id.or(self.build_id.take());
        self.checksum = other.checksum.or(self.checksum);
        self.blake3 = other.blake3.or(self.blake3);
        self.verity = other.verity.or(self.verity.take());
    }

    fn read_contents(&mut self, contents: &File, parts: Parts, hashing: &mut Hashing) -> Result<()> {
        let before = FileState::of(contents)?;
        (self.size, self.mode) = (Some(before.size), Some(before.mode));
        if parts.build_id {
            self.build_id = hashing.build_id(contents)?;
        }
        if parts.verity {
            self.verity = hashing.verity(contents)?;
        }
        if let Some(mode) = parts.checksum {
            self.checksum = Some(hashing.checksum(contents, mode)?);
        }
        if parts.blake3 {
            self.blake3 = Some(hashing.blake3(contents)?);
        }
        // A build-id is a few bytes near the start; a file that grows meanwhile keeps it.
        let whole = parts.checksum.is_some() || parts.blake3;
        if whole && FileState::of(contents)? != before { Err(CookieError::Changed) } else { Ok(()) }
    }
}

/// How often a file may change while its cookie is taken.
pub(crate) const ATTEMPTS: u32 = 3;
