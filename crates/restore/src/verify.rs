//! Are the files what they were? Asked before anything is created.

use std::path::Path;

use rewake_filecheck::{
    Collector, HashCache, Hashing, OwnCookies, Report, Verdict, Verifier, measure_verity,
};
use rewake_images::Checkpoint;

use crate::error::{RestoreError, Result};
use crate::options::RestoreOptions;
use crate::plan::Plan;

/// Compares every file of the plan with what was noted at the dump; all differences are one error.
pub(crate) fn files(plan: &Plan, checkpoint: &Checkpoint, options: &RestoreOptions) -> Result<Report> {
    let task = &plan.task;
    let mut collector = Collector::default();
    for reg in task.files.values().filter_map(|file| file.reg.as_ref()) {
        collector.file(reg)?;
    }
    task.remaps.iter().for_each(|remap| collector.remap(remap));
    task.mm.vmas.iter().for_each(|vma| collector.mapping(plan.pid, vma));
    task.fdinfo.iter().for_each(|fd| collector.descriptor(plan.pid, fd));
    collector.memory(plan.pid, &task.mm);
    collector.directories(plan.pid, &task.fs);
    let files = collector.finish(&OwnCookies::read(checkpoint.dir())?);

    let root = Path::new("/");
    let mut hashing = Hashing::unlimited().with_verity(measure_verity);
    if let Some(path) = &options.hash_cache {
        match HashCache::read(path) {
            Ok(cache) => hashing = hashing.with_cache(cache),
            Err(error) => tracing::warn!(%error, "hashes of earlier runs cannot be used"),
        }
    }
    let mut verifier = Verifier::new(root, &options.policy)?.with_hashing(hashing);
    let mut report = verifier.verify(&files)?;
    if let (Some(path), Some(cache)) = (&options.hash_cache, verifier.into_hashing().cache())
        && let Err(error) = cache.write(path)
    {
        tracing::warn!(%error, "hashes cannot be kept for later runs");
    }
    if report.verdict() == Verdict::Same {
        return Ok(report);
    }
    report.name_packages(root);
    Err(RestoreError::Files { report: Box::new(report) })
}
