//! Memory of a task, and what the kernel put into it: arguments and environment.

use super::explorer::{Explorer, Task};
#[cfg(feature = "archive")]
use crate::PAGE_SIZE;
use crate::error::{ImageError, Result};
use crate::pagemap::PageStore;
use crate::proto;

/// More than this of arguments or environment is not read: images can claim any size.
const LONGEST: u64 = 128 << 10;

/// The parts of an argument or environment area.
fn strings(store: &PageStore, start: u64, end: u64) -> Result<Option<Vec<String>>> {
    let len = end.saturating_sub(start).min(LONGEST);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    match store.read_at(start, &mut bytes) {
        Err(ImageError::NoPage { .. }) => return Ok(None),
        read => read?,
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Ok(Some(Vec::new()));
    }
    Ok(Some(bytes.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()))
}

impl Explorer<'_> {
    /// Arguments of a task's program, as they are in its memory; `None` for a zombie, and if those pages are not there.
    ///
    /// # Errors
    /// Any error of reading `mm` and memory.
    pub fn arguments(&self, task: &Task) -> Result<Option<Vec<String>>> {
        self.area(task, |mm| (mm.mm_arg_start, mm.mm_arg_end))
    }

    /// Environment of a task's program when it was started, as it is in its memory; `None` as for [`Self::arguments`].
    ///
    /// # Errors
    /// Any error of reading `mm` and memory.
    pub fn environment(&self, task: &Task) -> Result<Option<Vec<String>>> {
        self.area(task, |mm| (mm.mm_env_start, mm.mm_env_end))
    }

    /// Where the pages of arguments and environment lie: pages files, and ranges in them.
    #[cfg(feature = "archive")]
    pub(crate) fn argument_pages(
        &self,
        task: &Task,
    ) -> Result<Vec<(std::path::PathBuf, std::ops::Range<u64>)>> {
        let Some(mm) = self.mm(task)? else { return Ok(Vec::new()) };
        let store = match self.checkpoint.memory(task.entry.pid.into()) {
            Err(ImageError::NoPage { .. }) => return Ok(Vec::new()),
            store => store?,
        };
        let areas = [(mm.mm_arg_start, mm.mm_arg_end), (mm.mm_env_start, mm.mm_env_end)];
        let mut all = Vec::new();
        for (start, end) in areas {
            let end = end.min(start.saturating_add(LONGEST));
            let pages = start & !(PAGE_SIZE - 1)..end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(end);
            for run in store.runs_in(pages.start, pages.end).filter(|run| run.level == 0) {
                if let Some((path, _)) = store.pages_file(run.level) {
                    all.extend(store.stored(&run).into_iter().map(|range| (path.to_owned(), range)));
                }
            }
        }
        Ok(all)
    }

    fn area(
        &self,
        task: &Task,
        range: impl FnOnce(&proto::MmEntry) -> (u64, u64),
    ) -> Result<Option<Vec<String>>> {
        let Some(mm) = self.mm(task)? else { return Ok(None) };
        let (start, end) = range(&mm);
        if end <= start {
            return Ok(Some(Vec::new()));
        }
        // An archive may lack the ancestors.
        match self.checkpoint.memory(task.entry.pid.into()) {
            Err(ImageError::NoPage { .. }) => Ok(None),
            store => strings(&store?, start, end),
        }
    }

    /// The task of a pid.
    ///
    /// # Errors
    /// [`ImageError::NoTask`].
    pub fn task(&self, pid: u32) -> Result<&Task> {
        let task = self.tasks.iter().find(|task| task.entry.pid == pid);
        task.ok_or_else(|| ImageError::NoTask { path: self.checkpoint.dir().to_owned(), pid })
    }
}
