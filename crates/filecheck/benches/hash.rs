//! BLAKE3 of a GiB of files as large as libraries are, beside the blake3 crate's own parallel hashing, and the second
//! run from the cache. `cargo bench -p rewake-filecheck`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints and stops at the first surprise"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rewake_filecheck::hash::Strategy;
use rewake_filecheck::{Blake3, HashCache, Hashing};

const FILES: usize = 200;
const ROUNDS: usize = 5;

fn main() {
    // On a real file system: hashes of files on tmpfs are never kept.
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files: Vec<PathBuf> = (0..FILES).map(|number| library(dir.path(), number)).collect();
    let bytes: u64 = files.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let (mut theirs, mut ours, mut mapped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(timed(|| peer(&files)));
        ours.push(timed(|| by(Hashing::unlimited(), &files)));
        mapped.push(timed(|| by(Hashing::unlimited().with_strategy(Strategy::Map), &files)));
    }
    let base = best(&theirs);
    println!("{} MiB in {FILES} files, best of {ROUNDS} rounds", bytes >> 20);
    let row = |name: &str, time: Duration| {
        let rate = bytes as f64 / time.as_secs_f64() / 1e9;
        let part = base.as_secs_f64() / time.as_secs_f64() * 100.0;
        println!("{name:34} {:8.1} ms {rate:6.2} GB/s {part:5.0} %", time.as_secs_f64() * 1e3);
    };
    row("blake3 crate, mapped and parallel", base);
    row("Hashing, reading (goal: 80 %)", best(&ours));
    row("Hashing, mapped", best(&mapped));
    again(dir.path(), &files);
}

fn best(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap()
}

fn timed(run: impl FnOnce() -> Vec<Blake3>) -> Duration {
    let begun = Instant::now();
    assert_eq!(run().len(), FILES);
    begun.elapsed()
}

/// A file of 1 to 9.5 MiB of noise, in the page cache afterwards.
fn library(dir: &Path, number: usize) -> PathBuf {
    let size = (1 << 20) + number * 43_691;
    let mut noise = blake3::Hasher::new();
    noise.update(&number.to_le_bytes());
    let mut contents = vec![0; size];
    noise.finalize_xof().fill(&mut contents);
    let path = dir.join(format!("lib{number}.so"));
    fs::write(&path, contents).unwrap();
    path
}

fn peer(files: &[PathBuf]) -> Vec<Blake3> {
    let hash = |path: &PathBuf| {
        let hash = blake3::Hasher::new().update_mmap_rayon(path).unwrap().finalize();
        Blake3::new(*hash.as_bytes())
    };
    files.iter().map(hash).collect()
}

fn by(mut hashing: Hashing, files: &[PathBuf]) -> Vec<Blake3> {
    files.iter().map(|path| hashing.blake3(&File::open(path).unwrap()).unwrap()).collect()
}

/// The second run of the program: the cache is read, and no contents.
fn again(dir: &Path, files: &[PathBuf]) {
    let path = dir.join("cache.json");
    // Only hashes of files whose time stamps have settled are kept.
    let mut hashing = Hashing::unlimited().with_cache(HashCache::default());
    while hashing.cache().unwrap().len() < FILES {
        hashing = Hashing::unlimited().with_cache(HashCache::default());
        for file in files {
            hashing.blake3(&File::open(file).unwrap()).unwrap();
        }
    }
    hashing.cache().unwrap().write(&path).unwrap();
    let times: Vec<Duration> = (0..ROUNDS)
        .map(|_| timed(|| by(Hashing::unlimited().with_cache(HashCache::read(&path).unwrap()), files)))
        .collect();
    println!("{:34} {:8.1} ms (goal: 10 ms)", "second run, from the cache", best(&times).as_secs_f64() * 1e3);
}
