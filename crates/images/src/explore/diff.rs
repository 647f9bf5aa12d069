//! What changed between two checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::compare::{PageChanges, compare};
use super::explorer::{Explorer, Task};
use super::mems::{Mapping, MappingList};
use super::search::Space;
use super::sockets::{Socket, SocketList};
use crate::error::Result;
use crate::proto;

/// Both sides of something that changed; `None` where it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change<T> {
    /// In the first checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<T>,
    /// In the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<T>,
}

/// What changed between two checkpoints. Tasks are told apart by pid, descriptors by number, mappings by their first byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Tasks that changed, came or went.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskDiff>,
    /// Pages of shared objects that changed, by the object's number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub shared: BTreeMap<u64, PageChanges>,
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.shared.is_empty()
    }
}

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Kind of file.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its path, or what stands for it.
    pub path: String,
    /// Where the next read starts, for files that have such a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pos: Option<u64>,
    /// Flags of the descriptor.
    pub flags: u32,
}

/// What changed in a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskDiff {
    /// Process id.
    pub pid: u32,
    /// Name, state, parent, threads: as text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<&'static str, Change<String>>,
    /// Descriptors.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub descriptors: BTreeMap<u32, Change<Descriptor>>,
    /// Sockets, by descriptor.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sockets: BTreeMap<u32, Change<Socket>>,
    /// Mappings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mappings: Vec<Change<Mapping>>,
    /// Pages.
    #[serde(skip_serializing_if = "PageChanges::is_empty")]
    pub pages: PageChanges,
}

/// One side, with everything by its key.
struct Side<'e, 'c> {
    explorer: &'e Explorer<'c>,
    mappings: MappingList,
    sockets: SocketList,
}

impl<'e, 'c> Side<'e, 'c> {
    fn new(explorer: &'e Explorer<'c>) -> Result<Self> {
        Ok(Self { explorer, mappings: explorer.mems()?, sockets: explorer.sockets()? })
    }

    fn task(&self, pid: u32) -> Option<&'e Task> {
        self.explorer.tasks().iter().find(|task| task.entry.pid == pid)
    }

    fn facts(&self, pid: u32) -> BTreeMap<&'static str, String> {
        let Some(task) = self.task(pid) else { return BTreeMap::new() };
        let threads: Vec<String> = task.entry.threads.iter().map(u32::to_string).collect();
        BTreeMap::from([
            ("name", task.comm().to_owned()),
            ("state", format!("{:?}", task.state()).to_lowercase()),
            ("parent", task.entry.ppid.to_string()),
            ("group", task.entry.pgid.to_string()),
            ("session", task.entry.sid.to_string()),
            ("threads", threads.join(" ")),
        ])
    }

    fn descriptors(&self, pid: u32) -> Result<BTreeMap<u32, Descriptor>> {
        let Some(task) = self.task(pid) else { return Ok(BTreeMap::new()) };
        let files = self.explorer.files();
        let descriptor = |entry: proto::FdinfoEntry| {
            let reg = files.get(entry.id).and_then(|file| file.reg.as_ref());
            let descriptor = Descriptor {
                kind: super::names::file_type(entry.r#type).into_owned(),
                path: files.describe(entry.r#type, entry.id),
                // Files that cannot seek say so with all bits.
                pos: reg.map(|reg| reg.pos).filter(|pos| *pos != u64::MAX),
                flags: entry.flags,
            };
            (entry.fd, descriptor)
        };
        Ok(self.explorer.descriptors(task)?.into_iter().map(descriptor).collect())
    }

    fn sockets(&self, pid: u32) -> BTreeMap<u32, Socket> {
        let task = self.sockets.0.iter().find(|task| task.pid == pid);
        task.into_iter().flat_map(|task| &task.sockets).map(|socket| (socket.fd, socket.clone())).collect()
    }

    fn mappings(&self, pid: u32) -> BTreeMap<u64, Mapping> {
        let task = self.mappings.0.iter().find(|task| task.pid == pid);
        task.into_iter().flat_map(|task| &task.mems).map(|mapping| (mapping.start, mapping.clone())).collect()
    }
}

fn changes<K: Ord + Clone, V: PartialEq>(
    mut a: BTreeMap<K, V>,
    mut b: BTreeMap<K, V>,
) -> BTreeMap<K, Change<V>> {
    let keys: BTreeSet<K> = a.keys().chain(b.keys()).cloned().collect();
    let changes = keys.into_iter().map(|key| {
        let change = Change { before: a.remove(&key), after: b.remove(&key) };
        (key, change)
    });
    changes.filter(|(_, change)| change.before != change.after).collect()
}

/// Compares two checkpoints.
///
/// # Errors
/// Any error of reading either.
pub fn diff(a: &Explorer<'_>, b: &Explorer<'_>) -> Result<Diff> {
    let (before, after) = (Side::new(a)?, Side::new(b)?);
    let pids =
        |explorer: &Explorer<'_>| explorer.tasks().iter().map(|task| task.entry.pid).collect::<Vec<_>>();
    let pids: BTreeSet<u32> = pids(a).into_iter().chain(pids(b)).collect();
    let spaces = (a.spaces()?, b.spaces()?);
    let pages = |space: Space| {
        let store = |explorer: &Explorer<'_>, spaces: &[Space]| {
            spaces.contains(&space).then(|| explorer.store(space)).transpose()
        };
        compare(store(a, &spaces.0)?.as_ref(), store(b, &spaces.1)?.as_ref())
    };
    let mut tasks = Vec::new();
    for pid in pids {
        let task = TaskDiff {
            pid,
            facts: changes(before.facts(pid), after.facts(pid)),
            descriptors: changes(before.descriptors(pid)?, after.descriptors(pid)?),
            sockets: changes(before.sockets(pid), after.sockets(pid)),
            mappings: changes(before.mappings(pid), after.mappings(pid)).into_values().collect(),
            pages: pages(Space::Pid(pid))?,
        };
        let TaskDiff { facts, descriptors, sockets, mappings, pages, .. } = &task;
        let same = facts.is_empty() && descriptors.is_empty() && sockets.is_empty() && mappings.is_empty();
        if !same || !pages.is_empty() {
            tasks.push(task);
        }
    }
    let mut shared = BTreeMap::new();
    for space in spaces.0.iter().chain(&spaces.1) {
        let Space::Shmid(shmid) = *space else { continue };
        let changes = pages(*space)?;
        if !changes.is_empty() {
            shared.insert(shmid, changes);
        }
    }
    Ok(Diff { tasks, shared })
}
