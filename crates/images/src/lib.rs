//! Read, write and explore checkpoint images in CRIU's format.
//!
//! A checkpoint is a directory of image files. [`Checkpoint`] opens one for reading, [`CheckpointWriter`] makes one
//! appear atomically. Below them, each usable alone: [`kind`] (which image kinds there are), [`framing`] (entries and
//! the bytes after them) and [`proto`] (the typed messages).
//!
//! ```
//! use rewake_images::Checkpoint;
//!
//! let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h");
//! let checkpoint = Checkpoint::open(dir)?;
//! for task in checkpoint.tasks()? {
//!     let comm = checkpoint.core(u64::from(task.pid))?.tc.map(|tc| tc.comm).unwrap_or_default();
//!     println!("{:7} (child of {}) {comm}", task.pid, task.ppid);
//! }
//! # Ok::<(), rewake_images::ImageError>(())
//! ```
//!
//! [`edit`] changes images in place and keeps all it does not change, fields this crate does not know among it.
//!
//! Nothing here needs Linux. Input is hostile: sizes are checked against the file before memory is taken, required
//! fields are checked, and errors name file, entry and byte offset.
//!
//! Features: `mmap` maps pages files instead of reading them ([`PageStore::bytes`]); `explore` answers questions about a
//! checkpoint; `archive` reads those in archives of container engines; `validate` finds what is wrong with one.

#[cfg(feature = "archive")]
pub mod archive;
pub mod checkpoint;
#[cfg(feature = "explore")]
pub mod coredump;
pub mod edit;
mod error;
#[cfg(feature = "explore")]
pub mod explore;
pub mod extra;
pub mod framing;
#[cfg(feature = "json")]
pub mod json;
pub mod kind;
mod merge;
pub mod pagemap;
#[cfg(feature = "explore")]
pub mod recode;
mod required;
#[cfg(feature = "explore")]
mod swap;
#[cfg(feature = "validate")]
pub mod validate;
mod writer;

/// The typed messages, generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code; the fields are documented in proto/"
)]
pub mod proto {
    include!("generated/images.rs");
}

pub use checkpoint::Checkpoint;
pub use error::{ImageError, Result};
pub use framing::{Entry, ImageReader, ImageWriter};
pub use kind::Kind;
pub use pagemap::{PageRun, PageStore, pages_of, pe};
pub use writer::{CheckpointWriter, PagesWriter};

/// Bytes of a page. The format does not store it; every x86-64 image has this one.
pub const PAGE_SIZE: u64 = 4096;

/// Layout of the images of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Images start with their magic.
    V10,
    /// Images start with a head word, then their magic.
    V11,
}

/// The schema as an encoded `FileDescriptorSet`, with the custom options that steer rendering.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/images.fds");
