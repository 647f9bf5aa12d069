//! What the copying threads share: the chunks still to be copied, and what came of the others.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::capture::{CaptureStats, LiveCapture};
use crate::error::CaptureError;
use crate::plan::{Chunk, Chunks};
use crate::progress::Progress;
use crate::sink::{InTurn, Turn};

/// A chunk, and the how-many-eth of its plan it is.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) chunk: Chunk,
    number: u64,
}

/// The chunks still to be copied and what was done so far. A lock is taken per chunk, which takes about a tenth of a
/// millisecond to copy.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    state: Mutex<State<'a>>,
    /// A chunk was finished, or all is over.
    changed: Condvar,
    progress: Option<&'a dyn Progress>,
}

#[derive(Debug)]
struct State<'a> {
    chunks: Chunks<'a>,
    /// Number of the next chunk that is taken.
    next: u64,
    /// Chunks below this number are finished, and perhaps others: those in `early`.
    finished: u64,
    /// At most one per thread.
    early: Vec<u64>,
    /// Chunks below this number have passed.
    passed: u64,
    /// The first error. Those that other threads have because of it are not of interest.
    failed: Option<CaptureError>,
    done: LiveCapture,
}

impl<'a> Work<'a> {
    pub(crate) fn new(chunks: Chunks<'a>, progress: Option<&'a dyn Progress>) -> Self {
        let state = State {
            chunks,
            next: 0,
            finished: 0,
            early: Vec::new(),
            passed: 0,
            failed: None,
            done: LiveCapture::default(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), progress }
    }

    /// Nothing in here panics half-way, so a poisoned lock protects good data.
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next chunk; `None` if there is none, something failed or nobody wants to go on.
    pub(crate) fn take(&self) -> Option<Taken> {
        if self.progress.is_some_and(Progress::cancelled) {
            self.fail(CaptureError::Cancelled);
        }
        let mut state = self.lock();
        if state.failed.is_some() {
            return None;
        }
        let chunk = state.chunks.next()?;
        let number = state.next;
        state.next += 1;
        Some(Taken { chunk, number })
    }

    pub(crate) fn fail(&self, error: CaptureError) {
        self.lock().failed.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Others must not wait for the turn of a thread that panicked in its sink.
    pub(crate) fn ends_on_panic(&self) -> EndOnPanic<'_, 'a> {
        EndOnPanic(self)
    }

    pub(crate) fn turn<'t>(&'t self, taken: &Taken) -> Turn<'t> {
        Turn::new(self, taken.number)
    }

    pub(crate) fn add(&self, taken: &Taken, done: CaptureStats, lost: Vec<u64>) {
        let mut state = self.lock();
        let state_now = &mut *state;
        let stats = &mut state_now.done.stats;
        stats.pages += done.pages;
        stats.bytes += done.bytes;
        stats.forced_bytes += done.forced_bytes;
        state_now.done.lost.extend(lost);
        state_now.early.push(taken.number);
        while let Some(at) = state_now.early.iter().position(|&number| number == state_now.finished) {
            state_now.early.swap_remove(at);
            state_now.finished += 1;
        }
        drop(state);
        self.changed.notify_all();
        if let Some(progress) = self.progress {
            progress.done(done.bytes);
        }
    }

    pub(crate) fn into_done(self) -> Result<LiveCapture, CaptureError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut done = state.done;
        done.lost.sort_unstable();
        state.failed.map_or(Ok(done), Err)
    }
}

impl Work<'_> {
    /// Waits until `come` says that it is time. Never for long: the chunks before are in the hands of other threads.
    fn wait_until(&self, come: impl Fn(&State<'_>) -> bool) -> Result<(), CaptureError> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return Err(CaptureError::Cancelled);
            }
            if come(&state) {
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl InTurn for Work<'_> {
    fn wait(&self, number: u64) -> Result<(), CaptureError> {
        self.wait_until(|state| state.finished >= number)
    }

    fn wait_to_pass(&self, number: u64) -> Result<(), CaptureError> {
        self.wait_until(|state| state.passed.max(state.finished) >= number)
    }

    fn pass(&self, number: u64) {
        let mut state = self.lock();
        state.passed = state.passed.max(number + 1);
        drop(state);
        self.changed.notify_all();
    }
}

/// Ends the work when it is dropped by a panic.
#[derive(Debug)]
pub(crate) struct EndOnPanic<'w, 'a>(&'w Work<'a>);

impl Drop for EndOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(CaptureError::Cancelled);
        }
    }
}
