//! Carrying out a plan: reading the pages and handing them to a sink.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use nix::unistd::Pid;

use crate::error::{CaptureError, is_gone};
use crate::plan::{Chunk, PagePlan};
use crate::progress::Progress;
use crate::query::PAGE_SIZE;
use crate::remote::{ProcMem, ProcessVm, RemoteMemory};
use crate::sink::PageSink;
use crate::work::{Taken, Work};

/// How memory is captured.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Threads that copy, at least one. The first copies in the calling thread if it is the only one.
    pub threads: usize,
    /// Buffer of each thread in bytes, rounded down to pages, at least one page.
    pub buffer_bytes: usize,
    /// Is told how far it is, and may end it.
    pub progress: Option<Arc<dyn Progress>>,
}

impl Default for CaptureOptions {
    /// As many threads as there are CPUs, since filling the page cache is the work of one CPU per writer, and 1 MiB
    /// each, about the size of a second-level cache: smaller costs more calls, larger gains nothing.
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { threads, buffer_bytes: 1 << 20, progress: None }
    }
}

/// What was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CaptureStats {
    /// Pages written.
    pub pages: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Of these, bytes that were readable by the slow way only, for example because the area is PROT_NONE.
    pub forced_bytes: u64,
}

/// What was captured of a process that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LiveCapture {
    /// What was read. Lost pages are counted, too: they have a place in the output, with nothing of use in it.
    pub stats: CaptureStats,
    /// Pages that were gone when it was their turn, as places in the output in pages, ascending.
    pub lost: Vec<u64>,
}

/// Reads the pages of `plan` from `pid` and puts them into `out`, a [file](std::fs::File) at the places the plan says.
///
/// The process must stand still: a page of the plan that cannot be read is an error. Nothing is synced. Memory used is
/// one buffer per thread, whatever the size of the plan.
///
/// # Errors
/// [`CaptureError::Died`], [`CaptureError::Unreadable`], those of the sink; [`CaptureError::Cancelled`] if
/// [`CaptureOptions::progress`] wants that; [`CaptureError::Proc`] without permission.
pub fn capture<S: PageSink + ?Sized>(
    pid: Pid,
    plan: &PagePlan,
    out: &S,
    options: &CaptureOptions,
) -> Result<CaptureStats, CaptureError> {
    let forced = ProcMem::open(pid)?;
    let capture = Capture { pid, memory: &ProcessVm::new(pid), forced: &forced, out, live: false };
    Ok(capture.run(plan, options)?.stats)
}

/// As [`capture`], of a process that runs on meanwhile.
///
/// Pages of one moment do not fit those of another, and pages that can no longer be read are told in
/// [`LiveCapture::lost`]: the caller leaves them out, and the next round repairs both.
///
/// # Errors
/// As [`capture`], but never [`CaptureError::Unreadable`].
pub fn capture_live<S: PageSink + ?Sized>(
    pid: Pid,
    plan: &PagePlan,
    out: &S,
    options: &CaptureOptions,
) -> Result<LiveCapture, CaptureError> {
    let forced = ProcMem::open(pid)?;
    Capture { pid, memory: &ProcessVm::new(pid), forced: &forced, out, live: true }.run(plan, options)
}

/// As [`capture`], from any kind of memory. `pid` is only named in errors.
///
/// # Errors
/// As [`capture`].
pub fn capture_from<M: RemoteMemory + Sync, S: PageSink + ?Sized>(
    memory: &M,
    pid: Pid,
    plan: &PagePlan,
    out: &S,
    options: &CaptureOptions,
) -> Result<CaptureStats, CaptureError> {
    Ok(Capture { pid, memory, forced: memory, out, live: false }.run(plan, options)?.stats)
}

/// Everything the copying threads share and do not change.
#[derive(Debug)]
pub(crate) struct Capture<'a, M, F, S: ?Sized> {
    pub(crate) pid: Pid,
    pub(crate) memory: &'a M,
    /// Asked for pieces that `memory` refuses.
    pub(crate) forced: &'a F,
    pub(crate) out: &'a S,
    /// Pages may vanish meanwhile.
    pub(crate) live: bool,
}

impl<M: RemoteMemory + Sync, F: RemoteMemory + Sync, S: PageSink + ?Sized> Capture<'_, M, F, S> {
    pub(crate) fn run(&self, plan: &PagePlan, options: &CaptureOptions) -> Result<LiveCapture, CaptureError> {
        if let Some(progress) = &options.progress {
            progress.expect(plan.total_bytes());
        }
        let work = Work::new(plan.chunks(options.buffer_bytes), options.progress.as_deref());
        let largest = options.buffer_bytes.min(usize::try_from(plan.total_bytes()).unwrap_or(usize::MAX));
        // No more threads than there can be chunks for.
        let useful = usize::try_from(plan.total_bytes()).unwrap_or(usize::MAX).div_ceil(largest.max(1));
        let threads = options.threads.min(useful).max(1);
        if threads == 1 {
            self.copy(&work, largest);
        } else {
            thread::scope(|scope| {
                let copying: Vec<_> =
                    (0..threads).map(|_| scope.spawn(|| self.copy(&work, largest))).collect();
                copying
                    .into_iter()
                    .for_each(|thread| thread.join().expect("only a sink that panics gets here"));
            });
        }
        let done = work.into_done()?;
        self.out.finish()?;
        Ok(done)
    }

    /// What one thread does: takes chunks until there are none or one of them failed.
    fn copy(&self, work: &Work<'_>, buffer_bytes: usize) {
        let _end = work.ends_on_panic();
        let mut buffer = Vec::with_capacity(buffer_bytes);
        while let Some(taken) = work.take() {
            match self.copy_chunk(work, &taken, &mut buffer) {
                Ok((done, lost)) => work.add(&taken, done, lost),
                Err(error) => work.fail(error),
            }
        }
    }

    fn copy_chunk(
        &self,
        work: &Work<'_>,
        taken: &Taken,
        buffer: &mut Vec<u8>,
    ) -> Result<(CaptureStats, Vec<u64>), CaptureError> {
        let chunk = &taken.chunk;
        let bytes = chunk.len_bytes();
        buffer.resize(usize::try_from(bytes).expect("a chunk fits into the buffer"), 0);
        let mut lost = Vec::new();
        let forced_bytes = self.fill(chunk, buffer, &mut lost)?;
        self.out.put(chunk, buffer, &lost, &work.turn(taken))?;
        Ok((CaptureStats { pages: bytes / PAGE_SIZE, bytes, forced_bytes }, lost))
    }

    /// Reads the pieces of `chunk` into `buffer`; returns how many bytes had to be forced.
    fn fill(&self, chunk: &Chunk, buffer: &mut [u8], lost: &mut Vec<u64>) -> Result<u64, CaptureError> {
        let mut pieces = chunk.iovecs.clone();
        let (mut finished, mut filled, mut forced_bytes) = (0, 0, 0);
        while let Some(left @ &mut [(addr, len), ..]) = pieces.get_mut(finished..) {
            let rest = buffer.get_mut(filled..).expect("the buffer is as long as the pieces");
            let mut read = match self.memory.read_pieces(left, rest) {
                Ok(read) => read,
                Err(error) if is_gone(&error) => return Err(self.gone()),
                Err(_) => 0, // the slow way can do more, and its error is the one that counts
            };
            if read == 0 {
                read = match self.force(addr, len, rest) {
                    Err(CaptureError::Unreadable { .. }) if self.live => {
                        lost.push((chunk.file_offset + to_u64(filled)) / PAGE_SIZE);
                        // The rest of this page; the next one may be there again.
                        let page = (PAGE_SIZE - addr % PAGE_SIZE).min(len);
                        usize::try_from(page).expect("a page fits into the buffer")
                    }
                    forced => {
                        let read = forced?;
                        forced_bytes += to_u64(read);
                        read
                    }
                };
            }
            filled += read;
            finished += advance(left, to_u64(read));
        }
        Ok(forced_bytes)
    }

    fn force(&self, addr: u64, len: u64, rest: &mut [u8]) -> Result<usize, CaptureError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
        let part = rest.get_mut(..len).unwrap_or_default();
        match self.forced.read_at(addr, part) {
            Ok(0) => Err(self.unreadable(addr, io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => Ok(read),
            Err(source) if is_gone(&source) => Err(self.gone()),
            Err(source) => Err(self.unreadable(addr, source)),
        }
    }

    /// The memory is gone: with the process, or because the process runs another program now.
    fn gone(&self) -> CaptureError {
        let pid = self.pid;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may hold any byte.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        match state {
            None | Some('Z' | 'X') => CaptureError::Died { pid },
            Some(_) => CaptureError::Replaced { pid },
        }
    }

    fn unreadable(&self, addr: u64, source: io::Error) -> CaptureError {
        CaptureError::Unreadable { pid: self.pid, addr, source }
    }
}

/// Takes the first `read` bytes off `pieces`; returns how many of them that finishes.
fn advance(pieces: &mut [(u64, u64)], mut read: u64) -> usize {
    let mut finished = 0;
    for (addr, len) in pieces {
        let part = read.min(*len);
        (*addr, *len, read) = (*addr + part, *len - part, read - part);
        if *len > 0 {
            break;
        }
        finished += 1;
    }
    finished
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("usize is at most 64 bits")
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
