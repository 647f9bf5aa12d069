//! Write a running process to a checkpoint, in CRIU's image format.
//!
//! ```no_run
//! use nix::unistd::Pid;
//! use rewake_dump::{After, DumpOptions, dump};
//!
//! let mut options = DumpOptions::new(Pid::from_raw(1234), "/var/tmp/checkpoint");
//! options.after = After::LeaveRunning;
//! let report = dump(&options)?;
//! println!("{} pages, frozen for {:?}", report.pages, report.frozen);
//! # Ok::<(), rewake_dump::DumpError>(())
//! ```
//!
//! Nothing is frozen before [`preflight`] has found nothing in the way. The checkpoint appears at once and complete, or
//! not at all. Whatever fails, the process goes on running.

mod answers;
mod asked;
mod cookies;
mod core;
mod error;
mod extra;
mod fpu;
mod memory;
mod mm;
mod objects;
mod options;
mod parallel;
mod periodic;
mod policy;
mod pre_dump;
mod preflight;
mod proc;
mod rounds;
mod series;
mod snapshot;
mod survey;
mod sys;
mod tracking;
mod write;

pub use cookies::FileOptions;
pub use error::{DumpError, Result};
pub use options::{After, DumpOptions, DumpReport};
pub use periodic::{Ended, Periodic, dump_periodically};
pub use pre_dump::pre_dump;
pub use preflight::{Obstacle, preflight};
pub use rewake_images::pagemap::Compression;
pub use rewake_memdump::{MemoryTarget, Progress};
pub use rounds::{Rounds, dump_in_rounds};
pub use survey::dump;
