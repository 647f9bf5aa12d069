//! Wake a process up again from a checkpoint in CRIU's image format.
//!
//! ```no_run
//! use rewake_restore::{RestoreOptions, restore};
//!
//! let report = restore(&RestoreOptions::new("/var/tmp/checkpoint"))?;
//! println!("pid {} goes on with {} threads", report.pid, report.threads);
//! # Ok::<(), rewake_restore::RestoreError>(())
//! ```
//!
//! First comes a [`Plan`]: plain data that can be printed and tested without privileges. Then files are compared with what
//! they were, and only then is a process created. On an error nothing of it remains.

mod apply;
mod aspace;
mod creds;
mod error;
mod fetch;
mod fpu;
mod interrupted;
mod locks;
mod memory;
mod numbers;
mod objects;
mod options;
mod plan;
mod remote;
mod state;
mod sys;
mod threads;
mod uffd;
mod verify;

use std::ops::Range;

use nix::unistd::Pid;
use rewake_images::Checkpoint;

pub use apply::apply;
pub use error::{RestoreError, Result};
pub use options::{RestoreOptions, RestoreReport};
pub use plan::{Descriptor, Plan, PlannedArea, plan};

/// Restores a checkpoint: [`plan`], then [`apply`]. The new process is a child of the caller.
///
/// # Errors
/// Those of the two.
pub fn restore(options: &RestoreOptions) -> Result<RestoreReport> {
    let checkpoint = Checkpoint::open(&options.images_dir)?;
    let plan = plan(&checkpoint, &own_mappings()?)?;
    apply(&plan, &checkpoint, options)
}

/// The addresses that are taken in this process, and so in any it creates.
///
/// # Errors
/// [`RestoreError::Unsupported`] if /proc does not tell.
pub fn own_mappings() -> Result<Vec<Range<u64>>> {
    let areas = rewake_memdump::maps(Pid::this());
    let areas = areas.map_err(|error| RestoreError::unsupported("this process", error.to_string()))?;
    Ok(areas.iter().map(rewake_memdump::Area::range).collect())
}
