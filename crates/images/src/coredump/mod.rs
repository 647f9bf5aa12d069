//! ELF core files of checkpointed processes, for debuggers.
//!
//! A core file holds what the images hold: registers of every thread, and the pages that were dumped. Pages of files that were
//! not changed are not in the images; a debugger takes them from the files themselves, as the kernel's own core files have it.

mod elf;
mod notes;
mod registers;
mod segments;
mod write;

pub use write::{CoreReport, write_core};
