//! Taking cookies as a policy asks: at dump, and later for a checkpoint that has none.

use std::fs::File;
use std::path::Path;

use crate::cookie::{Cookie, Parts};
use crate::error::{CookieError, Result};
use crate::hashing::Hashing;
use crate::open::{Held, open_root};
use crate::own::OwnCookies;
use crate::policy::{Action, Level, Policy, Role};
use crate::report::{Finding, Mismatch, Part, Report, Severity};
use crate::verify::{Expected, Verifier, unreadable};

/// A cookie, and which parts of it were asked for and could not be had.
#[derive(Debug, Default)]
pub struct Recorded {
    /// What could be had.
    pub cookie: Cookie,
    /// What could not, and why.
    pub lacking: Vec<(Part, CookieError)>,
}

impl Recorded {
    /// The same as findings of a report.
    pub fn findings(&self, id: u32, path: &Path) -> Vec<Finding> {
        let finding = |(part, error): &(Part, CookieError)| {
            let (severity, what) = unreadable(*part, error);
            Finding { id, path: path.to_owned(), users: Vec::new(), severity, what }
        };
        self.lacking.iter().map(finding).collect()
    }
}

/// The parts that a policy asks to be recorded of a file. Of files with an exception only attributes are: for `warn`
/// alone the contents count.
pub fn asked(policy: &Policy, path: &Path, role: Role) -> Parts {
    match policy.action(path) {
        Some(Action::Ignore | Action::Grow) => Parts::SIZE,
        Some(Action::Warn) | None => policy.record.parts(role),
    }
}

/// Takes the cookie of a file that is held. One part that cannot be had (the budget is used up, the file is being
/// written to, no permission) does not lose the others.
pub fn record(held: &Held, parts: Parts, hashing: &mut Hashing) -> Recorded {
    // Nearly always all of it works at once, with one opening of the file.
    if let Ok(cookie) = Cookie::of_held(held, parts, hashing) {
        return Recorded { cookie, lacking: Vec::new() };
    }
    let mut recorded = Recorded::default();
    let only = Parts::SIZE;
    recorded.take(Part::Attributes, true, held, only, hashing);
    recorded.take(Part::BuildId, parts.build_id, held, Parts::BUILD_ID, hashing);
    recorded.take(Part::Verity, parts.verity, held, Parts { verity: true, ..only }, hashing);
    recorded.take(
        Part::Checksum,
        parts.checksum.is_some(),
        held,
        Parts { checksum: parts.checksum, ..only },
        hashing,
    );
    recorded.take(Part::Blake3, parts.blake3, held, Parts { blake3: true, ..only }, hashing);
    recorded
}

impl Recorded {
    fn take(&mut self, part: Part, wanted: bool, held: &Held, parts: Parts, hashing: &mut Hashing) {
        if !wanted {
            return;
        }
        match Cookie::of_held(held, parts, hashing) {
            Ok(taken) => self.cookie.add(taken),
            Err(error) => self.lacking.push((part, error)),
        }
    }
}

/// Adds the parts that a policy asks for to the cookies of a checkpoint, from the files below `root`, which are held to
/// be the right ones.
///
/// Held against what the checkpoint does have first: a file that differs keeps its cookie and is in the report. The
/// caller writes the cookies back with [`format::store`](crate::format::store), and the returned part into our own file.
///
/// # Errors
///
/// [`CookieError::Open`] for the root.
pub fn stamp(
    entries: &mut [Expected],
    root: &Path,
    policy: &Policy,
    hashing: Hashing,
) -> Result<(OwnCookies, Report, Hashing)> {
    // What is there already is compared in full, whatever is to be recorded.
    let as_recorded = Policy { insist: Level::Auto, ..policy.clone() };
    let mut verifier = Verifier::new(root, &as_recorded)?.with_hashing(hashing);
    let mut report = verifier.verify(entries)?;
    // That a part is not there yet is why we are called.
    report.findings.retain(|finding| !matches!(finding.what, Mismatch::NotRecorded { .. }));
    let mut hashing = verifier.into_hashing();
    let root = open_root(root)?;
    let mut own = OwnCookies::default();
    let sound = |report: &Report, id| {
        report.findings.iter().all(|finding| finding.id != id || finding.severity == Severity::Note)
    };
    for entry in entries {
        if sound(&report, entry.id) {
            report.findings.extend(stamp_one(entry, &root, policy, &mut hashing));
        }
        own.insert(entry.id, &entry.path.to_string_lossy(), &entry.cookie);
    }
    report.bytes_hashed = hashing.bytes_hashed();
    Ok((own, report, hashing))
}

fn stamp_one(entry: &mut Expected, root: &File, policy: &Policy, hashing: &mut Hashing) -> Vec<Finding> {
    let parts = asked(policy, &entry.path, entry.role);
    if parts == Parts::SIZE {
        return Vec::new();
    }
    // It was there a moment ago; if it is gone now, the report says so.
    let recorded = match Held::inside(root, &entry.path) {
        Ok(held) => record(&held, parts, hashing),
        Err(error) => Recorded { cookie: Cookie::default(), lacking: vec![(Part::Attributes, error)] },
    };
    let findings = recorded.findings(entry.id, &entry.path);
    // Size and mode stay as the dump left them, so that what CRIU compares does not change.
    entry.cookie.add(Cookie { size: entry.cookie.size, mode: entry.cookie.mode, ..recorded.cookie });
    findings
}
