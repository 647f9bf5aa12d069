//! For tests, benches and the demo: programs with state to lose, and a place to lose it in.
//!
//! The programs are scenarios of the binary `rewake-workload`, each about one kind of kernel object. [`Workload`] starts
//! one and asks it afterwards whether all is as it was. [`namespace`] gives a test a pid namespace of its own, where
//! nobody else can take a pid that a restore needs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::exit, clippy::zombie_processes, reason = "for tests: they fail by panicking")]

pub mod namespace;
mod workload;

pub use workload::{Workload, workload_binary};
