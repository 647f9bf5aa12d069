//! Processes in frozen control groups: a remote call would wait for somebody to thaw them.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use rewake_tracee::{ThreadGroup, TraceeError};

use crate::process::Task;

/// A control group of our own, with a process in it.
struct Group(PathBuf);

impl Group {
    fn with(root: &str, task: &Task) -> Option<Self> {
        let group = Self(PathBuf::from(format!("{root}/rewake-test-{}", task.pid())));
        std::fs::create_dir(&group.0).ok()?;
        let entered = std::fs::write(group.0.join("cgroup.procs"), task.pid().to_string());
        if entered.is_err() {
            group.remove();
        }
        entered.is_ok().then_some(group)
    }

    fn set(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).unwrap();
    }

    fn wait_for(&self, file: &str, text: &str) {
        while !std::fs::read_to_string(self.0.join(file)).unwrap().contains(text) {
            std::thread::yield_now();
        }
    }

    /// It must be empty.
    fn remove(&self) {
        while std::fs::remove_dir(&self.0).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn in_the_unified_hierarchy() {
    let mut task = Task::spawn("sleep", &["1000"]);
    let group = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .filter(|root| std::fs::exists(format!("{root}/cgroup.controllers")).unwrap())
        .find_map(|root| Group::with(root, &task));
    let Some(cgroup) = group else {
        println!("skipped: no control group of version 2 can be made here");
        return;
    };
    cgroup.set("cgroup.freeze", "1");
    cgroup.wait_for("cgroup.events", "frozen 1");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let error = group.remote().unwrap_err();
    cgroup.set("cgroup.freeze", "0");
    assert!(matches!(&error, TraceeError::Frozen { cgroup: at, .. } if *at == cgroup.0), "{error}");
    cgroup.wait_for("cgroup.events", "frozen 0");
    group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap();
    drop(group);
    task.signal(Signal::SIGKILL);
    task.wait();
    cgroup.remove();
}

#[test]
fn in_the_old_hierarchy() {
    let mut task = Task::spawn("sleep", &["1000"]);
    let Some(cgroup) = Group::with("/sys/fs/cgroup/freezer", &task) else {
        println!("skipped: no control group of the version 1 freezer can be made here");
        return;
    };
    cgroup.set("freezer.state", "FROZEN");
    cgroup.wait_for("freezer.state", "FROZEN");
    let error = ThreadGroup::seize(task.pid()).unwrap_err();
    cgroup.set("freezer.state", "THAWED");
    assert!(matches!(&error, TraceeError::Frozen { cgroup: at, .. } if *at == cgroup.0), "{error}");
    task.signal(Signal::SIGKILL);
    task.wait();
    cgroup.remove();
}
