//! Shared memory objects: what they hold, whoever maps it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::query::{PAGE_SIZE, PageCategories, PageRun, push_run};

/// The pages within `range` (bytes of the object) that hold something, as the file system knows: also those that no
/// task has mapped at the moment or that are swapped out. `start` of the runs is the position in the object.
///
/// For memfd, shared anonymous and System V memory, opened through [`Area::map_files`](crate::Area::map_files) or by
/// its descriptor. Moves the file position of `object`.
///
/// # Errors
/// What lseek(2) says; EINVAL where the file system cannot tell (hugetlbfs).
pub fn object_runs(object: &File, range: Range<u64>) -> io::Result<Vec<PageRun>> {
    let mut runs = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Some(data) = seek(object, at, Whence::SeekData)? else { break };
        let Some(hole) = seek(object, data, Whence::SeekHole)? else { break };
        let start = data.max(range.start) / PAGE_SIZE * PAGE_SIZE;
        let end = hole.min(range.end).next_multiple_of(PAGE_SIZE);
        if start < end {
            let pages = (end - start) / PAGE_SIZE;
            push_run(&mut runs, PageRun { start, pages, categories: PageCategories::empty() });
        }
        at = hole.max(at + 1);
    }
    Ok(runs)
}

/// `None` if there is nothing behind `at`.
fn seek(object: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    let Ok(at) = libc::off_t::try_from(at) else { return Ok(None) };
    match lseek(object.as_fd(), at, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn data_is_found_between_holes() {
        let object =
            File::from(nix::sys::memfd::memfd_create("object", nix::sys::memfd::MFdFlags::empty()).unwrap());
        object.set_len(100 * PAGE_SIZE).unwrap();
        for page in [3, 4, 99] {
            object.write_all_at(b"x", page * PAGE_SIZE).unwrap();
        }
        let found = |range: Range<u64>| {
            let runs = object_runs(&object, range.start * PAGE_SIZE..range.end * PAGE_SIZE).unwrap();
            runs.iter().map(|run| (run.start / PAGE_SIZE, run.pages)).collect::<Vec<_>>()
        };
        assert_eq!(found(0..100), [(3, 2), (99, 1)]);
        assert_eq!(found(4..99), [(4, 1)]);
        assert_eq!(found(5..99), []);
        assert_eq!(found(200..300), []);
    }
}
