//! Which memory goes into a core file, and where it comes from.

use std::collections::HashMap;

use crate::error::Result;
use crate::explore::{Explorer, Space, status};
use crate::pagemap::PageStore;
use crate::proto;

/// Longer stretches without a page are left out of the file: a debugger cannot read them, but reservations of terabytes do not
/// make files of terabytes. Shorter ones are holes, which read as the zeros they are.
const LONGEST_HOLE: u64 = 64 << 20;

/// A part of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) end: u64,
    /// `PROT_*`.
    pub(super) prot: u32,
    /// Whose pages, and what to add to an address to find it there; `None` if the file does not hold this part.
    pub(super) source: Option<(Space, u64)>,
}

/// Page stores, opened once.
#[derive(Debug, Default)]
pub(super) struct Stores(HashMap<Space, PageStore>);

impl Stores {
    pub(super) fn get(&mut self, explorer: &Explorer<'_>, space: Space) -> Result<&PageStore> {
        Ok(match self.0.entry(space) {
            std::collections::hash_map::Entry::Occupied(store) => store.into_mut(),
            std::collections::hash_map::Entry::Vacant(slot) => slot.insert(explorer.store(space)?),
        })
    }
}

/// The segments of a task's memory, by address.
pub(super) fn segments(
    explorer: &Explorer<'_>,
    pid: u32,
    mm: &proto::MmEntry,
    stores: &mut Stores,
) -> Result<Vec<Segment>> {
    let shared: Vec<Space> = explorer.spaces()?;
    let mut all = Vec::new();
    for vma in &mm.vmas {
        let has = |bits| vma.status & bits != 0;
        if has(status::VSYSCALL | status::VVAR) || vma.end <= vma.start {
            continue;
        }
        let absent = Segment { start: vma.start, end: vma.end, prot: vma.prot, source: None };
        let object = explorer.files().shared_object(vma);
        let is_file = has(status::FILE_PRIVATE | status::FILE_SHARED) && object.is_none();
        let (space, shift) = match object {
            Some(shmid) => (Space::Shmid(shmid), vma.pgoff.wrapping_sub(vma.start)),
            None => (Space::Pid(pid), 0),
        };
        // What an image lacks altogether was empty; rings of sockets are the kernel's.
        let empty = matches!(space, Space::Shmid(_)) && !shared.contains(&space);
        if empty || has(status::SOCKET) || (vma.prot == 0 && !is_file) {
            all.push(absent);
            continue;
        }
        let from = vma.start.wrapping_add(shift);
        let to = from.saturating_add(vma.end - vma.start);
        let store = stores.get(explorer, space)?;
        let runs = store.runs_in(from, to).map(|run| {
            let start = run.vaddr.wrapping_sub(shift);
            (start, start + run.bytes())
        });
        // A file's other pages are in the file, where debuggers look for them.
        let hole = if is_file { 0 } else { LONGEST_HOLE };
        cut(absent, runs, hole, (space, shift), &mut all);
    }
    Ok(all)
}

/// Cuts `whole` into parts that hold pages, with holes up to `hole` inside, and parts that hold none.
fn cut(
    whole: Segment,
    runs: impl Iterator<Item = (u64, u64)>,
    hole: u64,
    source: (Space, u64),
    out: &mut Vec<Segment>,
) {
    let mut at = whole.start;
    let mut parts: Vec<Segment> = Vec::new();
    let mut put = |start: u64, end: u64, present: bool| {
        if start >= end {
            return;
        }
        let source = (present || end - start <= hole).then_some(source);
        match parts.last_mut() {
            Some(last) if last.source == source => last.end = end,
            _ => parts.push(Segment { start, end, source, ..whole }),
        }
    };
    for (start, end) in runs {
        put(at, start, false);
        put(start, end, true);
        at = end;
    }
    put(at, whole.end, false);
    out.append(&mut parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_kept_up_to_a_size() {
        let source = (Space::Pid(1), 0);
        let whole = Segment { start: 10, end: 100, prot: 3, source: None };
        let parts = |hole| {
            let mut out = Vec::new();
            cut(whole, [(20, 25), (25, 30), (34, 50)].into_iter(), hole, source, &mut out);
            out.iter().map(|s| (s.start, s.end, s.source.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(
            parts(0),
            [(10, 20, false), (20, 30, true), (30, 34, false), (34, 50, true), (50, 100, false)]
        );
        assert_eq!(parts(10), [(10, 50, true), (50, 100, false)]);
        assert_eq!(parts(1000), [(10, 100, true)]);
    }
}
