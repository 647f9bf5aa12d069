//! What to record of files at dump, what to insist on at restore, and the exceptions.

use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;

use crate::cookie::Parts;
use crate::crc::{CrcMode, DEFAULT_FIRST};
use crate::error::{CookieError, Result};
use crate::glob::Glob;

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Size and mode.
    FileSize,
    /// Size, mode and the build-id of ELF files: CRIU's default.
    BuildId,
    /// Size, mode, build-id and a CRC32C.
    Checksum(CrcMode),
    /// Size, mode, build-id and BLAKE3 of every file.
    Blake3,
    /// Size and mode of every file; build-id and BLAKE3 of those mapped executable.
    #[default]
    Auto,
}

/// How a task uses a file, as far as it matters for what is asked of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// Some mapping of it is executable.
    pub executable: bool,
    /// Open for writing: its contents are expected to change.
    pub writable: bool,
}

impl Role {
    /// What either of them says.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { executable: self.executable || other.executable, writable: self.writable || other.writable }
    }
}

impl Level {
    /// The parts of a cookie that this level asks of a file.
    ///
    /// Contents of a file open for writing are never asked for: between the cookie and the moment the tasks stop they
    /// may change rightfully, and so they may before a restore.
    pub fn parts(self, role: Role) -> Parts {
        let build_id = Parts::BUILD_ID;
        match self {
            Self::FileSize => Parts::SIZE,
            Self::Auto if role.executable && !role.writable => {
                Parts { blake3: true, verity: true, ..build_id }
            }
            // CRIU compares build-ids of all files, so they are worth their two small reads.
            Self::BuildId | Self::Auto => build_id,
            Self::Checksum(_) | Self::Blake3 if role.writable => build_id,
            Self::Checksum(mode) => Parts { checksum: Some(mode), ..build_id },
            Self::Blake3 => Parts { blake3: true, verity: true, ..build_id },
        }
    }
}

impl FromStr for Level {
    type Err = CookieError;

    /// Reads `filesize`, `buildid`, `checksum`, `checksum=N`, `checksum=full`, `checksum=period:N`, `blake3` and
    /// `auto`; also `checksum-full`, and `chksm`, `chksm-full` as they stood in the proposal to CRIU.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason| CookieError::Policy { text: text.to_owned(), reason };
        let number =
            |digits: &str| digits.parse::<NonZeroU32>().map_err(|_| bad("not a number from 1 to 4294967295"));
        let (word, argument) = text.split_once('=').map_or((text, None), |(word, rest)| (word, Some(rest)));
        match (word, argument) {
            ("filesize", None) => Ok(Self::FileSize),
            ("buildid" | "build-id", None) => Ok(Self::BuildId),
            ("blake3", None) => Ok(Self::Blake3),
            ("auto", None) => Ok(Self::Auto),
            ("checksum" | "chksm", None) => Ok(Self::Checksum(CrcMode::First(DEFAULT_FIRST))),
            ("checksum-full" | "chksm-full", None) | ("checksum", Some("full")) => {
                Ok(Self::Checksum(CrcMode::Full))
            }
            ("checksum-period" | "chksm-period", Some(step)) => {
                Ok(Self::Checksum(CrcMode::Period(number(step)?)))
            }
            ("checksum" | "chksm", Some(rest)) => match rest.strip_prefix("period:") {
                Some(step) => Ok(Self::Checksum(CrcMode::Period(number(step)?))),
                None => Ok(Self::Checksum(CrcMode::First(number(rest)?))),
            },
            ("filesize" | "buildid" | "build-id" | "blake3" | "auto", Some(_)) => {
                Err(bad("it takes no value"))
            }
            ("checksum-period" | "chksm-period", None) => {
                Err(bad("it needs a number, as in checksum=period:4096"))
            }
            _ => Err(bad("known are filesize, buildid, checksum[=N|full|period:N], blake3, auto")),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileSize => f.write_str("filesize"),
            Self::BuildId => f.write_str("buildid"),
            Self::Checksum(CrcMode::Full) => f.write_str("checksum=full"),
            Self::Checksum(CrcMode::First(bytes)) => write!(f, "checksum={bytes}"),
            Self::Checksum(CrcMode::Period(step)) => write!(f, "checksum=period:{step}"),
            Self::Blake3 => f.write_str("blake3"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

/// What an exception does to the files it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Not looked at.
    Ignore,
    /// Looked at; what differs is reported but does not fail the whole.
    Warn,
    /// May have grown: size at least as recorded, contents not compared.
    Grow,
}

/// An exception for the paths that fit a pattern.
#[derive(Debug, Clone)]
pub struct PathRule {
    /// Which paths.
    pub pattern: Glob,
    /// What happens to them.
    pub action: Action,
}

impl FromStr for PathRule {
    type Err = CookieError;

    /// Reads `ignore:PATTERN`, `warn:PATTERN` or `grow:PATTERN`; a pattern alone is ignored.
    fn from_str(text: &str) -> Result<Self> {
        let (action, pattern) = match text.split_once(':') {
            Some(("ignore", rest)) => (Action::Ignore, rest),
            Some(("warn", rest)) => (Action::Warn, rest),
            Some(("grow", rest)) => (Action::Grow, rest),
            _ => (Action::Ignore, text),
        };
        Ok(Self { pattern: pattern.parse()?, action })
    }
}

/// How files are validated.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// What to record at dump.
    pub record: Level,
    /// What must be equal at restore, as far as it was recorded.
    pub insist: Level,
    /// Exceptions; the first that fits a path counts.
    pub rules: Vec<PathRule>,
    /// Other permission bits are only a warning. Another type of file still differs.
    pub any_mode: bool,
}

impl Policy {
    /// The same level for recording and insisting, no exceptions.
    pub fn at(level: Level) -> Self {
        Self { record: level, insist: level, ..Self::default() }
    }

    /// The exception for a path, if any.
    pub fn action(&self, path: &Path) -> Option<Action> {
        self.rules.iter().find(|rule| rule.pattern.fits(path)).map(|rule| rule.action)
    }

    /// Adds the exceptions of a text with one rule a line; empty lines and lines beginning with `#` say nothing.
    ///
    /// # Errors
    ///
    /// [`CookieError::Pattern`] for the first line that is no rule; nothing is added then.
    pub fn add_rules(&mut self, text: &str) -> Result<()> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rules: Vec<PathRule> = lines.map(str::parse).collect::<Result<_>>()?;
        self.rules.extend(rules);
        Ok(())
    }
}
