//! Locks and leases on files. fcntl_locking(2), flock(2), F_SETLEASE(2const).

use std::collections::HashSet;

use nix::unistd::Pid;
use rewake_images::proto::FileLockEntry;

use super::{OpenFile, Refusal, refused};
use crate::error::Result;

/// `file_lock_entry.flag`, by the names of proc_locks(5).
const KINDS: [(&str, u32); 4] = [("POSIX", 1), ("FLOCK", 2), ("OFDLCK", 4), ("LEASE", 8)];
/// `file_lock_entry.type`
const TYPES: [(&str, u32); 2] = [("READ", 0), ("WRITE", 1)];

/// The locks of a process, each once.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    asked_for: bool,
    pub(crate) entries: Vec<FileLockEntry>,
    /// Open file and lock.
    seen: HashSet<(u32, String)>,
}

/// A lock, and what it is without the descriptor that shows it.
type Held = (FileLockEntry, String);

impl Locks {
    pub(super) fn new(asked_for: bool) -> Self {
        Self { asked_for, ..Self::default() }
    }

    /// The locks that an open file shows.
    pub(super) fn of(&self, file: &OpenFile) -> Result<Vec<Held>> {
        let refuse = |refusal| {
            refused(file.pid, &format!("descriptor {} ({})", file.fd, file.link.display()), refusal)
        };
        let held = file.locks().map(|line| {
            if !self.asked_for {
                // Taken since preflight looked.
                return Err(refuse(not_asked_for(line)));
            }
            // The number in front says nothing.
            let what = line.split_once(' ').map_or(line, |(_, what)| what);
            Ok((parse(line, file.pid, file.fd).map_err(refuse)?, what.to_owned()))
        });
        held.collect()
    }

    /// Takes note of them, of the file that is `id` in the images. Of duplicates of a descriptor, each shows the locks of all.
    pub(super) fn add(&mut self, id: u32, held: Vec<Held>) {
        for (entry, what) in held {
            if self.seen.insert((id, what)) {
                self.entries.push(entry);
            }
        }
    }
}

/// Why a lock is not dumped unless that was asked for.
pub(crate) fn not_asked_for(line: &str) -> Refusal {
    Refusal::new(
        format!("it holds a file lock ({line})"),
        "--file-locks takes locks along: if nobody else changes the file before the restore",
    )
}

/// `1: POSIX  ADVISORY  WRITE 1234 fe:00:131 100 149`, as fdinfo shows it.
fn parse(line: &str, pid: Pid, fd: i32) -> Result<FileLockEntry, Refusal> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let odd = || Refusal::new(format!("a lock of unknown kind ({line})"), "have the program release it");
    let [_, kind, how, access, _, _, start, end] = *words else { return Err(odd()) };
    let number = |table: &[(&str, u32)], word| table.iter().find(|(name, _)| *name == word).map(|(_, n)| *n);
    let flag = number(&KINDS, kind).ok_or_else(odd)?;
    let r#type = number(&TYPES, access).ok_or_else(odd)?;
    match how {
        "ADVISORY" | "ACTIVE" => {}
        "BREAKING" | "BREAKER" => {
            let reason = format!("a lease that is being broken cannot be dumped ({line})");
            return Err(Refusal::new(reason, "have the program give it up, as it was asked to"));
        }
        _ => return Err(odd()),
    }
    let start: i64 = start.parse().map_err(|_| odd())?;
    // Of a range, the last byte is told.
    let len = match end {
        "EOF" => 0,
        last => last
            .parse::<i64>()
            .ok()
            .and_then(|last| last.checked_sub(start)?.checked_add(1))
            .ok_or_else(odd)?,
    };
    Ok(FileLockEntry { flag, r#type, pid: pid.as_raw(), fd, start, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_fdinfo() {
        let entry = |line| parse(line, Pid::from_raw(7), 3).map(|e| (e.flag, e.r#type, e.start, e.len));
        assert_eq!(entry("1: POSIX  ADVISORY  WRITE 7 fe:00:131 100 149"), Ok((1, 1, 100, 50)));
        assert_eq!(entry("2: POSIX  ADVISORY  READ 7 fe:00:131 500 EOF"), Ok((1, 0, 500, 0)));
        assert_eq!(entry("1: FLOCK  ADVISORY  WRITE 7 fe:00:1 0 EOF"), Ok((2, 1, 0, 0)));
        assert_eq!(entry("1: OFDLCK ADVISORY  READ -1 fe:00:1 10 29"), Ok((4, 0, 10, 20)));
        assert_eq!(entry("1: LEASE  ACTIVE    READ 7 fe:00:1 0 EOF"), Ok((8, 0, 0, 0)));
        assert!(entry("1: LEASE  BREAKING  READ 7 fe:00:1 0 EOF").unwrap_err().reason.contains("broken"));
        for odd in ["", "1: DELEG ACTIVE READ 7 fe:00:1 0 EOF", "1: POSIX  ADVISORY  WRITE 7 fe:00:1 9 3x"] {
            assert!(entry(odd).is_err(), "{odd}");
        }
    }
}
