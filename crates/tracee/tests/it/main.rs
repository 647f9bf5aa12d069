//! Real processes under control.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]
#![allow(clippy::print_stdout, reason = "a skip says why, and programs talk to their test")]

mod frozen;
mod process;
mod programs;
mod remote;
mod rseq;
mod seize;
mod signals;
mod stub;
