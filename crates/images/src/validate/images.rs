//! Every image for itself.

use super::finding::{Problem, Report, name_of};
use crate::Checkpoint;
use crate::framing::{Entry, ImageReader};
use crate::json::lint::{Lint, lint};
use crate::kind::{Count, Kind};

pub(super) fn check(checkpoint: &Checkpoint, report: &mut Report) {
    let inventory = checkpoint.inventory();
    let name = Kind::Inventory.file_name(None);
    if !checkpoint.is_pre_dump() && inventory.fdinfo_per_id != Some(true) {
        report.contradiction(name, None, "fdinfo_per_id is not set: a layout no restorer reads any more");
    }
    let images = match checkpoint.images() {
        Ok(images) => images,
        Err(error) => return report.error(&error),
    };
    for (kind, _, path) in images {
        report.images += 1;
        if kind.info().count == Count::Raw {
            continue;
        }
        let mut reader = match ImageReader::open(kind, &path) {
            Ok(reader) => reader,
            Err(error) => {
                report.error(&error);
                continue;
            }
        };
        let mixed = kind != Kind::Inventory && reader.layout() != checkpoint.layout();
        // Statistics and caches of the tool are not the checkpoint's: another version may have written them.
        if mixed && !matches!(kind.info().head, crate::kind::Head::Service) {
            report.contradiction(name_of(&path), None, "its layout is not that of the inventory");
        }
        let mut entry = Entry::default();
        let mut count = 0;
        loop {
            match reader.read_entry(&mut entry) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    report.error(&error);
                    count = u64::MAX;
                    break;
                }
            }
            count += 1;
            let row = kind.info();
            let message = row.rest.filter(|_| entry.index > 0).unwrap_or(row.entry);
            for found in lint(message, &entry.message) {
                let problem = match found {
                    Lint::Malformed(why) => Problem::Unreadable { why: format!("no {message}: {why}") },
                    Lint::Missing(field) => Problem::MissingField { field },
                    Lint::UnknownValue(field, value) => Problem::UnknownValue { field, value },
                };
                report.add(name_of(&path), Some(entry.index), problem);
            }
        }
        let wrong = match kind.info().count {
            Count::Single => (count != 1 && count != u64::MAX).then_some("one"),
            Count::HeadArray => (count == 0).then_some("at least one"),
            Count::Array | Count::Raw => None,
        };
        if let Some(expected) = wrong {
            report.contradiction(name_of(&path), None, format!("{count} entries where {expected} belong"));
        }
    }
}
