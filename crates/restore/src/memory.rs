//! Contents of memory.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;
use rewake_images::{PAGE_SIZE, PageRun, PageStore};
use rewake_memdump::Progress;
use rewake_tracee::{Remote, TaskMem};

use crate::aspace::ordinary;
use crate::error::{RestoreError, Result};
use crate::options::RestoreOptions;
use crate::plan::{Plan, status};
use crate::sys;
use crate::uffd::Uffd;

/// Below this an area is written the simple way: registering it costs more than it gains.
const WORTH_REGISTERING: u64 = 32;
/// Pages put in place by one call.
const PIECE: u64 = 512;

/// A piece of memory to put in place.
#[derive(Debug, Clone, Copy)]
struct Piece {
    run: PageRun,
    way: Way,
}

/// How a piece of memory is put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By userfaultfd(2): no fault, no zeroing, whatever the protection.
    Copy,
    /// By process_vm_writev(2): many pieces in one call, which takes the faults the process would take.
    Write,
    /// Through /proc/PID/mem, one by one, whatever the protection.
    Force,
}

impl Piece {
    /// Whether the bytes of `next` follow its own in one pages file, so that both can be written by one call.
    fn goes_with(&self, next: &Self) -> bool {
        let (here, there) = (&self.run, &next.run);
        (self.way, next.way) == (Way::Write, Way::Write)
            && !here.compressed
            && !there.compressed
            && here.level == there.level
            && here.file_offset + here.bytes() == there.file_offset
    }
}

/// Puts back all pages of the process's own memory; gives how many.
///
/// Anonymous memory is filled by userfaultfd. What lies on a file cannot be; it is written, which makes private copies as
/// the process once did.
pub(crate) fn fill(
    remote: &mut Remote<'_>,
    plan: &Plan,
    store: &PageStore,
    options: &RestoreOptions,
) -> Result<u64> {
    let mut pieces = Vec::new();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for vma in ordinary(&plan.task.mm) {
        if vma.status & (status::FILE_SHARED | status::ANON_SHARED) != 0 {
            // Its contents are those of the file or object.
            continue;
        }
        let file = vma.status & status::FILE_PRIVATE != 0;
        let runs: Vec<PageRun> = store.runs_in(vma.start, vma.end).collect();
        let pages: u64 = runs.iter().map(|run| run.pages).sum();
        let writable = vma.prot & libc::PROT_WRITE.unsigned_abs() != 0;
        let way = match pages {
            WORTH_REGISTERING.. if !file => Way::Copy,
            _ if writable => Way::Write,
            _ => Way::Force,
        };
        if way == Way::Copy {
            ranges.push((vma.start, vma.end));
        }
        let cut = runs.into_iter().flat_map(|run| run.pieces(PIECE));
        pieces.extend(cut.map(|run| Piece { run, way }));
    }
    let uffd = if ranges.is_empty() { None } else { open_uffd(remote, plan.pid)? };
    if let Some(uffd) = &uffd {
        for (start, end) in ranges {
            uffd.register(start, end - start).map_err(RestoreError::call(
                "ioctl(UFFDIO_REGISTER)",
                format!("memory {start:#x}-{end:#x}"),
            ))?;
        }
    }
    let mem = TaskMem::open(remote.pid()).map_err(RestoreError::tracee(plan.pid))?;
    let jobs = jobs(&pieces);
    let filler = Filler {
        pid: plan.pid,
        store,
        mem: &mem,
        uffd: uffd.as_ref(),
        jobs: &jobs,
        progress: options.progress.as_deref(),
        next: AtomicUsize::new(0),
    };
    let total: u64 = pieces.iter().map(|piece| piece.run.pages).sum();
    let threads = if total < 2 * PIECE { 1 } else { options.threads.max(1) };
    if let Some(progress) = &options.progress {
        progress.expect(total * PAGE_SIZE);
    }
    remote.unbound(|_| filler.run(threads))?;
    Ok(total)
}

/// The pieces, together with those that one call can write with them.
fn jobs(pieces: &[Piece]) -> Vec<&[Piece]> {
    let mut jobs = Vec::new();
    let mut rest = pieces;
    while let Some(first) = rest.first() {
        let mut pages = first.run.pages;
        let more = rest.windows(2).take_while(|pair| {
            let [piece, next] = pair else { return false };
            pages += next.run.pages;
            pages <= PIECE && piece.goes_with(next)
        });
        let (job, later) = rest.split_at(1 + more.count());
        jobs.push(job);
        rest = later;
    }
    jobs
}

/// The kernel may lack it or forbid it; then everything goes the simple way.
fn open_uffd(remote: &mut Remote<'_>, pid: u32) -> Result<Option<Uffd>> {
    let flags = u64::from((libc::O_CLOEXEC | libc::O_NONBLOCK).unsigned_abs());
    let Ok(fd) = remote.call(libc::SYS_userfaultfd, &[flags]) else { return Ok(None) };
    let number = i32::try_from(fd).expect("the kernel returns descriptors");
    let pidfd =
        sys::pidfd_open(remote.pid().as_raw()).map_err(RestoreError::call("pidfd_open", "the stub"))?;
    let ours =
        sys::pidfd_getfd(pidfd.as_fd(), number).map_err(RestoreError::call("pidfd_getfd", "userfaultfd"))?;
    remote.call(libc::SYS_close, &[fd]).map_err(RestoreError::tracee(pid))?;
    Uffd::new(ours).map(Some).map_err(RestoreError::call("ioctl(UFFDIO_API)", "the stub"))
}

/// What the copying threads share.
#[derive(Debug)]
struct Filler<'a> {
    pid: u32,
    store: &'a PageStore,
    mem: &'a TaskMem,
    uffd: Option<&'a Uffd>,
    jobs: &'a [&'a [Piece]],
    progress: Option<&'a dyn Progress>,
    next: AtomicUsize,
}

impl Filler<'_> {
    fn run(&self, threads: usize) -> Result<()> {
        if threads <= 1 {
            return self.work();
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(|| self.work())).collect();
            let mine = self.work();
            let theirs = workers.into_iter().map(|worker| worker.join().expect("a worker does not panic"));
            theirs.fold(mine, Result::and)
        })
    }

    fn work(&self) -> Result<()> {
        let mut scratch = Vec::new();
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.put(job, &mut scratch)?;
            if let Some(progress) = self.progress {
                progress.done(job.iter().map(|piece| piece.run.bytes()).sum());
            }
        }
        Ok(())
    }

    fn put(&self, job: &[Piece], scratch: &mut Vec<u8>) -> Result<()> {
        let Some(first) = job.first() else { return Ok(()) };
        // All of it, as it lies in the pages file.
        let run = PageRun { pages: job.iter().map(|piece| piece.run.pages).sum(), ..first.run };
        let bytes = self.store.bytes(&run, scratch)?;
        // Copying from a page that is not there yet costs userfaultfd a second attempt.
        self.store.prefetch(&run);
        let put = match self.uffd.filter(|_| first.way == Way::Copy) {
            Some(uffd) => {
                let object = || format!("memory at {:#x}", run.vaddr);
                uffd.copy(run.vaddr, bytes).map_err(RestoreError::call("ioctl(UFFDIO_COPY)", object()))
            }
            None => self.write(job, bytes),
        };
        self.store.release(&run);
        put
    }

    /// Writes pieces whose bytes are together.
    fn write(&self, job: &[Piece], bytes: &[u8]) -> Result<()> {
        let (mut job, mut bytes) = (job, bytes);
        while !job.is_empty() {
            let written = if job.iter().any(|piece| piece.way == Way::Write) {
                written_at_once(self.pid, job, bytes)
            } else {
                0
            };
            let mut done = 0;
            let whole = job.iter().take_while(|piece| {
                let behind = done + length(piece);
                let complete = behind <= written;
                done = if complete { behind } else { done };
                complete
            });
            job = job.get(whole.count()..).unwrap_or_default();
            bytes = bytes.get(done..).unwrap_or_default();
            // One that could not be written, or not all of it.
            if let Some((piece, later)) = job.split_first() {
                let (own, behind) = bytes.split_at(length(piece).min(bytes.len()));
                self.mem.write(piece.run.vaddr, own).map_err(RestoreError::tracee(self.pid))?;
                (job, bytes) = (later, behind);
            }
        }
        Ok(())
    }
}

/// How many bytes, beginning with the first piece, one call could write. None, where the kernel lets nobody do that.
fn written_at_once(pid: u32, job: &[Piece], bytes: &[u8]) -> usize {
    let address = |vaddr| usize::try_from(vaddr).expect("addresses fit");
    let pieces: Vec<_> =
        job.iter().map(|piece| RemoteIoVec { base: address(piece.run.vaddr), len: length(piece) }).collect();
    process_vm_writev(Pid::from_raw(pid.cast_signed()), &[IoSlice::new(bytes)], &pieces).unwrap_or(0)
}

fn length(piece: &Piece) -> usize {
    usize::try_from(piece.run.bytes()).expect("a piece is small")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(page: u64, pages: u64, place: u64, way: Way) -> Piece {
        let [vaddr, file_offset] = [page, place].map(|n| n * PAGE_SIZE);
        let run = PageRun { vaddr, pages, level: 0, file_offset, flags: 0, compressed: false };
        Piece { run, way }
    }

    #[test]
    fn what_follows_in_the_file_is_written_together() {
        use Way::{Copy, Force, Write};
        let pieces = [
            piece(1, 1, 0, Write),
            piece(9, 2, 1, Write),
            piece(12, 1, 3, Force),
            piece(14, 1, 4, Write),
            piece(20, PIECE, 5, Copy),
            piece(900, 2, 7 + PIECE, Write),
            piece(910, PIECE - 2, 9 + PIECE, Write),
            piece(2000, 1, 7 + 2 * PIECE, Write),
        ];
        let lengths: Vec<_> = jobs(&pieces).iter().map(|job| job.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1, 2, 1]);
        let apart = [piece(1, 1, 0, Write), piece(2, 1, 7, Write)];
        assert_eq!(jobs(&apart).len(), 2);
    }
}
