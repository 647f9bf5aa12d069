//! Programs with state to lose, and sandboxes to lose it in: for rewake's own tests.
//!
//! * The binary `rewake-workload` sets up the state of one kernel object kind per scenario, says when it
//!   is ready to be frozen, and proves on request that nothing was lost. [`Workload`] drives it.
//! * [`kernel_test!`] runs a test in its own pid namespace, where no other test can take a pid that a
//!   restored task needs.
//! * [`bytes`] writes image bytes by hand; it shares no code with the format crate it is there to judge.

pub mod bytes;
pub mod namespace;

mod binary;
mod error;
mod scenario;
mod sys;
mod workload;

pub use binary::{scenarios, workload_binary};
pub use error::TestkitError;
pub use scenario::Scenario;
pub use sys::{detach, in_pid_namespace};
pub use workload::Workload;
