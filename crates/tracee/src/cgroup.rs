//! Control groups that are frozen: their tasks do not run, whoever asks.

use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::error::{Result, TraceeError};

/// That the process is not in a frozen group of the version 1 hierarchy, where not even a ptrace stop takes place.
pub(crate) fn check_stops(pid: Pid) -> Result<()> {
    let state = |group: &Path| std::fs::read_to_string(group.join("freezer.state"));
    check(pid, freezer_group, |group| state(group).is_ok_and(|state| state.trim_end() != "THAWED"))
}

/// That the process is not in a frozen group of the version 2 hierarchy: its threads stop, but do not run.
pub(crate) fn check_runs(pid: Pid) -> Result<()> {
    let events = |group: &Path| std::fs::read_to_string(group.join("cgroup.events"));
    check(pid, unified_groups, |group| {
        events(group).is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
    })
}

fn check<const N: usize>(
    pid: Pid,
    groups: impl FnOnce(&str) -> Option<[PathBuf; N]>,
    is_frozen: impl Fn(&Path) -> bool,
) -> Result<()> {
    // Without control groups, or without sight of them, there is nothing to check.
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return Ok(()) };
    match groups(&text).into_iter().flatten().find(|group| is_frozen(group)) {
        Some(cgroup) => Err(TraceeError::Frozen { pid, cgroup }),
        None => Ok(()),
    }
}

/// Where the group of the version 1 freezer usually is.
fn freezer_group(text: &str) -> Option<[PathBuf; 1]> {
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        fields.next()?.split(',').any(|controller| controller == "freezer").then(|| fields.next())?
    });
    Some([PathBuf::from(format!("/sys/fs/cgroup/freezer{}", path?))])
}

/// Where the group of version 2 usually is: alone, or beside those of version 1.
fn unified_groups(text: &str) -> Option<[PathBuf; 2]> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|root| PathBuf::from(format!("{root}{path}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_process() {
        let text = "9:name=systemd:/\n6:cpu,freezer:/a:b\n0::/user/x\n";
        assert_eq!(freezer_group(text), Some(["/sys/fs/cgroup/freezer/a:b".into()]));
        let unified = ["/sys/fs/cgroup/user/x", "/sys/fs/cgroup/unified/user/x"].map(PathBuf::from);
        assert_eq!(unified_groups(text), Some(unified));
        assert_eq!(freezer_group("0::/\n"), None);
        assert_eq!(unified_groups("6:freezer:/\n"), None);
    }
}
