//! One CPU for coordinator and tracee: a round trip between two CPUs that go idle costs four times as much.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread bound to the CPU a tracee last ran on, until dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    before: Option<CpuSet>,
}

impl Pin {
    /// Binds the calling thread, if the kernel lets it; it is only about speed.
    pub(crate) fn to_cpu_of(tid: Pid) -> Self {
        let me = Pid::from_raw(0);
        let bind = || {
            let before = sched_getaffinity(me).ok()?;
            let cpu = last_cpu(tid)?;
            if !before.is_set(cpu).ok()? {
                return None;
            }
            let mut only = CpuSet::new();
            only.set(cpu).ok()?;
            sched_setaffinity(me, &only).ok()?;
            Some(before)
        };
        Self { before: bind() }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = sched_setaffinity(Pid::from_raw(0), before);
        }
    }
}

/// Field 39 of /proc/PID/stat. proc_pid_stat(5).
fn last_cpu(tid: Pid) -> Option<usize> {
    const AFTER_COMM: usize = 39 - 3;
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(AFTER_COMM)?.parse().ok()
}
