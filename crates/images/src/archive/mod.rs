//! Checkpoints in the archives of container engines: podman, CRI-O, containerd.
//!
//! Images are read out of a tar file, plain or compressed with gzip or zstd, into a private temporary directory; memory only as
//! far as it is asked for.

mod metadata;
mod stream;
mod unpack;

pub use metadata::{Container, Engine, Interface, SpecMount};
pub use unpack::{Archive, Contents};
