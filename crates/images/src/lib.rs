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
//! # What to take
//!
//! | to | take | feature |
//! | --- | --- | --- |
//! | open a checkpoint and read images as typed messages | [`Checkpoint`], [`ImageReader`], [`proto`] | |
//! | change images and keep every byte that is not changed | [`edit::ImageEditor`] | |
//! | read memory, wherever in pages files and parents it lies | [`Checkpoint::memory`], [`PageStore`] | `lz4`, `mmap` |
//! | write a checkpoint | [`CheckpointWriter`] | |
//! | print images as JSON as CRIU's `crit` does, and encode it | `json::decode_file`, `json::encode_image` | `json` |
//! | ask who runs, what is open, mapped and connected | `explore::Explorer`, `explore::inspect` | `explore` |
//! | search memory, compare checkpoints, make core files | `explore::Pattern`, `explore::diff`, `coredump` | `explore` |
//! | find all that is wrong with a checkpoint | `validate::validate` | `validate` |
//! | open checkpoints in archives of container engines | `archive::Archive` | `archive` |
//!
//! A file has moved, and the restored program shall find it (more in [`edit`]):
//!
//! ```
//! use rewake_images::{Kind, edit::ImageEditor, proto};
//!
//! # let dir = tempfile::tempdir()?;
//! # let files = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h/files.img");
//! # std::fs::copy(files, dir.path().join("files.img"))?;
//! # let checkpoint = dir.path();
//! let mut files = ImageEditor::open(Kind::Files, checkpoint.join("files.img"))?;
//! files.edit_each(|file: &mut proto::FileEntry| {
//!     if let Some(file) = file.reg.as_mut().filter(|file| file.name.ends_with("/libc.so.6")) {
//!         file.name = "/opt/lib/libc.so.6".into();
//!     }
//! })?;
//! files.save()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Programs to begin with: `cargo run --example processes --features explore -- DIR` prints who runs in a checkpoint, `--example
//! json --features json -- FILE.img` an image.
//!
//! Nothing here needs Linux. Input is hostile: sizes are checked against the file before memory is taken, required
//! fields are checked, and errors name file, entry and byte offset.
//!
//! Features that are no modules: `mmap` maps pages files instead of reading them (`PageStore::bytes`), `lz4` reads and writes
//! compressed pages.

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
