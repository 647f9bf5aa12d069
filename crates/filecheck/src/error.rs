//! What can go wrong while a cookie is taken, stored or read back.

use std::io;
use std::path::PathBuf;

/// A cookie that could not be had.
///
/// That a file *differs* is never an error: it is a [`Finding`](crate::Finding).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CookieError {
    /// The file cannot be opened.
    #[error("{path}: cannot open", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Reading the open file failed.
    #[error("cannot read {what}")]
    Read {
        /// Which part was wanted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Only regular files have contents to compare.
    #[error("a {kind} has no contents to take a cookie of")]
    NotRegular {
        /// What it is instead.
        kind: &'static str,
    },
    /// A digest was recorded, and this file has none or nobody can ask for it.
    #[error("no fs-verity digest to be had here")]
    NoVerity,
    /// Size or time stamps moved while the contents were read.
    #[error("the file changed while it was read")]
    Changed,
    /// The budget for hashing does not cover the file.
    #[error("{wanted} bytes to hash, {left} left of the budget")]
    BudgetBytes {
        /// Size of the file.
        wanted: u64,
        /// Bytes left.
        left: u64,
    },
    /// The time for hashing is used up.
    #[error("the time for hashing is used up")]
    BudgetTime,
    /// Hashing is over: the task stands, and files are hashed only while it runs.
    #[error("it was opened or changed after the files were hashed")]
    NotHashed,
    /// A policy that nobody can read.
    #[error("no file validation called `{text}`: {reason}")]
    Policy {
        /// The text given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path pattern that nobody can read.
    #[error("bad path pattern `{pattern}`: {reason}")]
    Pattern {
        /// The pattern given.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A stored checksum whose way of being calculated is unknown.
    #[error("checksum configuration {config} with parameter {parameter:?} is unknown")]
    ChecksumConfig {
        /// The number stored.
        config: u32,
        /// Its parameter.
        parameter: Option<u32>,
    },
    /// An image cannot be read or written.
    #[error("cannot use the checkpoint")]
    Image(#[from] rewake_images::ImageError),
    /// A file of our own cannot be read or written.
    #[error("{path}: cannot {action}", path = path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file of our own holds something else.
    #[error("{path}: {reason}", path = path.display())]
    StoreContents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, CookieError>;
