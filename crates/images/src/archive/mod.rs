//! Checkpoints in the archives of container engines: podman, CRI-O, containerd, docker.
//!
//! An archive is a tar file (or a directory) of a container's checkpoint, of a pod's with a directory for each container, or of a
//! container image that has one in a layer. Images are read out of it, plain or compressed with gzip or zstd, into a private temporary directory; memory only as
//! far as it is asked for.

mod metadata;
mod oci;
mod stream;
mod unpack;

pub use metadata::{Container, Engine, Interface, SpecMount};
pub use unpack::{Archive, Contents};
