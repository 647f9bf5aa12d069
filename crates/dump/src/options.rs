//! What is asked of a dump, and what came of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use rewake_images::pagemap::Compression;
use rewake_memdump::{MemoryTarget, Progress};

use crate::cookies::FileOptions;
use crate::error::{DumpError, Result};

/// What becomes of the process after its dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum After {
    /// It is killed: the checkpoint takes its place.
    #[default]
    Kill,
    /// It goes on.
    LeaveRunning,
    /// It is left in a job-control stop (SIGSTOP).
    LeaveStopped,
}

/// What to dump, where to, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DumpOptions {
    /// The process.
    pub pid: Pid,
    /// Where the checkpoint goes.
    pub images_dir: PathBuf,
    /// What becomes of the process.
    pub after: After,
    /// Threads that copy memory.
    pub threads: usize,
    /// Files that were deleted while open are taken along up to this size in bytes.
    pub ghost_limit: u64,
    /// Locks and leases on files are taken along, and the restored process takes them again. Nobody keeps others from the files
    /// meanwhile, so unless this is set, a process that holds one is refused.
    pub file_locks: bool,
    /// What is recorded of files, to know them again at the restore.
    pub files: FileOptions,
    /// An earlier checkpoint that holds what did not change since; relative to `images_dir`.
    pub parent: Option<PathBuf>,
    /// The next checkpoint will have this one as its parent: note when it was made.
    pub track_mem: bool,
    /// Find out what changed by comparing pages only, never by tracking writes, which the process could notice.
    pub compare_pages: bool,
    /// With [`After::LeaveRunning`]: the process goes on as soon as a copy of it holds its memory, which is then written at
    /// leisure. Meanwhile it counts as two, and pages it writes are copied.
    pub snapshot: bool,
    /// Free the room that pages of ancestors take when nothing needs them any more: the ancestors can then no longer be
    /// restored themselves.
    pub auto_dedup: bool,
    /// Compress pages with LZ4. CRIU up to 4.2 refuses such a checkpoint.
    pub compress: Option<Compression>,
    /// Is told how far the copying of memory is, and may end it: then the process goes on, and no checkpoint is left.
    pub progress: Option<Arc<dyn Progress>>,
    /// Memory goes there, and only the rest into the checkpoint. It is closed before the checkpoint takes its place, so it
    /// serves one dump.
    pub memory_target: Option<Arc<dyn MemoryTarget>>,
}

impl DumpOptions {
    /// Dumps `pid` to `images_dir` and kills it; memory is copied by a thread per CPU.
    pub fn new(pid: Pid, images_dir: impl Into<PathBuf>) -> Self {
        let threads = rewake_memdump::CaptureOptions::default().threads;
        Self {
            pid,
            images_dir: images_dir.into(),
            after: After::default(),
            threads,
            ghost_limit: 1 << 20,
            file_locks: false,
            files: FileOptions::default(),
            parent: None,
            track_mem: false,
            auto_dedup: false,
            snapshot: false,
            compare_pages: false,
            compress: None,
            progress: None,
            memory_target: None,
        }
    }

    /// Whether the memory is to be read from a copy of the process.
    pub(crate) fn wants_snapshot(&self) -> bool {
        self.snapshot && self.after == After::LeaveRunning
    }

    /// All memory was copied: what went elsewhere must be safe before the checkpoint takes its place.
    pub(crate) fn memory_is_complete(&self) -> Result<()> {
        self.go_on()?;
        let closed = self.memory_target.as_ref().map_or(Ok(()), |target| target.close());
        closed.map_err(DumpError::capture(self.pid))
    }

    /// An error if it was cancelled meanwhile.
    pub(crate) fn go_on(&self) -> Result<()> {
        let cancelled = self.progress.as_ref().is_some_and(|progress| progress.cancelled());
        if cancelled { Err(DumpError::Cancelled) } else { Ok(()) }
    }
}

/// What a dump did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DumpReport {
    /// Threads of the process.
    pub threads: usize,
    /// Mappings.
    pub mappings: usize,
    /// Descriptors.
    pub descriptors: usize,
    /// Pages of memory written.
    pub pages: u64,
    /// Bytes these take in pages files.
    pub pages_bytes: u64,
    /// Of these, pages of shared memory.
    pub shared_pages: u64,
    /// Pages left to the parent checkpoint, which has them unchanged.
    pub parent_pages: u64,
    /// Of these, pages of shared memory.
    pub shared_parent_pages: u64,
    /// Pages that vanished while they were copied from a running process; the next round looks at them again.
    pub lost_pages: u64,
    /// Pages that were looked at.
    pub pages_scanned: u64,
    /// Of these, pages of shared memory.
    pub shared_pages_scanned: u64,
    /// Time until all threads stood.
    pub freezing: Duration,
    /// Time the process stood.
    pub frozen: Duration,
    /// Time that went into choosing and comparing pages.
    pub choosing: Duration,
    /// Time that went into copying memory.
    pub copying: Duration,
    /// Time of everything.
    pub total: Duration,
    /// Time that went into hashing files, while the process ran.
    pub hashing: Duration,
    /// Files that were looked at, and what could not be recorded of them.
    pub files: rewake_filecheck::Report,
}
