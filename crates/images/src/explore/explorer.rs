//! What every view starts from: the tasks, and the table of open files.

use serde::Serialize;

use super::files::FileTable;
use crate::error::Result;
use crate::kind::Kind;
use crate::{Checkpoint, proto};

/// State of a task when it was dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It ran.
    Alive,
    /// A signal had stopped it.
    Stopped,
    /// It had ended; nothing but its exit status is left.
    Zombie,
    /// A state this crate does not know.
    Unknown,
}

impl TaskState {
    fn new(state: u32) -> Self {
        match state {
            1 => Self::Alive,
            2 | 6 => Self::Zombie,
            3 => Self::Stopped,
            _ => Self::Unknown,
        }
    }

    /// Whether the task has memory, descriptors and all else.
    #[must_use]
    pub fn has_resources(self) -> bool {
        self != Self::Zombie
    }
}

/// A task, with what its first thread's core image says.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its entry of the process tree.
    pub entry: proto::PstreeEntry,
    /// Its core image.
    pub core: proto::CoreEntry,
}

impl Task {
    /// State when it was dumped.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.core.tc.as_ref().map_or(TaskState::Unknown, |tc| TaskState::new(tc.task_state))
    }

    /// Name of its first thread.
    #[must_use]
    pub fn comm(&self) -> &str {
        self.core.tc.as_ref().map_or("", |tc| &tc.comm)
    }

    /// Its number in file names.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        Some(self.entry.pid.into())
    }
}

/// Answers questions about a checkpoint. The process tree and the table of open files are read once.
#[derive(Debug)]
pub struct Explorer<'c> {
    pub(super) checkpoint: &'c Checkpoint,
    pub(super) tasks: Vec<Task>,
    pub(super) files: FileTable,
}

impl<'c> Explorer<'c> {
    /// Reads what all views need.
    ///
    /// # Errors
    /// Any error of reading the process tree, a core image or the files.
    pub fn new(checkpoint: &'c Checkpoint) -> Result<Self> {
        let task = |entry: proto::PstreeEntry| {
            let core = checkpoint.core(entry.pid.into())?;
            Ok(Task { entry, core })
        };
        let tasks = checkpoint.tasks()?.into_iter().map(task).collect::<Result<_>>()?;
        Ok(Self { checkpoint, tasks, files: FileTable::read(checkpoint)? })
    }

    /// The checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// The tasks, in the order of the process tree image: parents first.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The open files.
    #[must_use]
    pub fn files(&self) -> &FileTable {
        &self.files
    }

    /// Descriptors of a task, none for a zombie.
    ///
    /// # Errors
    /// Any error of reading `ids` and `fdinfo`.
    pub fn descriptors(&self, task: &Task) -> Result<Vec<proto::FdinfoEntry>> {
        if !task.state().has_resources() {
            return Ok(Vec::new());
        }
        self.checkpoint.read_all(Kind::Fdinfo, Some(self.ids(task)?.files_id.into()))
    }

    /// Kernel objects of a task, in its core image or one of their own.
    pub(super) fn ids(&self, task: &Task) -> Result<proto::TaskKobjIdsEntry> {
        match &task.core.ids {
            Some(ids) => Ok(*ids),
            None => self.checkpoint.read(Kind::Ids, task.number()),
        }
    }

    /// Address space of a task, `None` for a zombie. Old images keep the mappings in a file of their own.
    ///
    /// # Errors
    /// Any error of reading `mm` and `vmas`.
    pub fn mm(&self, task: &Task) -> Result<Option<proto::MmEntry>> {
        if !task.state().has_resources() {
            return Ok(None);
        }
        let mut mm: proto::MmEntry = self.checkpoint.read(Kind::Mm, task.number())?;
        if mm.vmas.is_empty() {
            mm.vmas = self.checkpoint.read_all(Kind::Vmas, task.number())?;
        }
        Ok(Some(mm))
    }
}
