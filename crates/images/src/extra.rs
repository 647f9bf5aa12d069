//! What a task has that CRIU's format has no place for: an image of our own beside the others, which CRIU ignores.
//!
//! `rewake-task-PID.img` is framed like any image. A checkpoint without it (one that CRIU made) is complete all the same;
//! the task then gets what the kernel gives by default.

use prost::{Message, Name};

/// State of a task beyond `core`, `mm` and `fs`.
#[derive(Clone, PartialEq, Message)]
pub struct TaskExtra {
    /// prctl(PR_SET_TIMERSLACK) of the first thread, in nanoseconds.
    #[prost(uint64, optional, tag = "1")]
    pub timer_slack_ns: Option<u64>,
    /// `/proc/PID/coredump_filter`.
    #[prost(uint32, optional, tag = "2")]
    pub coredump_filter: Option<u32>,
    /// What is particular to its threads.
    #[prost(message, repeated, tag = "3")]
    pub threads: Vec<ThreadExtra>,
    /// What is particular to its mappings.
    #[prost(message, repeated, tag = "4")]
    pub areas: Vec<AreaExtra>,
    /// Settings of the address space that are not the default: PR_SET_MDWE, PR_SET_MEMORY_MERGE.
    #[prost(message, repeated, tag = "5")]
    pub options: Vec<OptionExtra>,
    /// What it maps from now on is locked: MCL_FUTURE and MCL_ONFAULT of mlockall(2), 0 for neither.
    #[prost(uint32, tag = "6")]
    pub lock_future: u32,
    /// What is particular to its deleted files.
    #[prost(message, repeated, tag = "7")]
    pub ghosts: Vec<GhostExtra>,
}

/// State of a deleted file that is open.
#[derive(Clone, PartialEq, Message)]
pub struct GhostExtra {
    /// Number of its image.
    #[prost(uint32, tag = "1")]
    pub remap_id: u32,
    /// Its extended attributes, xattr(7), but those that the system gives every file.
    #[prost(message, repeated, tag = "2")]
    pub attributes: Vec<AttributeExtra>,
}

/// An extended attribute of a file. xattr(7).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AttributeExtra {
    /// Its name, with the prefix.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// Its value.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// A setting of prctl(2).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct OptionExtra {
    /// The number of the option that sets it.
    #[prost(uint32, tag = "1")]
    pub option: u32,
    /// The value to set.
    #[prost(uint64, tag = "2")]
    pub value: u64,
}

/// State of a thread.
#[derive(Clone, PartialEq, Message)]
pub struct ThreadExtra {
    /// The thread.
    #[prost(uint32, tag = "1")]
    pub tid: u32,
    /// CPUs it may run on, one bit each, lowest first; absent if it may run on all.
    #[prost(uint64, repeated, tag = "2")]
    pub affinity: Vec<u64>,
    /// ioprio_get(2), 0 for none.
    #[prost(uint32, tag = "3")]
    pub io_priority: u32,
    /// Children go back to ordinary scheduling: SCHED_FLAG_RESET_ON_FORK.
    #[prost(bool, tag = "4")]
    pub reset_on_fork: bool,
    /// Settings that are not the default, or for the timer slack, not that of the first thread: PR_SET_TIMERSLACK,
    /// PR_SET_TSC, PR_SET_IO_FLUSHER, PR_MCE_KILL.
    #[prost(message, repeated, tag = "5")]
    pub options: Vec<OptionExtra>,
    /// Where its memory comes from, if that was set.
    #[prost(message, optional, tag = "6")]
    pub memory_policy: Option<PolicyExtra>,
    /// It was interrupted in a system call, which its registers stand right before: the kernel's code for how that goes on, 512
    /// (ERESTARTSYS) to 516, of include/linux/errno.h. It says what a signal does that comes before the call is made again.
    #[prost(uint32, optional, tag = "7")]
    pub interrupted: Option<u32>,
    /// Times of its scheduling policy, if it has any of its own.
    #[prost(message, optional, tag = "8")]
    pub sched_times: Option<SchedTimesExtra>,
}

/// Times of a scheduling policy in nanoseconds. sched_setattr(2).
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SchedTimesExtra {
    /// What it may run in a period; of policies without deadline, the slice it asks for.
    #[prost(uint64, tag = "1")]
    pub runtime: u64,
    /// By when it has to have run, from the beginning of a period.
    #[prost(uint64, tag = "2")]
    pub deadline: u64,
    /// Length of a period.
    #[prost(uint64, tag = "3")]
    pub period: u64,
    /// SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN.
    #[prost(uint64, tag = "4")]
    pub flags: u64,
}

/// Which nodes memory comes from. set_mempolicy(2), mbind(2).
#[derive(Clone, PartialEq, Message)]
pub struct PolicyExtra {
    /// MPOL_* with its flags.
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// The nodes, one bit each, lowest first.
    #[prost(uint64, repeated, tag = "2")]
    pub nodes: Vec<u64>,
}

/// State of a mapping.
#[derive(Clone, PartialEq, Message)]
pub struct AreaExtra {
    /// First address.
    #[prost(uint64, tag = "1")]
    pub start: u64,
    /// First address behind it.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// Guard pages inside it (MADV_GUARD_INSTALL): pairs of first address and first address behind.
    #[prost(uint64, repeated, tag = "3")]
    pub guards: Vec<u64>,
    /// Pages are locked as they are faulted in: MLOCK_ONFAULT.
    #[prost(bool, tag = "4")]
    pub lock_on_fault: bool,
    /// Sealed: mseal(2).
    #[prost(bool, tag = "5")]
    pub sealed: bool,
    // 6 was how to read ahead, which `vma_entry.madv` tells.
    /// Name given with prctl(PR_SET_VMA_ANON_NAME), empty for none.
    #[prost(bytes = "vec", tag = "7")]
    pub name: Vec<u8>,
    /// Which nodes it comes from, if that was set: mbind(2).
    #[prost(message, optional, tag = "8")]
    pub memory_policy: Option<PolicyExtra>,
}

impl Name for TaskExtra {
    const NAME: &'static str = "rewake_task_entry";
    const PACKAGE: &'static str = "";
}

impl TaskExtra {
    /// What there is to say of the mapping from `start` to `end`.
    pub fn area_mut(&mut self, start: u64, end: u64) -> &mut AreaExtra {
        let known = self.areas.iter().position(|area| area.start == start);
        let at = known.unwrap_or_else(|| {
            self.areas.push(AreaExtra { start, end, ..Default::default() });
            self.areas.len() - 1
        });
        self.areas.get_mut(at).expect("found or made above")
    }
}

impl AreaExtra {
    /// Whether it says anything.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let Self { start, end, .. } = *self;
        *self == Self { start, end, ..Self::default() }
    }
}
