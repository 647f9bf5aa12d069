//! What can be wrong with an image.

use std::io;
use std::path::{Path, PathBuf};

/// An image that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file operation failed.
    #[error("{path}: cannot {action}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The first words are not those of this kind of image.
    #[error("{path}: magic {found:#010x}, expected {expected:#010x} ({name})", path = path.display())]
    Magic {
        /// The image.
        path: PathBuf,
        /// The word found.
        found: u32,
        /// The word of the kind its name says.
        expected: u32,
        /// Name of the expected magic.
        name: &'static str,
    },
    /// The first words are not those of any image this crate knows.
    #[error("{path}: unknown magic {found:#x}: a raw image, or none", path = path.display())]
    UnknownMagic {
        /// The file.
        path: PathBuf,
        /// The word found.
        found: u32,
    },
    /// The file ends inside something.
    #[error("{path}: truncated in entry {entry} at byte {offset}: {needed} more bytes wanted, {left} left", path = path.display())]
    Truncated {
        /// The image.
        path: PathBuf,
        /// Index of the entry.
        entry: u64,
        /// Where the missing part starts.
        offset: u64,
        /// Its size.
        needed: u64,
        /// What is there of it.
        left: u64,
    },
    /// Not a protobuf message of the wanted type.
    #[error("{path}: entry {entry} at byte {offset} is no {message}", path = path.display())]
    Decode {
        /// The image.
        path: PathBuf,
        /// Index of the entry.
        entry: u64,
        /// Where its bytes start.
        offset: u64,
        /// The message wanted.
        message: &'static str,
        /// The decoder's reason.
        #[source]
        source: prost::DecodeError,
    },
    /// A required field is absent.
    #[error("{path}: entry {entry} at byte {offset} lacks required field {field}", path = path.display())]
    MissingField {
        /// The image.
        path: PathBuf,
        /// Index of the entry.
        entry: u64,
        /// Where its bytes start.
        offset: u64,
        /// Dotted name, starting with the message.
        field: String,
    },
    /// More or fewer entries than this kind holds.
    #[error("{path}: {found} entries where {expected} belong", path = path.display())]
    EntryCount {
        /// The image.
        path: PathBuf,
        /// How many there are.
        found: u64,
        /// How many there should be.
        expected: &'static str,
    },
    /// A value that contradicts another or that no dumper writes.
    #[error("{path}: {what}", path = path.display())]
    Invalid {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A page that neither this checkpoint nor its ancestors hold.
    #[error("{path}: no page at {vaddr:#x}", path = path.display())]
    NoPage {
        /// The pagemap asked.
        path: PathBuf,
        /// Address of the page.
        vaddr: u64,
    },
    /// JSON that is malformed or does not fit the schema.
    #[cfg(feature = "json")]
    #[error("{path}:{line}:{column}: {what}", path = path.display())]
    Json {
        /// What the JSON was read from.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Byte in the line, from 1.
        column: u64,
        /// What is wrong.
        what: String,
    },
    /// A regular expression that is none.
    #[cfg(feature = "explore")]
    #[error("no regular expression: {what}")]
    Pattern {
        /// What is wrong with it.
        what: String,
    },
    /// No such task in the checkpoint.
    #[error("{path}: no task {pid}", path = path.display())]
    NoTask {
        /// The checkpoint.
        path: PathBuf,
        /// The pid asked for.
        pid: u32,
    },
    /// The directory already holds a checkpoint.
    #[error("{path} already holds a checkpoint", path = path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
}

impl ImageError {
    /// The file it is about, if it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. }
            | Self::Magic { path, .. }
            | Self::UnknownMagic { path, .. }
            | Self::Truncated { path, .. }
            | Self::Decode { path, .. }
            | Self::MissingField { path, .. }
            | Self::EntryCount { path, .. }
            | Self::Invalid { path, .. }
            | Self::NoPage { path, .. }
            | Self::NoTask { path, .. }
            | Self::Exists { path } => Some(path),
            #[cfg(feature = "json")]
            Self::Json { path, .. } => Some(path),
            #[cfg(feature = "explore")]
            Self::Pattern { .. } => None,
        }
    }

    /// The path is copied only if there is an error to tell.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), action, source }
    }
}

/// Result of this crate.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;
