//! BLAKE3 by positioned reads on several threads, each with one small buffer that stays in its processor's cache.
//!
//! A hash of this kind is a tree. The file is cut into units whose size is a power of two, so that each is a whole
//! subtree; threads take units in turn, and the subtrees are joined at the end. Memory does not depend on the file:
//! larger files have larger units, not more of them.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::build_id::ReadAt;
use crate::error::{CookieError, Result};
use crate::hash::{Budget, read_error};

/// Smallest unit.
const UNIT: u64 = 1 << 20;
/// Most units; at 32 bytes each, their values fit in 2 MiB.
const MAX_UNITS: u64 = 1 << 16;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// Hashes `size` bytes from the start of the file; a file that ends earlier has changed.
pub(crate) fn by_reading(file: &File, size: u64, budget: Budget) -> Result<blake3::Hash> {
    let unit = size.div_ceil(MAX_UNITS).next_power_of_two().max(UNIT);
    if size <= unit {
        let mut hasher = blake3::Hasher::new();
        feed(&mut hasher, file, 0, size, budget, &mut buffer(size), &AtomicBool::new(false))?;
        return Ok(hasher.finalize());
    }
    let values = subtrees(&Work { file, size, unit, budget })?;
    // Joining needs both halves to exist: `size > unit`, so there are two values at least.
    let (left, right) = values.split_at(left_count(values.len()));
    Ok(merge_subtrees_root(&join(left), &join(right), Mode::Hash))
}

fn buffer(size: u64) -> Vec<u8> {
    vec![0; usize::try_from(size).unwrap_or(BUFFER).min(BUFFER)]
}

#[derive(Clone, Copy)]
struct Work<'a> {
    file: &'a File,
    size: u64,
    unit: u64,
    budget: Budget,
}

/// The values of all units, in order.
fn subtrees(work: &Work<'_>) -> Result<Vec<ChainingValue>> {
    let units = usize::try_from(work.size.div_ceil(work.unit)).unwrap_or(usize::MAX);
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(units);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || -> Result<Vec<(usize, ChainingValue)>> {
        let mut buf = buffer(work.size);
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= units || failed.load(Ordering::Relaxed) {
                return Ok(done);
            }
            match one(work, index as u64, &mut buf, &failed) {
                Ok(value) => done.push((index, value)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut values = vec![[0; 32]; units];
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads)
            // Without threads left in the system the others do all of it.
            .filter_map(|_| {
                std::thread::Builder::new().name("blake3".to_owned()).spawn_scoped(scope, run).ok()
            })
            .collect();
        let own = run();
        let helped = helpers.into_iter().map(|helper| helper.join().expect("hashing does not panic"));
        for done in std::iter::once(own).chain(helped) {
            for (index, value) in done? {
                if let Some(place) = values.get_mut(index) {
                    *place = value;
                }
            }
        }
        Ok::<(), CookieError>(())
    })?;
    Ok(values)
}

fn one(work: &Work<'_>, index: u64, buf: &mut [u8], failed: &AtomicBool) -> Result<ChainingValue> {
    let start = index * work.unit;
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    feed(&mut hasher, work.file, start, work.size.min(start + work.unit), work.budget, buf, failed)?;
    Ok(hasher.finalize_non_root())
}

fn feed(
    hasher: &mut blake3::Hasher,
    file: &File,
    mut from: u64,
    to: u64,
    budget: Budget,
    buf: &mut [u8],
    failed: &AtomicBool,
) -> Result<()> {
    while from < to && !failed.load(Ordering::Relaxed) {
        budget.check_time()?;
        let want = usize::try_from(to - from).unwrap_or(BUFFER).min(buf.len());
        let part = buf.get_mut(..want).unwrap_or_default();
        if file.read_full_at(part, from).map_err(read_error)? < want {
            return Err(CookieError::Changed);
        }
        hasher.update(part);
        from += want as u64;
    }
    Ok(())
}

/// How many of `units` equal units belong to the left half of the tree.
fn left_count(units: usize) -> usize {
    // The rule of the hash for bytes, with a unit in place of a chunk.
    usize::try_from(left_subtree_len(units as u64 * CHUNK) / CHUNK).unwrap_or(units)
}

/// Bytes of a chunk, the leaf of the tree.
const CHUNK: u64 = blake3::CHUNK_LEN as u64;

fn join(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => [0; 32],
        [value] => *value,
        _ => {
            let (left, right) = values.split_at(left_count(values.len()));
            merge_subtrees_non_root(&join(left), &join(right), Mode::Hash)
        }
    }
}
