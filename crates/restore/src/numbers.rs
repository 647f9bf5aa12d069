//! Which numbers files have while they are handed over to the new process.
//!
//! It inherits every file under the number that it has here, and gives it the numbers that it had. What is needed until
//! later, by mappings, gets a number here that is above all of those; the rest keeps the number that opening it gave, and
//! the moves are put in an order in which none takes a number that is still to be moved.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rewake_images::proto::FownEntry;

use crate::error::{RestoreError, Result};
use crate::objects::{self, MappedAs, OpenFiles};
use crate::plan::Plan;

/// The numbers files have in the new process until all is in place.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Above every descriptor of the process.
    pub(crate) floor: RawFd,
    /// Those of mappings and of the program are from `floor` on, others only where they are moved from.
    pub(crate) files: BTreeMap<u32, RawFd>,
    pub(crate) mapped: HashMap<MappedAs, RawFd>,
    pub(crate) old_shared: HashMap<u64, RawFd>,
    /// Held open for the stub to inherit.
    open: Vec<OwnedFd>,
}

impl Numbers {
    pub(crate) fn raise(plan: &Plan, files: OpenFiles) -> Result<Self> {
        let (named, mapped, shared) = files.into_parts();
        let mut numbers = Self {
            floor: floor(plan)?,
            files: BTreeMap::new(),
            mapped: HashMap::new(),
            old_shared: HashMap::new(),
            open: Vec::with_capacity(named.len() + mapped.len() + shared.len()),
        };
        let mut later: BTreeSet<u32> = plan.areas.iter().filter_map(|area| area.file).collect();
        later.insert(plan.task.mm.exe_file_id);
        let mut number = |(id, fd): (u32, OwnedFd)| {
            Ok((id, if later.contains(&id) { numbers.keep_above(fd)? } else { numbers.keep(fd) }))
        };
        let files = named.into_iter().map(&mut number).collect::<Result<_>>()?;
        numbers.files = files;
        for (mapped, fd) in mapped {
            let number = numbers.keep_above(fd)?;
            numbers.mapped.insert(mapped, number);
        }
        for (shmid, fd) in shared {
            let number = numbers.keep_above(fd)?;
            numbers.old_shared.insert(shmid, number);
        }
        Ok(numbers)
    }

    fn keep_above(&mut self, fd: OwnedFd) -> Result<RawFd> {
        let high = objects::raised(fd, self.floor)?;
        Ok(self.keep(high))
    }

    fn keep(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.open.push(fd);
        number
    }

    pub(crate) fn of(&self, file: u32) -> Result<RawFd> {
        let number = self.files.get(&file).copied();
        number.ok_or_else(|| RestoreError::inconsistent(format!("file {file}"), "it was not opened"))
    }

    /// What the new process does to give every descriptor its number. Besides files it needs number `other` meanwhile.
    pub(crate) fn moves(&self, plan: &Plan, other: RawFd) -> Result<Vec<Move>> {
        let mut wanted = Vec::with_capacity(plan.descriptors.len());
        for fd in &plan.descriptors {
            wanted.push(Move {
                from: self.of(fd.file)?,
                to: fd.fd.cast_signed(),
                close_on_exec: fd.close_on_exec,
            });
        }
        let highest = self.open.iter().map(AsRawFd::as_raw_fd).fold(other.max(self.floor), RawFd::max);
        Ok(in_order(wanted, highest + 1))
    }

    /// What only the new process needs, once it has it: to be closed. Files with an owner are still needed here.
    pub(crate) fn handed_over(&mut self, owners: &[(u32, &FownEntry)]) -> Vec<OwnedFd> {
        let mut owned: Vec<RawFd> = owners.iter().filter_map(|(id, _)| self.files.get(id).copied()).collect();
        owned.sort_unstable();
        let kept = |fd: &OwnedFd| owned.binary_search(&fd.as_raw_fd()).is_ok();
        let (kept, handed_over) = std::mem::take(&mut self.open).into_iter().partition(kept);
        self.open = kept;
        handed_over
    }
}

/// The first number above every descriptor of the process. Standard descriptors are kept free of what is closed in the end.
fn floor(plan: &Plan) -> Result<RawFd> {
    let highest = plan.descriptors.iter().map(|fd| fd.fd).max().unwrap_or(0);
    let above = highest.max(2).checked_add(1).and_then(|above| RawFd::try_from(above).ok());
    above.ok_or_else(|| RestoreError::inconsistent("descriptors", "a number is out of range"))
}

/// A descriptor gets another number, and keeps its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) from: RawFd,
    /// The same as `from`, if only close-on-exec is to be set.
    pub(crate) to: RawFd,
    pub(crate) close_on_exec: bool,
}

/// The moves in an order in which no number is taken that another has still to be moved from. Where they go round in a
/// circle, one takes the way over a number from `spare` on.
fn in_order(mut moves: Vec<Move>, spare: RawFd) -> Vec<Move> {
    moves.sort_unstable_by_key(|step| step.to);
    moves.dedup_by_key(|step| step.to);
    let to = |moves: &[Move], number| moves.binary_search_by_key(&number, |step| step.to).ok();
    // How many are still to be moved from the number that each takes. One that stays where it is comes behind the others
    // from there, but nothing waits for it.
    let mut waiting = vec![0_u32; moves.len()];
    for step in &moves {
        if let Some(taken) = to(&moves, step.from)
            && step.from != step.to
            && let Some(count) = waiting.get_mut(taken)
        {
            *count += 1;
        }
    }
    let mut ready: Vec<usize> = Vec::new();
    ready.extend(waiting.iter().enumerate().filter(|(_, count)| **count == 0).map(|(index, _)| index));
    let mut ordered = Vec::with_capacity(moves.len());
    let mut done = vec![false; moves.len()];
    let mut spare = spare;
    let mut first = 0;
    loop {
        while let Some(index) = ready.pop() {
            let (Some(step), Some(done)) = (moves.get(index).copied(), done.get_mut(index)) else { continue };
            *done = true;
            ordered.push(step);
            if step.from != step.to
                && let Some(next) = to(&moves, step.from)
                && let Some(count) = waiting.get_mut(next)
            {
                *count -= 1;
                if *count == 0 {
                    ready.push(next);
                }
            }
        }
        while done.get(first) == Some(&true) {
            first += 1;
        }
        // Only circles are left: free the number that the first of them takes.
        let Some(taken) = moves.get(first).map(|step| step.to) else { return ordered };
        ordered.push(Move { from: taken, to: spare, close_on_exec: true });
        for step in moves.iter_mut().filter(|step| step.from == taken && step.to != taken) {
            step.from = spare;
        }
        spare += 1;
        ready.push(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(from: RawFd, to: RawFd) -> Move {
        Move { from, to, close_on_exec: false }
    }

    /// What each number leads to afterwards, when `n` led to file `n` before.
    fn run(moves: &[Move], numbers: RawFd) -> Vec<RawFd> {
        let mut table: Vec<RawFd> = (0..numbers).collect();
        for step in moves {
            table[index(step.to)] = table[index(step.from)];
        }
        table
    }

    fn index(number: RawFd) -> usize {
        usize::try_from(number).unwrap()
    }

    fn check(wanted: &[Move]) -> Vec<Move> {
        let ordered = in_order(wanted.to_vec(), 100);
        let table = run(&ordered, 200);
        for step in wanted {
            assert_eq!(table[index(step.to)], step.from, "{wanted:?} became {ordered:?}");
        }
        ordered
    }

    #[test]
    fn no_number_is_taken_before_it_was_moved() {
        assert_eq!(check(&[step(4, 3), step(5, 4)]), [step(4, 3), step(5, 4)]);
        assert_eq!(check(&[step(3, 4), step(4, 5)]), [step(4, 5), step(3, 4)]);
        // Also by one that stays.
        check(&[step(3, 3), step(3, 4), step(4, 5), step(3, 6)]);
        check(&[step(7, 1), step(7, 2), step(2, 7)]);
    }

    #[test]
    fn circles_take_a_way_round() {
        assert_eq!(check(&[step(3, 4), step(4, 3)]).len(), 3);
        assert_eq!(check(&[step(3, 4), step(4, 5), step(5, 3), step(7, 8), step(8, 7)]).len(), 7);
        // Two numbers for what is in a circle.
        check(&[step(3, 4), step(4, 3), step(3, 5), step(4, 6)]);
    }

    #[test]
    fn any_moves() {
        let mut state = 1_u32;
        let mut random = |below: i32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16).cast_signed() % below
        };
        for round in 0..2000 {
            let width = 2 + round % 30;
            let from: Vec<_> = (0..width).map(|_| random(width)).collect();
            let wanted: Vec<_> =
                from.iter().zip(0..).filter(|_| random(4) > 0).map(|(from, to)| step(*from, to)).collect();
            check(&wanted);
        }
    }

    #[test]
    fn one_number_is_given_once() {
        assert_eq!(in_order(vec![step(3, 4), step(3, 4)], 100), [step(3, 4)]);
    }
}
