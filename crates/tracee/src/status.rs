//! The lines of /proc/PID/status that decide how a process can be seized.

use nix::unistd::Pid;

use crate::error::{Result, TraceeError};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ProcStatus {
    pub(crate) zombie: bool,
    pub(crate) kernel_thread: bool,
    pub(crate) tracer: Option<Pid>,
    pub(crate) parent: Option<Pid>,
    /// The process that this is a thread of.
    pub(crate) process: Option<Pid>,
    /// 0, 1 for strict mode, 2 for filters.
    pub(crate) seccomp: u32,
    pub(crate) seccomp_filters: u32,
    pub(crate) sigtrap_ignored: bool,
    /// How many threads it has.
    pub(crate) threads: usize,
}

impl ProcStatus {
    pub(crate) fn read(pid: Pid) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"));
        Ok(Self::parse(&text.map_err(TraceeError::proc(pid, "read", "status"))?))
    }

    pub(crate) fn of_thread(pid: Pid, tid: Pid) -> Result<Self> {
        let file = format!("task/{tid}/status");
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"));
        Ok(Self::parse(&text.map_err(TraceeError::proc(pid, "read", file))?))
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let zombie = field("State").is_some_and(|s| s.starts_with(['Z', 'X']));
        let ignored = field("SigIgn").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
        let pid = |name| field(name).and_then(|t| t.parse().ok()).filter(|&t| t != 0).map(Pid::from_raw);
        let number = |name| field(name).and_then(|t| t.parse().ok()).unwrap_or(0);
        Self {
            zombie,
            // Only processes have memory; a zombie has none any more.
            kernel_thread: !zombie && field("VmSize").is_none(),
            tracer: pid("TracerPid"),
            parent: pid("PPid"),
            process: pid("Tgid"),
            seccomp: number("Seccomp"),
            seccomp_filters: number("Seccomp_filters"),
            sigtrap_ignored: ignored >> (libc::SIGTRAP - 1) & 1 == 1,
            threads: field("Threads").and_then(|t| t.parse().ok()).unwrap_or(0),
        }
    }
}

/// The threads of `pid`, as /proc lists them now.
pub(crate) fn threads(pid: Pid) -> Result<Vec<Pid>> {
    let failed = || TraceeError::proc(pid, "list", "task");
    let mut tids = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            tids.push(Pid::from_raw(tid));
        }
    }
    Ok(tids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_matter() {
        let text = "Name:\tState: x\nState:\tT (stopped)\nTracerPid:\t7\nVmSize:\t 10 kB\nSigIgn:\t0000000000000010\nSeccomp:\t2\nThreads:\t3\n";
        let status = ProcStatus::parse(text);
        assert_eq!(status.tracer, Some(Pid::from_raw(7)));
        assert!(
            status.threads == 3
                && status.seccomp == 2
                && status.sigtrap_ignored
                && !status.zombie
                && !status.kernel_thread
        );
        assert!(ProcStatus::parse("State:\tS (sleeping)\n").kernel_thread);
        assert!(ProcStatus::parse("State:\tZ (zombie)\n").zombie);
    }
}
