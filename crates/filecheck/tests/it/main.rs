//! Cookies of real and of made-up files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

mod build_id;
mod built;
mod checkpoint;
mod cookie;
mod elf;
mod images;
mod opened;
mod properties;
mod record;
mod verify;
