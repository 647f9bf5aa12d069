//! What is asked of a restore, and what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rewake_memdump::{MemorySource, Progress};

/// What to restore, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// The checkpoint.
    pub images_dir: PathBuf,
    /// Leave the process in a job-control stop, whatever it was in.
    pub leave_stopped: bool,
    /// Threads that copy memory.
    pub threads: usize,
    /// Which files must be what they were.
    pub policy: rewake_filecheck::Policy,
    /// Hashes of files remembered between runs; `None` is none.
    pub hash_cache: Option<PathBuf>,
    /// Has the memory that the dumper kept back. Without it, a checkpoint that lacks some is refused.
    pub memory_source: Option<Arc<dyn MemorySource>>,
    /// Is told how far the copying of memory is.
    pub progress: Option<Arc<dyn Progress>>,
}

impl RestoreOptions {
    /// Restores the checkpoint in `images_dir`; memory is copied by a thread per CPU.
    pub fn new(images_dir: impl Into<PathBuf>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let policy = rewake_filecheck::Policy::default();
        Self {
            images_dir: images_dir.into(),
            leave_stopped: false,
            threads,
            policy,
            hash_cache: None,
            memory_source: None,
            progress: None,
        }
    }
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The process, a child of the caller.
    pub pid: u32,
    /// Its threads.
    pub threads: usize,
    /// Its mappings.
    pub mappings: usize,
    /// Its descriptors.
    pub descriptors: usize,
    /// Pages of memory put back.
    pub pages: u64,
    /// Time that went into memory.
    pub copying: Duration,
    /// Time that went into checking files, before anything was created.
    pub checking: Duration,
    /// The files that were checked, with what was let pass.
    pub files: rewake_filecheck::Report,
    /// Time of everything.
    pub total: Duration,
}
