//! Memory of real processes: our own mappings, and a program that waits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

mod dedup;
mod mapping;
mod process;
mod store;
mod surveyed;
mod tracked;
