//! The process tree, and that every task and thread has its images.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Report;
use crate::kind::Kind;
use crate::{Checkpoint, proto};

/// `task_core_entry.task_state` of a zombie, which has no images but its core.
const DEAD: u32 = 2;

/// A task, with what the other checks want of it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) pid: u64,
    pub(super) dead: bool,
    pub(super) ids: Option<proto::TaskKobjIdsEntry>,
    pub(super) mm: Option<proto::MmEntry>,
    pub(super) cores: Vec<(u64, proto::CoreEntry)>,
}

pub(super) fn check(checkpoint: &Checkpoint, report: &mut Report) -> Vec<Task> {
    if !checkpoint.exists(Kind::Pstree, None) {
        report.missing(Kind::Pstree, None);
        return Vec::new();
    }
    let tasks = match checkpoint.tasks() {
        Ok(tasks) => tasks,
        Err(error) => {
            report.error(&error);
            return Vec::new();
        }
    };
    let image = Kind::Pstree.file_name(None);
    let mut pids = BTreeSet::new();
    let mut threads = BTreeSet::new();
    for (index, task) in (0..).zip(&tasks) {
        if index > 0 && !pids.contains(&task.ppid) {
            report.dangling(&image, index, "ppid", format!("task {}", task.ppid));
        }
        if !pids.insert(task.pid) {
            report.add(&image, Some(index), super::Problem::Duplicate { what: format!("task {}", task.pid) });
        }
        // CRIU does not fill in the threads of a zombie: what is there is chance.
        if is_dead(checkpoint, task) {
            continue;
        }
        if !task.threads.contains(&task.pid) {
            report.contradiction(&image, index, format!("task {} is not among its threads", task.pid));
        }
        for tid in &task.threads {
            if !threads.insert(*tid) {
                report.add(&image, Some(index), super::Problem::Duplicate { what: format!("thread {tid}") });
            }
        }
    }
    let mut vms = BTreeMap::new();
    tasks.iter().map(|task| images_of(checkpoint, task, &mut vms, report)).collect()
}

fn is_dead(checkpoint: &Checkpoint, task: &proto::PstreeEntry) -> bool {
    let core = checkpoint.core(task.pid.into()).ok();
    core.and_then(|core| core.tc).is_some_and(|tc| tc.task_state == DEAD)
}

/// What is wrong with single images has been told, so those that do not read are passed over.
fn images_of(
    checkpoint: &Checkpoint,
    task: &proto::PstreeEntry,
    vms: &mut BTreeMap<u32, u64>,
    report: &mut Report,
) -> Task {
    let pid = u64::from(task.pid);
    let mut cores = Vec::new();
    let dead = is_dead(checkpoint, task);
    let tids = if dead { std::slice::from_ref(&task.pid) } else { task.threads.as_slice() };
    for tid in tids.iter().map(|tid| u64::from(*tid)) {
        if !checkpoint.exists(Kind::Core, Some(tid)) {
            report.missing(Kind::Core, Some(tid));
            continue;
        }
        let Ok(core) = checkpoint.core(tid) else { continue };
        let leader = tid == pid;
        let image = Kind::Core.file_name(Some(tid));
        if leader && core.tc.is_none() {
            report.contradiction(&image, 0, "the core of a task has no tc");
        }
        if !dead && core.thread_core.is_none() {
            report.contradiction(&image, 0, "the core of a thread has no thread_core");
        }
        if !dead && !has_registers(&core) {
            report.contradiction(&image, 0, "there are no registers of the architecture it names");
        }
        cores.push((tid, core));
    }
    let mut ids = None;
    let mut mm = None;
    if !dead {
        let in_core = || cores.iter().find(|(tid, _)| *tid == pid).and_then(|(_, core)| core.ids);
        ids = checkpoint.read_opt(Kind::Ids, Some(pid)).ok().flatten().or_else(in_core);
        if ids.is_none() && !checkpoint.exists(Kind::Ids, Some(pid)) {
            report.missing(Kind::Ids, Some(pid));
        }
        mm = checkpoint.read_opt(Kind::Mm, Some(pid)).ok().flatten();
        // Tasks that share an address space have one pagemap.
        let owner = ids.as_ref().map_or(pid, |ids| *vms.entry(ids.vm_id).or_insert(pid));
        for (kind, wanted) in [(Kind::Mm, true), (Kind::Fs, true), (Kind::Pagemap, owner == pid)] {
            if wanted && !checkpoint.exists(kind, Some(pid)) {
                report.missing(kind, Some(pid));
            }
        }
    }
    Task { pid, dead, ids, mm, cores }
}

fn has_registers(core: &proto::CoreEntry) -> bool {
    use proto::core_entry::March;
    match March::try_from(core.mtype) {
        Ok(March::X8664) => core.thread_info.is_some(),
        Ok(March::Arm) => core.ti_arm.is_some(),
        Ok(March::Aarch64) => core.ti_aarch64.is_some(),
        Ok(March::Ppc64) => core.ti_ppc64.is_some(),
        Ok(March::S390) => core.ti_s390.is_some(),
        Ok(March::Mips) => core.ti_mips.is_some(),
        Ok(March::Loongarch64) => core.ti_loongarch64.is_some(),
        Ok(March::Riscv64) => core.ti_riscv64.is_some(),
        // Told as an unknown value already.
        Ok(March::Unknown) | Err(_) => true,
    }
}
