//! Images as JSON and back, byte for byte as CRIU's `crit` prints it.

mod batches;
mod chunks;
mod decode;
mod descriptors;
mod encode;
mod fast;
#[cfg(feature = "validate")]
pub(crate) mod lint;
mod own;
mod parse;
mod parse_payload;
mod print;
mod print_payload;
mod read;
mod render;
mod ring;
mod schema;
mod shape;
mod tables;
mod text;
mod wire;

pub use decode::{Style, count_entries, decode_file, decode_image, open, open_through};
pub use encode::encode_image;

#[cfg(feature = "explore")]
pub(crate) use text::quoted_printable;
