//! A pages file, and how the kernel is made to take it fast.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::error::CaptureError;
use crate::plan::Chunk;
use crate::sink::{PageSink, Turn};
use crate::sys::{HUGE_BYTES, make_huge};

/// Writes pages to a new file, where the plan says.
///
/// On tmpfs finding a place for each small page is what takes the time, and only one thread at a time does it; so where the
/// kernel has huge pages at hand, the file gets those, and the pages are copied there.
#[derive(Debug)]
pub struct PagesFile<'a> {
    file: &'a File,
    huge: Option<Huge>,
}

impl<'a> PagesFile<'a> {
    /// Writes to `file`, which is empty.
    pub fn new(file: &'a File) -> Self {
        Self { file, huge: Huge::of(file) }
    }

    /// The size of [`crate::CaptureOptions::buffer_bytes`] that suits it best, if `usual` is that for anything else.
    #[must_use]
    pub fn buffer_bytes(&self, usual: usize) -> usize {
        if self.huge.is_some() { HUGE_BYTES } else { usual }
    }

    #[cfg(test)]
    fn without_huge_pages(file: &'a File) -> Self {
        Self { file, huge: None }
    }
}

impl PageSink for PagesFile<'_> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        if let Some(huge) = &self.huge {
            huge.prepare(self.file, chunk.file_offset, bytes.len());
        }
        self.file.put(chunk, bytes, lost, turn)
    }
}

/// Makes huge pages in a file on tmpfs, as long as that is quick.
#[derive(Debug)]
struct Huge {
    /// The file once more: a file that can only be written cannot be mapped.
    readable: File,
    pace: Mutex<Pace>,
}

impl Huge {
    /// `None` if the file system has none, or if `file` cannot be opened once more.
    fn of(file: &File) -> Option<Self> {
        let on_tmpfs = fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
        if !on_tmpfs {
            return None;
        }
        match File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
            Ok(readable) => Some(Self { readable, pace: Mutex::default() }),
            Err(error) => {
                tracing::debug!(%error, "pages are written without huge pages");
                None
            }
        }
    }

    /// Nothing in here panics half-way, so a poisoned lock protects good data.
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a huge page where `len` bytes are to be written, if they fill one. Whether that works is of no interest: what
    /// writes them finds a place, too, or says why there is none.
    fn prepare(&self, file: &File, offset: u64, len: usize) {
        let aligned = u64::try_from(HUGE_BYTES).is_ok_and(|huge| offset.is_multiple_of(huge));
        if len != HUGE_BYTES || !aligned || !self.pace().wanted() {
            return;
        }
        // Where there is no page at all the kernel makes none.
        if file.write_all_at(&[0], offset).is_err() {
            return;
        }
        let begun = Instant::now();
        let made = make_huge(&self.readable, offset);
        self.pace().took(made, begun.elapsed());
    }
}

/// About what writing small pages takes instead: beyond it, making a huge one does not pay. It takes a quarter of that where
/// memory is at hand, but many times as long where the kernel must move other pages out of the way, or where the host of a
/// virtual machine has taken the memory back.
const TOO_SLOW: Duration = Duration::from_micros(800);
/// After a slow one so many are not tried, and each time twice as many.
const FIRST_PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 1024;

/// Decides whether the next huge page is tried.
#[derive(Debug)]
struct Pace {
    refused: bool,
    left_out: u32,
    next_pause: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { refused: false, left_out: 0, next_pause: FIRST_PAUSE }
    }
}

impl Pace {
    fn wanted(&mut self) -> bool {
        let now = !self.refused && self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        now
    }

    fn took(&mut self, made: Result<(), Errno>, time: Duration) {
        match made {
            // Not in this kernel, or switched off.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => self.refused = true,
            Ok(()) if time < TOO_SLOW => self.next_pause = FIRST_PAUSE,
            _ => {
                self.left_out = self.next_pause;
                self.next_pause = LONGEST_PAUSE.min(2 * self.next_pause);
            }
        }
    }
}

#[cfg(test)]
#[path = "pages_file_tests.rs"]
mod tests;
