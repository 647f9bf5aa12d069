//! Descriptors.

use std::fmt;

use serde::Serialize;

use super::explorer::Explorer;
use super::names;
use crate::error::Result;
use crate::kind::Kind;
use crate::proto::{self, FdTypes};

/// What refers to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FdNumber {
    /// A descriptor.
    Fd(u32),
    /// The working directory.
    Cwd,
    /// The root directory.
    Root,
}

impl fmt::Display for FdNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fd(fd) => f.pad(&fd.to_string()),
            Self::Cwd => f.pad("cwd"),
            Self::Root => f.pad("root"),
        }
    }
}

impl Serialize for FdNumber {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An open file of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fd {
    /// Descriptor, `cwd` or `root`.
    pub fd: FdNumber,
    /// Kind of the file; empty for directories.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its path, or what stands for it.
    pub path: String,
}

/// The open files of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskFds {
    /// Process id.
    pub pid: u32,
    /// Descriptors, then working and root directory. None for a zombie.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Fd>,
}

/// The open files of all tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FdList(pub Vec<TaskFds>);

impl Explorer<'_> {
    /// The open files of all tasks.
    ///
    /// # Errors
    /// Any error of reading `ids`, `fdinfo` and `fs`.
    pub fn fds(&self) -> Result<FdList> {
        let mut all = Vec::new();
        for task in &self.tasks {
            let file = |entry: proto::FdinfoEntry| Fd {
                fd: FdNumber::Fd(entry.fd),
                kind: names::file_type(entry.r#type).into_owned(),
                path: self.files.describe(entry.r#type, entry.id),
            };
            let mut files: Vec<_> = self.descriptors(task)?.into_iter().map(file).collect();
            if task.state().has_resources() {
                let fs: proto::FsEntry = self.checkpoint.read(Kind::Fs, task.number())?;
                for (fd, id) in [(FdNumber::Cwd, fs.cwd_id), (FdNumber::Root, fs.root_id)] {
                    let path = self.files.describe(FdTypes::Reg.into(), id);
                    files.push(Fd { fd, kind: String::new(), path });
                }
            }
            all.push(TaskFds { pid: task.entry.pid, files });
        }
        Ok(FdList(all))
    }
}

impl fmt::Display for FdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.0 {
            writeln!(f, "{}", task.pid)?;
            for Fd { fd, path, .. } in &task.files {
                writeln!(f, "\t{fd:>7}: {path}")?;
            }
        }
        Ok(())
    }
}
