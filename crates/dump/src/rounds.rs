//! Several rounds of copying memory while the process runs, and the dump of the rest, in one go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{DumpError, Result};
use crate::options::{DumpOptions, DumpReport};
use crate::pre_dump::pre_dump_with;
use crate::survey::{dump, dump_with};
use crate::tracking::Tracking;

/// How many rounds come before the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounds {
    /// So many.
    Fixed(usize),
    /// Until the dump should freeze the process no longer than this, or another round does not pay.
    Auto {
        /// The longest time it should stand.
        max_freeze: Duration,
    },
}

/// A round that leaves more than this share of the one before it to copy (in percent) is the last: the process writes as
/// fast as we copy.
const WORTHWHILE_PERCENT: u64 = 70;
/// With [`Rounds::Auto`], never more than these.
const MOST_ROUNDS: usize = 16;

/// Dumps a process after copying its memory in rounds while it runs.
///
/// The rounds are written to `pre-1`, `pre-2` and so on inside the checkpoint, each the parent of the next. Writes are
/// tracked in between; where the kernel cannot do that, pages are compared. Gives the report of every round and then of
/// the dump.
///
/// # Errors
/// As [`crate::dump`]. Nothing is left behind, also of the rounds that succeeded.
pub fn dump_in_rounds(options: &DumpOptions, rounds: Rounds) -> Result<Vec<DumpReport>> {
    if options.memory_target.is_some() {
        return Err(DumpError::RoundsElsewhere);
    }
    let existed = options.images_dir.exists();
    let dir = &options.images_dir;
    std::fs::create_dir_all(dir).map_err(DumpError::proc(options.pid, dir.display().to_string()))?;
    let mut made = Vec::new();
    let done = all_rounds(options, rounds, &mut made);
    if done.is_err() {
        // Best effort: the error that counts is the one we already have.
        for round in &made {
            let _ = std::fs::remove_dir_all(round);
        }
        if !existed {
            let _ = std::fs::remove_dir(dir);
        }
    }
    done
}

fn all_rounds(options: &DumpOptions, rounds: Rounds, made: &mut Vec<PathBuf>) -> Result<Vec<DumpReport>> {
    let limit = match rounds {
        Rounds::Fixed(count) => count,
        Rounds::Auto { .. } => MOST_ROUNDS,
    };
    let mut reports: Vec<DumpReport> = Vec::new();
    let mut tracking = Tracking::new(options);
    for round in 1..=limit {
        if matches!(rounds, Rounds::Auto { max_freeze } if !pays(&reports, max_freeze)) {
            break;
        }
        let mut pre = options.clone();
        let name = |round: usize| format!("pre-{round}");
        pre.images_dir = options.images_dir.join(name(round));
        pre.parent = match round {
            1 => options.parent.as_ref().map(|parent| Path::new("..").join(parent)),
            _ => Some(Path::new("..").join(name(round - 1))),
        };
        reports.push(pre_dump_with(&pre, Some(&mut tracking))?);
        made.push(pre.images_dir);
    }
    if reports.is_empty() {
        return Ok(vec![dump(options)?]);
    }
    let mut last = options.clone();
    last.parent = Some(format!("pre-{}", reports.len()).into());
    reports.push(dump_with(&last, Some(&mut tracking))?);
    Ok(reports)
}

/// Whether another round is worth it, after those of `reports`.
fn pays(reports: &[DumpReport], max_freeze: Duration) -> bool {
    let Some((last, before)) = reports.split_last() else { return true };
    let Some(previous) = before.last() else { return true };
    // What the last round had to copy was written during the one before it; the dump will find about as much.
    let expected = last.choosing + last.copying;
    expected > max_freeze && last.pages * 100 < previous.pages * WORTHWHILE_PERCENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_on_while_they_pay() {
        let report =
            |pages, ms| DumpReport { pages, copying: Duration::from_millis(ms), ..Default::default() };
        let limit = Duration::from_millis(5);
        assert!(pays(&[], limit), "the first always");
        assert!(pays(&[report(1000, 100)], limit), "nothing to judge by yet");
        assert!(pays(&[report(1000, 100), report(100, 10)], limit));
        assert!(!pays(&[report(1000, 100), report(100, 4)], limit), "short enough");
        assert!(!pays(&[report(1000, 100), report(900, 90)], limit), "it writes as fast as we copy");
    }
}
