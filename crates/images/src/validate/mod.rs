//! Is this checkpoint restorable in shape? Everything that is wrong with it, not the first thing only.
//!
//! ```
//! use rewake_images::validate::validate;
//!
//! let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h");
//! let report = validate(dir.as_ref());
//! assert!(report.is_clean(), "{report}");
//! ```
//!
//! What is looked at: every image reads, to its last byte, and its messages are complete, with enum values the schema knows;
//! the process tree hangs together; every task has its images; every file, remap, pipe, socket, terminal, lock, filter,
//! control group and namespace that something refers to is there; memory lies inside mappings, pages files have the size
//! their pagemap tells, and the chain of parents is whole. Contents are not compared with this machine:
//! whether files are still as they were is for `rewake-filecheck`.

mod files;
mod finding;
mod images;
mod memory;
mod namespaces;
mod tree;

use std::path::Path;

pub use finding::{Finding, Problem, Report};

use crate::Checkpoint;

/// Checks the checkpoint in `dir`.
#[must_use]
pub fn validate(dir: &Path) -> Report {
    let mut report = Report::new(dir);
    let checkpoint = match Checkpoint::open(dir) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            report.error(&error);
            return report;
        }
    };
    images::check(&checkpoint, &mut report);
    memory::check_chain(&checkpoint, &mut report);
    // A pre-dump is memory alone.
    if !checkpoint.is_pre_dump() {
        let tasks = tree::check(&checkpoint, &mut report);
        let files = files::Files::load(&checkpoint, &mut report);
        files::check(&checkpoint, &tasks, &files, &mut report);
        memory::check_mappings(&checkpoint, &tasks, &files, &mut report);
        namespaces::check(&checkpoint, &tasks, &mut report);
    }
    report
}
