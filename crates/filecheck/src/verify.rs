//! Comparing files with their cookies: all of them, every difference, before anything is built on them.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use nix::fcntl::OFlag;
use nix::sys::stat::stat;

use crate::cookie::{ATTEMPTS, Cookie};
use crate::error::{CookieError, Result};
use crate::hashing::Hashing;
use crate::open::{FileState, Held, open_root, type_name};
use crate::policy::{Action, Level, Policy, Role};
use crate::report::{Finding, Mismatch, Part, Report, Severity, Use};

/// A file that must be what it was.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// File id in the checkpoint.
    pub id: u32,
    /// Its name, absolute in the root of the tasks.
    pub path: PathBuf,
    /// What is known of it.
    pub cookie: Cookie,
    /// Who uses it and how, for the report.
    pub users: Vec<Use>,
    /// How it is used, for the policy.
    pub role: Role,
}

/// Compares all files below `root`, without limit on time or bytes.
///
/// # Errors
///
/// [`CookieError::Open`] for the root. Everything about a single file is a finding in the report.
pub fn verify_all(entries: &[Expected], root: &Path, policy: &Policy) -> Result<Report> {
    Verifier::new(root, policy)?.verify(entries)
}

/// Files to be read that are looked at before any of them is: each takes a descriptor until then.
const BATCH: usize = 256;
/// Fewer than this are looked at by one thread.
const WORTH_THREADS: usize = 64;

/// How a file is to be opened that was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Flags of open(2).
    pub flags: i32,
    /// Where it is read or written first.
    pub position: i64,
}

/// What was seen of a file, and what of its contents is to be compared. Small, as there may be very many.
struct Look {
    found: Vec<(Severity, Mismatch)>,
    contents: Option<Box<(Held, Vec<Part>, Keep)>>,
    /// Opened to be kept, with nothing more to compare.
    opened: Option<File>,
}

/// Whether a file was opened to be kept.
type Keep = bool;

/// Compares files with their cookies; the longer form of [`verify_all`].
#[derive(Debug)]
pub struct Verifier<'a> {
    root: File,
    /// The root is that of this process: names in it are what they are here.
    own_root: bool,
    policy: &'a Policy,
    hashing: Hashing,
}

impl<'a> Verifier<'a> {
    /// Looks files up below `root`, which symbolic links and `..` do not leave.
    ///
    /// # Errors
    ///
    /// [`CookieError::Open`] for the root.
    pub fn new(root: &Path, policy: &'a Policy) -> Result<Self> {
        let own_root = root == Path::new("/");
        Ok(Self { root: open_root(root)?, own_root, policy, hashing: Hashing::default() })
    }

    /// Brings the budget and what is known already. Files beyond the budget are reported as not checked.
    #[must_use]
    pub fn with_hashing(mut self, hashing: Hashing) -> Self {
        self.hashing = hashing;
        self
    }

    /// Gives it back, with what was learned.
    pub fn into_hashing(self) -> Hashing {
        self.hashing
    }

    /// Compares all of them.
    ///
    /// # Errors
    ///
    /// None at present that is not about a single file, and those are findings.
    pub fn verify(&mut self, entries: &[Expected]) -> Result<Report> {
        self.verify_opened(entries, |_| None).map(|(report, _)| report)
    }

    /// Compares all of them, and opens the regular files for which `how` says so. What it gives for each entry is the
    /// very file that was compared, whatever its name leads to later; `None` for what is not to be opened, is no regular
    /// file, was excepted from comparing, or cannot be opened so.
    ///
    /// # Errors
    ///
    /// None at present that is not about a single file, and those are findings.
    pub fn verify_opened(
        &mut self,
        entries: &[Expected],
        how: impl Fn(&Expected) -> Option<Opening> + Sync,
    ) -> Result<(Report, Vec<Option<File>>)> {
        let mut report = Report { files: entries.len(), ..Report::default() };
        let mut opened = Vec::with_capacity(entries.len());
        // Asking how many there may be takes a look at control groups: only if it matters.
        let many = entries.len() >= WORTH_THREADS;
        let threads = if many { thread::available_parallelism().map_or(1, NonZeroUsize::get) } else { 1 };
        let mut rest = entries;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(self.batch(rest));
            rest = later;
            for (entry, look) in batch.iter().zip(self.look_at(batch, &how, threads)) {
                let (findings, file) = self.finish(entry, look);
                opened.push(file);
                report.findings.extend(findings.into_iter().map(|(severity, what)| Finding {
                    id: entry.id,
                    path: entry.path.clone(),
                    users: entry.users.clone(),
                    severity,
                    what,
                }));
            }
        }
        report.bytes_hashed = self.hashing.bytes_hashed();
        Ok((report, opened))
    }

    /// How many of them, from the first on, are looked at together.
    fn batch(&self, entries: &[Expected]) -> usize {
        let read = |entry: &Expected| !Wanted::of(self.policy.insist, entry).parts.is_empty();
        let last = entries.iter().enumerate().filter(|(_, entry)| read(entry)).nth(BATCH - 1);
        last.map_or(entries.len(), |(index, _)| index + 1)
    }

    /// Looks at several files, by several threads if they are many.
    fn look_at(
        &self,
        entries: &[Expected],
        how: &(impl Fn(&Expected) -> Option<Opening> + Sync),
        threads: usize,
    ) -> Vec<Look> {
        let all = |entries: &[Expected]| -> Vec<Look> {
            entries.iter().map(|entry| self.look(entry, how(entry))).collect()
        };
        if threads == 1 || entries.len() < WORTH_THREADS {
            return all(entries);
        }
        let (mine, others) = entries.split_at(entries.len().div_ceil(threads));
        thread::scope(|scope| {
            let all = &all;
            let looking: Vec<_> =
                others.chunks(mine.len()).map(|share| scope.spawn(move || all(share))).collect();
            let mut looks = all(mine);
            looks.reserve_exact(others.len());
            looks.extend(looking.into_iter().flat_map(|share| share.join().expect("looking does not panic")));
            looks
        })
    }

    /// Everything that is seen of a file without reading it.
    fn look(&self, entry: &Expected, how: Option<Opening>) -> Look {
        let action = self.policy.action(&entry.path);
        let nothing = |found| Look { found: vec![found], contents: None, opened: None };
        if action == Some(Action::Ignore) {
            return nothing((Severity::Warning, Mismatch::Skipped));
        }
        let may_grow = action == Some(Action::Grow);
        let opened = how.and_then(|how| self.open(&entry.path, how));
        let keep = opened.is_some();
        let held = match opened.map_or_else(|| Held::inside(&self.root, &entry.path), Ok) {
            Ok(held) => held,
            Err(error) => return nothing(not_opened(error)),
        };
        let state = held.state();
        let mut found: Vec<(Severity, Mismatch)> = attributes(&entry.cookie, &state, may_grow)
            .into_iter()
            .map(|what| (self.severity(&what), what))
            .collect();
        let parts = if !state.is_regular() || may_grow {
            Vec::new()
        } else {
            let same_size = entry.cookie.size.is_none_or(|size| size == state.size);
            let wanted = Wanted::of(self.policy.insist, entry);
            found.extend(wanted.lacking);
            // Contents of another size differ anyway; reading them would tell nothing.
            wanted.parts.into_iter().filter(|part| same_size || *part == Part::BuildId).collect()
        };
        if parts.is_empty() {
            return Look { found, contents: None, opened: keep.then(|| held.into_handle()) };
        }
        Look { found, contents: Some(Box::new((held, parts, keep))), opened: None }
    }

    /// Opens a regular file, `None` for anything else and when it cannot be opened so.
    fn open(&self, path: &Path, how: Opening) -> Option<Held> {
        // Before: opening something else can block or have effects.
        let regular = if self.own_root {
            stat(path).is_ok_and(|stat| FileState::from(&stat).is_regular())
        } else {
            Held::inside(&self.root, path).is_ok_and(|held| held.state().is_regular())
        };
        let flags = OFlag::from_bits_retain(how.flags);
        let held = regular.then(|| Held::opened_inside(&self.root, path, flags).ok()).flatten()?;
        let held = held.state().is_regular().then_some(held)?;
        (how.position == 0 || held.seek(how.position)).then_some(held)
    }

    /// Reads what must be read, and judges.
    fn finish(&mut self, entry: &Expected, look: Look) -> (Vec<(Severity, Mismatch)>, Option<File>) {
        let Look { mut found, contents, mut opened } = look;
        if let Some((held, parts, keep)) = contents.map(|contents| *contents) {
            match held.contents() {
                Ok(contents) => {
                    found.extend(parts.into_iter().filter_map(|part| self.contents(entry, &contents, part)));
                }
                Err(error) => found.extend(parts.into_iter().map(|part| unreadable(part, &error))),
            }
            opened = keep.then(|| held.into_handle());
        }
        if !found.is_empty() && self.policy.action(&entry.path) == Some(Action::Warn) {
            for (severity, _) in &mut found {
                *severity = Severity::Warning.min(*severity);
            }
        }
        (found, opened)
    }

    fn severity(&self, what: &Mismatch) -> Severity {
        match what {
            Mismatch::Mode { .. } if self.policy.any_mode => Severity::Warning,
            _ => Severity::Differs,
        }
    }

    /// Compares one part that needs the contents.
    fn contents(&mut self, entry: &Expected, contents: &File, part: Part) -> Option<(Severity, Mismatch)> {
        let mut compared = self.compare_part(entry, contents, part);
        for _ in 1..ATTEMPTS {
            if !matches!(compared, Err(CookieError::Changed)) {
                break;
            }
            compared = self.compare_part(entry, contents, part);
        }
        match compared {
            Ok(difference) => difference.map(|what| (Severity::Differs, what)),
            Err(error) => Some(unreadable(part, &error)),
        }
    }

    fn compare_part(&mut self, entry: &Expected, contents: &File, part: Part) -> Result<Option<Mismatch>> {
        match part {
            Part::BuildId => self.compare_build_id(&entry.cookie, contents),
            Part::Verity => self.compare_verity(&entry.cookie, contents),
            Part::Checksum => self.compare_checksum(&entry.cookie, contents),
            Part::Blake3 => self.compare_blake3(&entry.cookie, contents),
            Part::Attributes => Ok(None),
        }
    }

    /// Whether the kernel vouches for the same contents, in which case nothing needs to be read.
    fn same_verity(&mut self, cookie: &Cookie, contents: &File) -> bool {
        // Without an answer the contents are read, so errors lose nothing here.
        cookie.verity.is_some() && self.hashing.verity(contents).is_ok_and(|found| found == cookie.verity)
    }

    fn compare_verity(&mut self, cookie: &Cookie, contents: &File) -> Result<Option<Mismatch>> {
        let Some(expected) = cookie.verity.clone() else { return Ok(None) };
        match self.hashing.verity(contents)? {
            Some(found) if found == expected => Ok(None),
            Some(found) => Ok(Some(Mismatch::Verity { expected, found })),
            None => Err(CookieError::NoVerity),
        }
    }

    fn compare_build_id(&mut self, cookie: &Cookie, contents: &File) -> Result<Option<Mismatch>> {
        let Some(expected) = &cookie.build_id else { return Ok(None) };
        let found = self.hashing.build_id(contents)?;
        if found.as_ref().is_some_and(|found| found.same_padded(expected)) {
            return Ok(None);
        }
        Ok(Some(Mismatch::BuildId { expected: expected.clone(), found }))
    }

    fn compare_checksum(&mut self, cookie: &Cookie, contents: &File) -> Result<Option<Mismatch>> {
        let Some(expected) = cookie.checksum else { return Ok(None) };
        if self.same_verity(cookie, contents) {
            return Ok(None);
        }
        let found = self.hashing.checksum(contents, expected.mode)?.value;
        let differs = Mismatch::Checksum { over: expected.mode, expected: expected.value, found };
        Ok((found != expected.value).then_some(differs))
    }

    fn compare_blake3(&mut self, cookie: &Cookie, contents: &File) -> Result<Option<Mismatch>> {
        let Some(expected) = cookie.blake3 else { return Ok(None) };
        if self.same_verity(cookie, contents) {
            return Ok(None);
        }
        let found = self.hashing.blake3(contents)?;
        Ok((found != expected).then_some(Mismatch::Blake3 { expected, found }))
    }
}

fn not_opened(error: CookieError) -> (Severity, Mismatch) {
    match &error {
        CookieError::Open { source, .. }
            if matches!(source.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) =>
        {
            (Severity::Differs, Mismatch::Missing)
        }
        _ => unreadable(Part::Attributes, &error),
    }
}

/// The error with its causes as one line: a report is data, it keeps no error values.
pub(crate) fn unreadable(part: Part, error: &CookieError) -> (Severity, Mismatch) {
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    (Severity::Unchecked, Mismatch::Unreadable { part, reason })
}

fn attributes(cookie: &Cookie, state: &FileState, may_grow: bool) -> Vec<Mismatch> {
    let mut found = Vec::new();
    if let Some(mode) = cookie.mode.filter(|mode| *mode != state.mode) {
        let (expected, now) = (type_name(mode), type_name(state.mode));
        if expected != now {
            return vec![Mismatch::Type { expected, found: now }];
        }
        found.push(Mismatch::Mode { expected: mode, found: state.mode });
    }
    match cookie.size.filter(|_| state.is_regular()) {
        Some(expected) if may_grow && state.size < expected => {
            found.push(Mismatch::Shrunk { expected, found: state.size });
        }
        Some(expected) if !may_grow && state.size != expected => {
            found.push(Mismatch::Size { expected, found: state.size });
        }
        _ => {}
    }
    found
}

/// What of the contents is compared for one file.
struct Wanted {
    parts: Vec<Part>,
    lacking: Option<(Severity, Mismatch)>,
}

impl Wanted {
    fn of(level: Level, entry: &Expected) -> Self {
        let Cookie { build_id, checksum, blake3, verity, .. } = &entry.cookie;
        let asked = level.parts(entry.role);
        // `auto` compares whatever was recorded; the others what they are named after.
        let auto = level == Level::Auto;
        let mut parts = Vec::new();
        if build_id.is_some() && asked.build_id {
            parts.push(Part::BuildId);
        }
        if checksum.is_some() && (asked.checksum.is_some() || auto) {
            parts.push(Part::Checksum);
        }
        if blake3.is_some() && (asked.blake3 || auto) {
            parts.push(Part::Blake3);
        }
        // The digest depends on the tree's parameters too: where another hash is known, that one decides.
        let only_verity = verity.is_some() && blake3.is_none() && checksum.is_none();
        if only_verity && asked.verity {
            parts.push(Part::Verity);
        }
        let lacks = |part| Mismatch::NotRecorded { part };
        let lacking = if asked.blake3 && blake3.is_none() && verity.is_none() {
            let severity = if auto { Severity::Note } else { Severity::Unchecked };
            Some((severity, lacks(Part::Blake3)))
        } else if asked.checksum.is_some() && checksum.is_none() && entry.cookie.size != Some(0) {
            Some((Severity::Unchecked, lacks(Part::Checksum)))
        } else {
            None
        };
        Self { parts, lacking }
    }
}
