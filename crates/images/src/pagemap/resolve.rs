//! Following pages through a chain of checkpoints.

use super::entry::pe;
use super::read::Pagemap;
use super::run::PageRun;
use crate::error::{ImageError, Result};

/// Follows every entry to the checkpoint that holds its pages. `maps[0]` is the youngest.
pub(super) fn resolve(maps: &[Pagemap]) -> Result<(Vec<PageRun>, Vec<PageRun>)> {
    let (mut runs, mut lazy) = (Vec::new(), Vec::new());
    let Some(first) = maps.first() else { return Ok((runs, lazy)) };
    // A stack instead of recursion: chains are as long as their maker likes. Each item is a range and the level to ask.
    let mut todo: Vec<(u64, u64, usize)> = Vec::new();
    for run in &first.runs {
        todo.push((run.vaddr, run.end(), 0));
        while let Some((start, end, level)) = todo.pop() {
            let no_page = || ImageError::NoPage { path: first.path.clone(), vaddr: start };
            let map = maps.get(level).ok_or_else(no_page)?;
            let index = map.runs.partition_point(|r| r.end() <= start);
            let found = map.runs.get(index).and_then(|r| r.clip(start, end)).filter(|r| r.vaddr == start);
            let found = found.ok_or_else(no_page)?;
            if found.end() < end {
                todo.push((found.end(), end, level));
            }
            if found.flags & pe::PRESENT != 0 {
                push_joined(&mut runs, PageRun { level, ..found });
            } else if found.flags & pe::PARENT != 0 {
                todo.push((start, found.end(), level + 1));
            } else if found.flags & pe::LAZY != 0 {
                lazy.push(PageRun { level, ..found });
            } else {
                let what = format!("pages at {start:#x} are neither here, nor in the parent, nor lazy");
                return Err(ImageError::Invalid { path: map.path.clone(), what });
            }
        }
    }
    Ok((runs, lazy))
}

fn push_joined(runs: &mut Vec<PageRun>, run: PageRun) {
    match runs.last_mut() {
        Some(last) if last.continues(&run) => last.pages += run.pages,
        _ => runs.push(run),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_SIZE;

    fn map(name: &str, entries: &[(u64, u64, u32)]) -> Pagemap {
        let mut file_offset = 0;
        let mut runs = Vec::new();
        for &(page, pages, flags) in entries {
            runs.push(PageRun {
                vaddr: page * PAGE_SIZE,
                pages,
                level: 0,
                file_offset,
                flags,
                compressed: false,
            });
            if flags & pe::PRESENT != 0 {
                file_offset += pages * PAGE_SIZE;
            }
        }
        Pagemap { path: name.into(), pages_id: 1, runs, blocks: Vec::new(), size: file_offset }
    }

    #[test]
    fn one_entry_may_lie_in_several_ancestors() {
        let young = map("young", &[(10, 6, pe::PARENT), (16, 1, pe::PRESENT)]);
        let mid = map("mid", &[(10, 2, pe::PARENT), (12, 4, pe::PRESENT)]);
        let old = map("old", &[(9, 4, pe::PRESENT)]);
        let (runs, lazy) = resolve(&[young, mid, old]).unwrap();
        let seen: Vec<_> =
            runs.iter().map(|r| (r.vaddr / PAGE_SIZE, r.pages, r.level, r.file_offset / PAGE_SIZE)).collect();
        assert_eq!(seen, [(10, 2, 2, 1), (12, 4, 1, 0), (16, 1, 0, 0)]);
        assert!(lazy.is_empty());
    }

    #[test]
    fn a_page_nobody_has_is_an_error() {
        let young = map("young", &[(10, 2, pe::PARENT)]);
        let old = map("old", &[(10, 1, pe::PRESENT)]);
        let error = resolve(&[young, old]).unwrap_err();
        assert!(matches!(error, ImageError::NoPage { vaddr, .. } if vaddr == 11 * PAGE_SIZE), "{error}");
    }

    proptest::proptest! {
        /// However the pages are spread over generations, each is found in the youngest that has it.
        #[test]
        fn every_page_comes_from_the_youngest_holder(levels in proptest::collection::vec(proptest::collection::vec(0_u8..3, 40), 1..5)) {
            // 0: hole in the youngest only, 1: in the parent, 2: here. The oldest has everything.
            let mut maps: Vec<Pagemap> = Vec::new();
            for (depth, level) in levels.iter().enumerate() {
                let entries: Vec<_> = level.iter().enumerate().filter_map(|(page, state)| match (depth, state) {
                    (0, 0) => None,
                    (_, 2) => Some((page as u64, 1, pe::PRESENT)),
                    _ => Some((page as u64, 1, pe::PARENT)),
                }).collect();
                maps.push(map("m", &entries));
            }
            maps.push(map("oldest", &[(0, 40, pe::PRESENT)]));
            let (runs, _) = resolve(&maps).unwrap();
            for page in 0..40_u64 {
                let found = runs.iter().find_map(|r| r.clip(page * PAGE_SIZE, (page + 1) * PAGE_SIZE));
                let at = |level: usize| levels.get(level).map(|l| l[usize::try_from(page).unwrap()]);
                if at(0) == Some(0) {
                    proptest::prop_assert!(found.is_none());
                    continue;
                }
                let level = (0..levels.len()).find(|&l| at(l) == Some(2)).unwrap_or(levels.len());
                let run = found.unwrap();
                proptest::prop_assert_eq!(run.level, level);
                let before = maps[level].runs.iter().filter(|r| r.vaddr < page * PAGE_SIZE && r.flags == pe::PRESENT).count() as u64;
                let offset = if level == levels.len() { page } else { before };
                proptest::prop_assert_eq!(run.file_offset, offset * PAGE_SIZE);
            }
        }
    }
}
