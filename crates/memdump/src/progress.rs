//! Watching and ending a capture.

use std::fmt;

/// Is told how far a capture is, and may end it. Called by the threads that copy, so it should be quick.
pub trait Progress: fmt::Debug + Send + Sync {
    /// So many bytes more will have to be done. Comes once for every plan: a dump has several.
    fn expect(&self, bytes: u64);

    /// So many bytes more are done.
    fn done(&self, bytes: u64);

    /// Whether to end it. Asked before each chunk; then the capture ends with [`crate::CaptureError::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}
