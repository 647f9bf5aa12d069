//! Are the files what they were? Asked before anything is created.

use std::os::fd::OwnedFd;
use std::path::Path;

use rewake_filecheck::{
    Collector, Expected, HashCache, Hashing, OwnCookies, Report, Verdict, Verifier, measure_verity,
};
use rewake_images::Checkpoint;
use rewake_images::proto::RegFileEntry;

use crate::error::{RestoreError, Result};
use crate::objects;
use crate::options::RestoreOptions;
use crate::plan::Plan;

/// Compares every file of the plan with what was noted at the dump; all differences are one error. With the report come
/// the files of `by_name`, ascending by id, as far as they could be opened: the very ones that were compared.
pub(crate) fn files(
    plan: &Plan,
    checkpoint: &Checkpoint,
    options: &RestoreOptions,
    by_name: &[&RegFileEntry],
) -> Result<(Report, Vec<Option<OwnedFd>>)> {
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
    let place = |id| by_name.binary_search_by_key(&id, |reg| reg.id).ok();
    let opening = |file: &Expected| {
        place(file.id).and_then(|index| by_name.get(index)).map(|reg| objects::opening(reg))
    };
    let (mut report, opened) = verifier.verify_opened(&files, opening)?;
    if let (Some(path), Some(cache)) = (&options.hash_cache, verifier.into_hashing().cache())
        && let Err(error) = cache.write(path)
    {
        tracing::warn!(%error, "hashes cannot be kept for later runs");
    }
    if report.verdict() == Verdict::Same {
        let mut verified: Vec<Option<OwnedFd>> = by_name.iter().map(|_| None).collect();
        for (file, opened) in files.iter().zip(opened) {
            if let Some(place) = place(file.id).and_then(|index| verified.get_mut(index)) {
                *place = opened.map(OwnedFd::from);
            }
        }
        return Ok((report, verified));
    }
    report.name_packages(root);
    Err(RestoreError::Files { report: Box::new(report) })
}
