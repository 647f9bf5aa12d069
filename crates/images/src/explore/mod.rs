//! A checkpoint as values a program can ask: who runs, what is open, what is mapped, what is connected.
//!
//! Each value can be serialised; the views that CRIU's `crit x` has also print as it prints them.
//! A zombie, on which crit fails, has its pid and nothing else; old pagemaps, on which it fails too, are understood.
//!
//! ```
//! use rewake_images::Checkpoint;
//! use rewake_images::explore::Explorer;
//!
//! let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h"))?;
//! let explorer = Explorer::new(&checkpoint)?;
//! for task in &explorer.fds()?.0 {
//!     for file in &task.files {
//!         println!("{} {}: {}", task.pid, file.fd, file.path);
//!     }
//! }
//! # Ok::<(), rewake_images::ImageError>(())
//! ```
//!
//! Where in memory a text lies, in all processes:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use rewake_images::Checkpoint;
//! use rewake_images::explore::{Explorer, Pattern};
//!
//! let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h"))?;
//! let explorer = Explorer::new(&checkpoint)?;
//! let pattern = Pattern::regex(r"PATH=[!-~]+")?;
//! let mut found = 0;
//! for space in explorer.spaces()? {
//!     let _ = explorer.search(space, &pattern, 0, |hit| {
//!         println!("{:?} {:#x}: {}", hit.space, hit.address, hit.bytes.escape_ascii());
//!         found += 1;
//!         ControlFlow::Continue(())
//!     })?;
//! }
//! assert!(found > 0);
//! # Ok::<(), rewake_images::ImageError>(())
//! ```

mod compare;
mod diff;
mod explorer;
mod fds;
mod files;
mod inspect;
mod memory;
mod mems;
mod names;
mod pattern;
mod ps;
mod rss;
mod search;
mod sockets;
mod sysv;

pub use compare::{PageChange, PageChanges, PageRange};
pub use diff::{Change, Descriptor, Diff, TaskDiff, diff};
pub use explorer::{Explorer, Task, TaskState};
pub use fds::{Fd, FdList, FdNumber, TaskFds};
pub use files::FileTable;
pub use inspect::{
    Details, DumpFacts, HostFacts, InspectedProcess, Inspection, MemoryFacts, Mount, OpenFile, Sizes,
    Statistics, inspect,
};
pub use mems::{Mapping, MappingList, Resource, TaskMappings, status};
pub use names::size;
pub use pattern::Pattern;
pub use ps::{Forest, Process};
pub use rss::{Resident, ResidentList, TaskResident, Touched};
pub use search::{Hit, Space};
pub use sockets::{Socket, SocketList, TaskSockets};
pub use sysv::{IpcKind, IpcObject};
