//! The table.

use std::time::Duration;

use super::measure::Row;

/// Prints medians, ratios, and what was promised.
pub(super) fn print(rows: &[Row]) {
    println!(
        "{:18} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6}  peak RSS",
        "case", "", "rewake", "CRIU", "spread", "ratio", "goal"
    );
    for row in rows {
        let (dump_goal, restore_goal) = row.case.goals;
        let lines = [
            ("dump", &row.ours.dump, &row.theirs.dump, dump_goal, row.ours.peak_kib.0, row.theirs.peak_kib.0),
            (
                "restore",
                &row.ours.restore,
                &row.theirs.restore,
                restore_goal,
                row.ours.peak_kib.1,
                row.theirs.peak_kib.1,
            ),
        ];
        for (what, ours, theirs, goal, our_peak, their_peak) in lines {
            let (mine, other) = (median(ours), median(theirs));
            let ratio = mine / other;
            let verdict = if ratio <= goal {
                "met"
            } else if ratio > goal {
                "MISSED"
            } else {
                ""
            };
            let spread = format!("{:.0}-{:.0}", lowest(ours), highest(ours));
            println!(
                "{:18} {what:>8} {mine:>8.1} {other:>8.1} {spread:>8} {ratio:>7.2} {goal:>6.2}  {:.1} / {:.1} MiB {verdict}",
                row.case.name,
                mib(our_peak),
                mib(their_peak),
            );
        }
    }
    println!("times in ms (medians; spread is ours), of whole runs of the commands");
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mib(kib: i64) -> f64 {
    kib as f64 / 1024.0
}

fn ms(times: &[Duration]) -> Vec<f64> {
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    ms
}

fn median(times: &[Duration]) -> f64 {
    ms(times).get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn lowest(times: &[Duration]) -> f64 {
    ms(times).first().copied().unwrap_or(f64::NAN)
}

fn highest(times: &[Duration]) -> f64 {
    ms(times).last().copied().unwrap_or(f64::NAN)
}
