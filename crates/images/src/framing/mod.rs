//! Head words, magic, and entries with the bytes that follow them.

#[cfg(feature = "json")]
pub(crate) mod batch;
mod read;
mod write;

#[cfg(feature = "json")]
pub(crate) use read::round_up;
pub use read::{Entry, ImageReader, decode};
pub use write::ImageWriter;
