//! Where memory goes that does not go into the checkpoint.

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
