//! Real checkpoints explored: as CRIU's crit shows them where it can, and where it cannot.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod diff;
mod inspect;
mod search;
mod sysv;
mod views;

use std::path::{Path, PathBuf};

use rewake_images::Checkpoint;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn open(case: &str) -> Checkpoint {
    Checkpoint::open(testdata().join(case)).unwrap()
}
