//! Where memory goes that does not go into the checkpoint, and where it comes from.

use std::fmt;

use rewake_images::Kind;

use crate::error::CaptureError;
use crate::query::PageRun;
use crate::sink::PageSink;

/// Takes the memory of a checkpoint, pagemaps and all, to another place: a page server, say.
pub trait MemoryTarget: fmt::Debug + Send + Sync {
    /// Whether earlier memory of the same object is there.
    ///
    /// # Errors
    /// [`CaptureError::Sink`].
    fn has_parent(&self, kind: Kind, number: u64) -> Result<bool, CaptureError>;

    /// Begins the memory of an object: of a task ([`Kind::Pagemap`]), or shared ([`Kind::PagemapShmem`]). What is put into
    /// the sink is present, the pages of `in_parent` are as they were, and others there are not. Both ascending. One
    /// object is finished before the next begins.
    ///
    /// # Errors
    /// [`CaptureError::Sink`].
    fn open<'a>(
        &'a self,
        kind: Kind,
        number: u64,
        in_parent: &'a [PageRun],
    ) -> Result<Box<dyn PageSink + 'a>, CaptureError>;

    /// All objects are finished: comes back when their memory is safe.
    ///
    /// # Errors
    /// [`CaptureError::Sink`] if it is not.
    fn close(&self) -> Result<(), CaptureError>;
}

/// Why memory did not come.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Has the memory that a checkpoint lacks, because the dumper kept it back.
pub trait MemorySource: fmt::Debug + Send + Sync {
    /// Fetches `pages` pages of process `pid` from `vaddr` on. `keep` gets each part with its address, not always in order.
    ///
    /// # Errors
    /// If not all of them come; that of `keep`.
    fn fetch(
        &self,
        pid: u32,
        vaddr: u64,
        pages: u64,
        keep: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<(), SourceError>;

    /// No more is wanted: whoever has the memory may forget it.
    ///
    /// # Errors
    /// If that cannot be told.
    fn close(&self) -> Result<(), SourceError>;
}
