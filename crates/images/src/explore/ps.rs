//! The process tree.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::explorer::{Explorer, TaskState};
use crate::error::{ImageError, Result};
use crate::kind::Kind;

/// A process and its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// Name of its first thread.
    pub comm: String,
    /// State when it was dumped.
    pub state: TaskState,
    /// Number of threads.
    pub threads: usize,
    /// Its children, in the order of the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Process>,
}

/// The processes without a parent in the checkpoint, each with all below it: one, in what dumpers write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forest(pub Vec<Process>);

impl Serialize for Forest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [root] => root.serialize(serializer),
            roots => roots.serialize(serializer),
        }
    }
}

/// Deeper trees than this would need more stack than a thread may have.
const MAX_DEPTH: usize = 1000;

impl Explorer<'_> {
    /// The process tree.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] if the parents form a loop, a pid comes twice, or the tree is deeper than 1000.
    pub fn ps(&self) -> Result<Forest> {
        let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
        let pids: HashMap<u32, usize> =
            self.tasks.iter().enumerate().map(|(i, t)| (t.entry.pid, i)).collect();
        let mut roots = Vec::new();
        for (index, task) in self.tasks.iter().enumerate() {
            if pids.contains_key(&task.entry.ppid) {
                children.entry(task.entry.ppid).or_default().push(index);
            } else {
                roots.push(index);
            }
        }
        let mut built = 0;
        let forest = roots.into_iter().map(|root| self.process(root, &mut children, 0, &mut built));
        let forest = forest.collect::<Option<Vec<_>>>();
        let path = || self.checkpoint.path(Kind::Pstree, None);
        match forest {
            None => {
                let what = format!("a process tree deeper than {MAX_DEPTH}");
                Err(ImageError::Invalid { path: path(), what })
            }
            Some(_) if built < self.tasks.len() || pids.len() < self.tasks.len() => {
                let what = "parents form a loop, or a pid comes twice".to_owned();
                Err(ImageError::Invalid { path: path(), what })
            }
            Some(forest) => Ok(Forest(forest)),
        }
    }

    /// `None` if it is too deep. The children are taken out, so that each is built once.
    fn process(
        &self,
        index: usize,
        children: &mut HashMap<u32, Vec<usize>>,
        depth: usize,
        built: &mut usize,
    ) -> Option<Process> {
        let task = self.tasks.get(index).filter(|_| depth < MAX_DEPTH)?;
        *built += 1;
        let below = children.remove(&task.entry.pid).unwrap_or_default();
        let below = below.into_iter().map(|child| self.process(child, children, depth + 1, built));
        Some(Process {
            pid: task.entry.pid,
            pgid: task.entry.pgid,
            sid: task.entry.sid,
            comm: task.comm().to_owned(),
            state: task.state(),
            threads: task.entry.threads.len(),
            children: below.collect::<Option<_>>()?,
        })
    }
}

impl fmt::Display for Forest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn put(process: &Process, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Process { pid, pgid, sid, comm, .. } = process;
            writeln!(f, "{pid:7}{pgid:7}{sid:7}   {:indent$}{comm}", "", indent = 4 * depth)?;
            process.children.iter().try_for_each(|child| put(child, depth + 1, f))
        }
        writeln!(f, "{:>7}{:>7}{:>7}   COMM", "PID", "PGID", "SID")?;
        self.0.iter().try_for_each(|root| put(root, 0, f))
    }
}
