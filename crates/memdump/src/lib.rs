//! Memory capture of a Linux task: mappings, page choice, chunked process_vm_readv.
//!
//! From the outside in: [`areas`] lists the mappings, [`survey`] says which of their pages a checkpoint needs,
//! [`PagePlan`] puts these one behind the other (plain data), [`capture`] copies them.
//!
//! ```
//! use nix::unistd::Pid;
//! use rewake_memdump::{AreaKind, CaptureOptions, PagePlan, areas, capture, survey};
//!
//! let pid = Pid::this(); // any process that stands still; here only our own, unchanging vdso
//! let mut areas = areas(pid)?;
//! areas.retain(|area| area.kind == AreaKind::Vdso);
//! let plan: PagePlan = survey(pid, &areas)?.into_iter().flat_map(|pages| pages.runs).collect();
//!
//! let out = tempfile::tempfile()?;
//! let stats = capture(pid, &plan, &out, &CaptureOptions::default())?;
//! assert_eq!(stats.bytes, out.metadata()?.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Layers, each usable alone: [`AreaReader`] (text of smaps and maps), [`PageScanner`] and [`PageQuery`] (page tables),
//! [`choice`] (the rules of what is stored), [`RemoteMemory`] (ways to read), [`PageSink`]
//! (where pages go), [`Progress`] (how far it is, and an end before it is done), [`object_runs`] (shared memory objects),
//! [`DirtyTracker`] and [`Increment`] (what changed since an earlier checkpoint).
//!
//! Nothing here stops a process, and nothing is written into one. Capture may fault pages in: reading a page that is
//! in swap space, or one of a shared object that was not mapped, makes it present.

mod ahead;
mod area;
mod capture;
mod choose;
mod compressed;
mod dedup;
mod error;
mod hashes;
mod increment;
mod object;
mod pages_file;
mod plan;
mod progress;
mod query;
mod remote;
mod scan;
mod settle;
mod sink;
mod smaps;
mod soft_dirty;
mod survey;
mod sys;
mod table;
mod target;
mod track;
mod vmflags;
mod work;

pub use area::{Area, AreaKind, same_mappings, take_flags};
pub use capture::{CaptureOptions, CaptureStats, LiveCapture, capture, capture_from, capture_live};
pub use choose::{Choice, choice};
pub use compressed::CompressedPages;
pub use dedup::{DedupReport, dedup, dedup_memory, spend};
pub use error::CaptureError;
pub use hashes::{PageHashes, Remembering};
pub use increment::{Increment, Incremented, common, difference};
pub use object::object_runs;
pub use pages_file::PagesFile;
pub use plan::{Chunk, Chunks, PagePlan, PlannedRun};
pub use progress::Progress;
pub use query::{PAGE_SIZE, PageCategories, PageQuery, PageRun};
pub use remote::{ObjectMemory, ProcMem, ProcessVm, Recorded, RemoteMemory};
pub use scan::PageScanner;
pub use settle::Settled;
pub use sink::{PageSink, StreamSink, Turn};
pub use smaps::{AreaReader, areas, maps};
pub use soft_dirty::SoftDirtyTracker;
pub use survey::{AreaPages, narrow, survey};
pub use target::{MemorySource, MemoryTarget, SourceError};
pub use track::{DirtyTracker, UffdTracker};
pub use vmflags::{Prot, VmFlags};
