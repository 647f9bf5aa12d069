//! Namespaces, control groups and filters that tasks refer to.

use std::collections::BTreeSet;

use super::finding::Report;
use super::tree::Task;
use crate::kind::Kind;
use crate::{Checkpoint, proto};

pub(super) fn check(checkpoint: &Checkpoint, tasks: &[Task], report: &mut Report) {
    let hosts = checkpoint.inventory().root_ids.unwrap_or_default();
    let mut told = BTreeSet::new();
    for task in tasks {
        let Some(ids) = &task.ids else { continue };
        let image = Kind::Ids.file_name(Some(task.pid));
        let namespaces = [
            ("mnt_ns_id", Kind::Mountpoints, ids.mnt_ns_id, hosts.mnt_ns_id),
            ("net_ns_id", Kind::Netns, ids.net_ns_id, hosts.net_ns_id),
            ("uts_ns_id", Kind::Utsns, ids.uts_ns_id, hosts.uts_ns_id),
            ("ipc_ns_id", Kind::IpcnsVar, ids.ipc_ns_id, hosts.ipc_ns_id),
            ("user_ns_id", Kind::Userns, ids.user_ns_id, hosts.user_ns_id),
            ("time_ns_id", Kind::Timens, ids.time_ns_id, hosts.time_ns_id),
        ];
        for (field, kind, id, host) in namespaces {
            // Without the host's ids nobody can tell whose a namespace is.
            let (Some(id), Some(host)) = (id, host) else { continue };
            if id != host && !checkpoint.exists(kind, Some(id.into())) && told.insert((kind, id)) {
                report.dangling(&image, 0, field, kind.file_name(Some(id.into())));
            }
        }
    }
    control_groups(checkpoint, tasks, report);
    filters(checkpoint, tasks, report);
}

fn control_groups(checkpoint: &Checkpoint, tasks: &[Task], report: &mut Report) {
    let Ok(Some(cgroup)) = checkpoint.read_opt::<proto::CgroupEntry>(Kind::Cgroup, None) else { return };
    let sets: BTreeSet<u32> = cgroup.sets.iter().map(|set| set.id).collect();
    let mut check = |image: String, field, set: Option<u32>| {
        if let Some(set) = set.filter(|set| !sets.contains(set)) {
            report.dangling(image, 0, field, format!("control group set {set}"));
        }
    };
    for (tid, core) in tasks.iter().flat_map(|task| &task.cores) {
        let image = Kind::Core.file_name(Some(*tid));
        check(image, "tc.cg_set", core.tc.as_ref().and_then(|tc| tc.cg_set));
    }
}

fn filters(checkpoint: &Checkpoint, tasks: &[Task], report: &mut Report) {
    let entry = checkpoint.read_opt::<proto::SeccompEntry>(Kind::Seccomp, None);
    let Ok(filters) = entry.map(|entry| entry.map(|entry| entry.seccomp_filters).unwrap_or_default()) else {
        return;
    };
    let image = Kind::Seccomp.file_name(None);
    for (index, filter) in (0_u32..).zip(&filters) {
        // A filter is older than those on top of it, so no chain is a loop.
        if let Some(prev) = filter.prev.filter(|prev| *prev >= index) {
            let what = format!("filter {index} stands on filter {prev}, which is no older");
            report.contradiction(&image, 0, what);
        }
    }
    for (tid, core) in tasks.iter().flat_map(|task| &task.cores) {
        let last = core.thread_core.as_ref().and_then(|thread| thread.seccomp_filter);
        if let Some(last) = last.filter(|last| usize::try_from(*last).is_ok_and(|last| last >= filters.len()))
        {
            let wanted = format!("filter {last}");
            report.dangling(Kind::Core.file_name(Some(*tid)), 0, "thread_core.seccomp_filter", wanted);
        }
    }
}
