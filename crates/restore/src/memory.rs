//! Contents of memory.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// By userfaultfd; through /proc/PID/mem otherwise.
    register: bool,
}

/// Puts back all pages of the process's own memory; gives how many.
///
/// Anonymous memory is filled by userfaultfd: no fault, no zeroing, whatever the protection. What lies on a file cannot be;
/// it is written through /proc/PID/mem, which makes private copies as the process once did.
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
        let register = !file && pages >= WORTH_REGISTERING;
        if register {
            ranges.push((vma.start, vma.end));
        }
        let cut = runs.into_iter().flat_map(|run| run.pieces(PIECE));
        pieces.extend(cut.map(|run| Piece { run, register }));
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
    let filler = Filler {
        pid: plan.pid,
        store,
        mem: &mem,
        uffd: uffd.as_ref(),
        pieces: &pieces,
        progress: options.progress.as_deref(),
        next: AtomicUsize::new(0),
    };
    let total: u64 = pieces.iter().map(|piece| piece.run.pages).sum();
    let threads = if total < 2 * PIECE { 1 } else { options.threads.max(1) };
    if let Some(progress) = &options.progress {
        progress.expect(total * PAGE_SIZE);
    }
    filler.run(threads)?;
    Ok(total)
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
    pieces: &'a [Piece],
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
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.put(piece, &mut scratch)?;
            if let Some(progress) = self.progress {
                progress.done(piece.run.bytes());
            }
        }
        Ok(())
    }

    fn put(&self, piece: &Piece, scratch: &mut Vec<u8>) -> Result<()> {
        let bytes = self.store.bytes(&piece.run, scratch)?;
        // Copying from a page that is not there yet costs userfaultfd a second attempt.
        self.store.prefetch(&piece.run);
        let put = self.copy(piece, bytes);
        self.store.release(&piece.run);
        put
    }

    fn copy(&self, piece: &Piece, bytes: &[u8]) -> Result<()> {
        match self.uffd.filter(|_| piece.register) {
            Some(uffd) => {
                let object = || format!("memory at {:#x}", piece.run.vaddr);
                uffd.copy(piece.run.vaddr, bytes).map_err(RestoreError::call("ioctl(UFFDIO_COPY)", object()))
            }
            None => self.mem.write(piece.run.vaddr, bytes).map_err(RestoreError::tracee(self.pid)),
        }
    }
}
