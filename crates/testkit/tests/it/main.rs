//! The workload program judged by itself: with nothing done to it, every scenario finds its state intact.
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod sandbox;
mod scenarios;
