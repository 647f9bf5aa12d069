//! Are the files what they were? Asked before anything is created.

use std::path::Path;

use rewake_filecheck::{Collector, OwnCookies, Policy, Verdict, verify_all};
use rewake_images::Checkpoint;

use crate::error::{RestoreError, Result};
use crate::plan::Plan;

/// Compares every file of the plan with what was noted at the dump; all differences are one error.
pub(crate) fn files(plan: &Plan, checkpoint: &Checkpoint, policy: &Policy) -> Result<()> {
    let failed = |error: rewake_filecheck::CookieError| RestoreError::Files { report: error.to_string() };
    let task = &plan.task;
    let mut collector = Collector::default();
    for reg in task.files.values().filter_map(|file| file.reg.as_ref()) {
        collector.file(reg).map_err(failed)?;
    }
    task.remaps.iter().for_each(|remap| collector.remap(remap));
    task.mm.vmas.iter().for_each(|vma| collector.mapping(plan.pid, vma));
    task.fdinfo.iter().for_each(|fd| collector.descriptor(plan.pid, fd));
    collector.memory(plan.pid, &task.mm);
    collector.directories(plan.pid, &task.fs);
    let own = OwnCookies::read(checkpoint.dir()).map_err(failed)?;
    let report = verify_all(&collector.finish(&own), Path::new("/"), policy).map_err(failed)?;
    match report.verdict() {
        Verdict::Same => Ok(()),
        _ => Err(RestoreError::Files { report: report.to_string() }),
    }
}
