//! What can be found.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::ImageError;
use crate::kind::Kind;

/// What is wrong in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "problem")]
#[non_exhaustive]
pub enum Problem {
    /// The image cannot be read: truncated, of another kind, malformed, of the wrong size, or its memory cannot be resolved.
    Unreadable {
        /// The reader's reason.
        why: String,
    },
    /// An image that must be there is not.
    MissingImage,
    /// A required field is absent.
    MissingField {
        /// Dotted name, starting with the message.
        field: String,
    },
    /// An enum has a value that the schema does not know.
    UnknownValue {
        /// Dotted name, starting with the message.
        field: String,
        /// The value.
        value: i32,
    },
    /// Something is referred to that is nowhere.
    Dangling {
        /// The field that refers.
        field: &'static str,
        /// What it wants.
        wanted: String,
    },
    /// Two things have an identity that only one may have.
    Duplicate {
        /// What they both are.
        what: String,
    },
    /// A size that does not agree with another.
    Size {
        /// Bytes found.
        found: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// Ranges that overlap, or stand where none belong.
    Range {
        /// First address.
        start: u64,
        /// First address behind.
        end: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The link to the parent checkpoint does not lead to one beside this.
    Parent {
        /// Where it leads, as far as that is known.
        target: String,
        /// What is wrong with that.
        why: &'static str,
    },
    /// A value that contradicts another, or that no restorer accepts.
    Contradiction {
        /// What.
        what: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { why } => write!(f, "{why}"),
            Self::MissingImage => write!(f, "there is no such image"),
            Self::MissingField { field } => write!(f, "required field {field} is missing"),
            Self::UnknownValue { field, value } => write!(f, "{field} has the unknown value {value}"),
            Self::Dangling { field, wanted } => write!(f, "{field} refers to {wanted}, which is nowhere"),
            Self::Duplicate { what } => write!(f, "{what} is there twice"),
            Self::Size { found, wanted } => write!(f, "{found} bytes where {wanted} belong"),
            Self::Range { start, end, why } => write!(f, "{start:#x}-{end:#x} {why}"),
            Self::Parent { target, why } => write!(f, "the parent link {why}: {target}"),
            Self::Contradiction { what } => write!(f, "{what}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// File name of the image.
    pub image: String,
    /// Index of the entry in it, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(f, "{} entry {entry}: {}", self.image, self.problem),
            None => write!(f, "{}: {}", self.image, self.problem),
        }
    }
}

/// All that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// Number of images looked at.
    pub images: u64,
    /// What is wrong, in the order in which it was found; at most [`Report::MOST`].
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub more: u64,
}

impl Report {
    /// More findings than this are only counted: one broken table breaks all that refer to it.
    pub const MOST: usize = 1000;

    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), images: 0, findings: Vec::new(), more: 0 }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn add(&mut self, image: impl Into<String>, entry: Option<u64>, problem: Problem) {
        let finding = Finding { image: image.into(), entry, problem };
        if self.findings.contains(&finding) {
            return;
        }
        if self.findings.len() < Self::MOST {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn dangling(
        &mut self,
        image: impl Into<String>,
        entry: impl Into<Option<u64>>,
        field: &'static str,
        wanted: impl Into<String>,
    ) {
        self.add(image, entry.into(), Problem::Dangling { field, wanted: wanted.into() });
    }

    pub(super) fn contradiction(
        &mut self,
        image: impl Into<String>,
        entry: impl Into<Option<u64>>,
        what: impl Into<String>,
    ) {
        self.add(image, entry.into(), Problem::Contradiction { what: what.into() });
    }

    pub(super) fn missing(&mut self, kind: Kind, number: Option<u64>) {
        self.add(kind.file_name(number), None, Problem::MissingImage);
    }

    /// What a reader said.
    pub(super) fn error(&mut self, error: &ImageError) {
        let (path, entry, problem) = match error {
            ImageError::MissingField { path, entry, field, .. } => {
                (path.as_path(), Some(*entry), Problem::MissingField { field: field.clone() })
            }
            ImageError::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                (path.as_path(), None, Problem::MissingImage)
            }
            error => {
                let entry = match error {
                    ImageError::Truncated { entry, .. } | ImageError::Decode { entry, .. } => Some(*entry),
                    _ => None,
                };
                let path = error.path().unwrap_or(&self.dir);
                // The finding names the image already.
                let why = error.to_string();
                let why = why.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&why).to_owned();
                (path, entry, Problem::Unreadable { why })
            }
        };
        self.add(name_of(path), entry, problem);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        if self.more > 0 {
            writeln!(f, "and {} more", self.more)?;
        }
        Ok(())
    }
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
