//! Memory contents: a pagemap, its pages file, and the ancestors that hold what did not change.

mod blocks;
#[cfg(feature = "lz4")]
mod compress;
mod entry;
mod level;
mod read;
mod resolve;
#[cfg(feature = "lz4")]
mod rewrite;
mod run;
mod store;

#[cfg(feature = "validate")]
pub(crate) use blocks::Places;
#[cfg(feature = "lz4")]
pub use compress::Compression;
pub use entry::{flags_of, pages_of, pe};
#[cfg(feature = "lz4")]
pub use rewrite::{Rewritten, rewrite_pages};
pub use run::PageRun;
pub use store::{PARENT_LINK, PageStore, parent_dir};
