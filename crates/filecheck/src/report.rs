//! What a verification found: plain data, serialisable, and readable as text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::build_id::BuildId;
use crate::cookie::Verity;
use crate::crc::CrcMode;
use crate::hash::Blake3;
use crate::owner;

/// How a task uses a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "as", rename_all = "kebab-case")]
pub enum Use {
    /// Mapped into memory.
    Mapping {
        /// The task.
        pid: u32,
        /// First address.
        #[serde(serialize_with = "hex")]
        start: u64,
        /// Address after the last.
        #[serde(serialize_with = "hex")]
        end: u64,
        /// Protection as in /proc/PID/maps, `r-xp`.
        protection: String,
    },
    /// Open as a descriptor.
    Descriptor {
        /// The task.
        pid: u32,
        /// Its number.
        fd: u32,
    },
    /// The program itself.
    Executable {
        /// The task.
        pid: u32,
    },
    /// Working directory.
    WorkingDirectory {
        /// The task.
        pid: u32,
    },
    /// Root directory.
    RootDirectory {
        /// The task.
        pid: u32,
    },
}

fn hex<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapping { pid, start, protection, .. } => {
                write!(f, "mapped {protection} at {start:#x} by {pid}")
            }
            Self::Descriptor { pid, fd } => write!(f, "descriptor {fd} of {pid}"),
            Self::Executable { pid } => write!(f, "program of {pid}"),
            Self::WorkingDirectory { pid } => write!(f, "working directory of {pid}"),
            Self::RootDirectory { pid } => write!(f, "root directory of {pid}"),
        }
    }
}

/// A part of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Size, mode: the attributes.
    Attributes,
    /// Build-id.
    BuildId,
    /// CRC32C.
    Checksum,
    /// BLAKE3.
    Blake3,
    /// fs-verity digest.
    Verity,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attributes => "attributes",
            Self::BuildId => "build-id",
            Self::Checksum => "checksum",
            Self::Blake3 => "BLAKE3",
            Self::Verity => "fs-verity digest",
        })
    }
}

/// One thing that is not as recorded, or that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mismatch {
    /// Nothing has that name.
    Missing,
    /// Another type of file.
    Type {
        /// As recorded.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// Another size.
    Size {
        /// As recorded.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Smaller, where growing was allowed.
    Shrunk {
        /// As recorded.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Other permission bits.
    Mode {
        /// As recorded, with the file type.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// Another build-id or none.
    BuildId {
        /// As recorded.
        expected: BuildId,
        /// What is there.
        found: Option<BuildId>,
    },
    /// Another checksum.
    Checksum {
        /// Which bytes it covers.
        over: CrcMode,
        /// As recorded.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// Another hash.
    Blake3 {
        /// As recorded.
        expected: Blake3,
        /// What is there.
        found: Blake3,
    },
    /// Another fs-verity digest, and no hash of another kind to ask.
    Verity {
        /// As recorded.
        expected: Verity,
        /// What is there.
        found: Verity,
    },
    /// The file is there and cannot be looked at as asked.
    Unreadable {
        /// The part wanted.
        part: Part,
        /// Why not.
        reason: String,
    },
    /// This part is insisted on, and the checkpoint does not have it.
    NotRecorded {
        /// The part wanted.
        part: Part,
    },
    /// An exception says not to look.
    Skipped,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Type { expected, found } => write!(f, "type differs: expected {expected}, found {found}"),
            Self::Size { expected, found } => write!(f, "size differs: expected {expected}, found {found}"),
            Self::Shrunk { expected, found } => {
                write!(f, "shrunk: expected at least {expected}, found {found}")
            }
            Self::Mode { expected, found } => {
                write!(f, "mode differs: expected {expected:#o}, found {found:#o}")
            }
            Self::BuildId { expected, found: Some(found) } => {
                write!(f, "build-id differs: expected {expected}, found {found}")
            }
            Self::BuildId { expected, found: None } => {
                write!(f, "build-id differs: expected {expected}, found none")
            }
            Self::Checksum { over, expected, found } => {
                write!(f, "checksum ({over}) differs: expected {expected:#010x}, found {found:#010x}")
            }
            Self::Blake3 { expected, found } => {
                write!(f, "BLAKE3 differs: expected {expected}, found {found}")
            }
            Self::Verity { expected, found } => {
                write!(f, "fs-verity digest differs: expected {expected}, found {found}")
            }
            Self::Unreadable { part, reason } => write!(f, "{part} could not be checked: {reason}"),
            Self::NotRecorded { part } => write!(f, "{part} could not be checked: the checkpoint has none"),
            Self::Skipped => f.write_str("not checked, as asked"),
        }
    }
}

/// What a finding means for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing was asked that was not done.
    Note,
    /// An exception lets it pass.
    Warning,
    /// Could not be checked as asked.
    Unchecked,
    /// Not the file it was.
    Differs,
}

/// One finding about one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// File id in the checkpoint.
    pub id: u32,
    /// Name of the file, as recorded.
    pub path: PathBuf,
    /// Who uses it and how.
    pub users: Vec<Use>,
    /// What it means.
    pub severity: Severity,
    /// What was found.
    pub what: Mismatch,
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// Files looked at.
    pub files: usize,
    /// Bytes read to calculate hashes and checksums; those known from a cache or an earlier file do not count.
    pub bytes_hashed: u64,
    /// In the order of the files given; several for one file are together.
    pub findings: Vec<Finding>,
    /// The packages that own files which differ, as far as [`Report::name_packages`] found them.
    pub packages: BTreeMap<PathBuf, String>,
}

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All as recorded, or excepted.
    Same,
    /// Nothing differs that could be checked, and something could not.
    Unchecked,
    /// At least one file is not what it was.
    Differs,
}

impl Report {
    /// The answer in one word.
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Differs) => Verdict::Differs,
            Some(Severity::Unchecked) => Verdict::Unchecked,
            Some(Severity::Note | Severity::Warning) | None => Verdict::Same,
        }
    }

    /// Looks up, below `root`, the packages that own the files which differ: what has to be up- or downgraded.
    pub fn name_packages(&mut self, root: &Path) {
        let differing = self.findings.iter().filter(|finding| finding.severity == Severity::Differs);
        self.packages = owner::packages(root, differing.map(|finding| finding.path.as_path()));
    }

    /// What can be done about a file, if anything is known.
    fn advice(&self, finding: &Finding) -> Option<String> {
        let path = finding.path.display();
        let grown = matches!(finding.what, Mismatch::Size { expected, found } if found > expected);
        match self.packages.get(&finding.path) {
            Some(package) => Some(format!("it is of package {package}: install the version of the dump")),
            None if grown => Some(format!("if it may grow, the exception `grow:{path}` lets it pass")),
            None => None,
        }
    }
}

/// Whether nothing worse is said of the same file later.
fn last_of_file(findings: &[Finding], finding: &Finding) -> bool {
    let differing = |other: &&Finding| other.id == finding.id && other.severity == Severity::Differs;
    findings.iter().rfind(differing) == Some(finding)
}

impl fmt::Display for Report {
    /// A block per file with all its findings. Notes, of which a checkpoint by another tool has one per library, are
    /// counted only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for finding in self.findings.iter().filter(|finding| finding.severity > Severity::Note) {
            if last != Some(finding.id) {
                writeln!(f, "{}", finding.path.display())?;
                for user in &finding.users {
                    writeln!(f, "    {user}")?;
                }
                last = Some(finding.id);
            }
            let mark = if finding.severity == Severity::Warning { "warning: " } else { "" };
            writeln!(f, "  {mark}{}", finding.what)?;
            if finding.severity == Severity::Differs && last_of_file(&self.findings, finding) {
                self.advice(finding).iter().try_for_each(|advice| writeln!(f, "  -> {advice}"))?;
            }
        }
        let notes = self.findings.iter().filter(|finding| finding.severity == Severity::Note).count();
        if notes > 0 {
            writeln!(f, "{notes} program files have no BLAKE3 in the checkpoint: compared by what it has")?;
        }
        let differing = |severity| {
            let mut ids: Vec<u32> = self
                .findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .map(|finding| finding.id)
                .collect();
            ids.dedup();
            ids.len()
        };
        let (differ, unchecked) = (differing(Severity::Differs), differing(Severity::Unchecked));
        write!(f, "{} files checked: {differ} differ, {unchecked} could not be checked", self.files)
    }
}
