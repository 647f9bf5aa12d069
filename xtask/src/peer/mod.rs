//! CRIU as a peer to test against: fetched once from Debian's packages, run without being installed.

mod packages;
mod program;
mod sources;

pub(crate) use packages::setup;
pub(crate) use program::Peer;
