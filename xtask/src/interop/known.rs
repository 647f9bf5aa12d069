//! What is known not to work, and why: each a fact about the peer or about this machine, none about rewake.

use super::ways::Way::{self, FromPeer, ToPeer};

/// A scenario that one way cannot take.
struct Known {
    scenario: &'static str,
    way: Way,
    /// The fact behind it.
    reason: &'static str,
}

const fn to(scenario: &'static str, reason: &'static str) -> Known {
    Known { scenario, way: ToPeer, reason }
}

const fn from(scenario: &'static str, reason: &'static str) -> Known {
    Known { scenario, way: FromPeer, reason }
}

const NO_PLACE: &str = "the image format has no place for it; rewake keeps it in an image of its own";
const TRAP: &str = "CRIU stops the task by a trap, which resets an ignored SIGTRAP to its default";
const FAULT: &str = "the waiting fault is delivered instead of the trap that CRIU waits for";
const EINTR: &str = "CRIU writes that the call ends with EINTR (it says so in its log)";
const LIMITS: &str = "without CAP_SYS_RESOURCE CRIU cannot read the limits of a process with other ids";

/// The table. A case in it still runs: its failure is told with this reason, and its success counts.
const KNOWN: &[Known] = &[
    to("sigtrap", TRAP),
    from("sigtrap", TRAP),
    to("pending-fault", FAULT),
    from("pending-fault", FAULT),
    from("credentials", LIMITS),
    from("setuid", LIMITS),
    to("affinity", NO_PLACE),
    from("affinity", NO_PLACE),
    to("memory-policy", NO_PLACE),
    from("memory-policy", NO_PLACE),
    to("area-policy", NO_PLACE),
    from("area-policy", NO_PLACE),
    to("lock-future", NO_PLACE),
    from("lock-future", NO_PLACE),
    to("lock-future-on-fault", NO_PLACE),
    from("lock-future-on-fault", NO_PLACE),
    to("slice", NO_PLACE),
    from("slice", NO_PLACE),
    to("deadline", NO_PLACE),
    from("deadline", NO_PLACE),
    to("ghost-attributes", NO_PLACE),
    from("ghost-attributes", NO_PLACE),
    to(
        "ghost-directory",
        "CRIU leaves behind what it makes of a directory that is gone (also of its own checkpoints)",
    ),
    to(
        "unnamed",
        "CRIU gives a file of O_TMPFILE a name and takes it away again, after which it can get none",
    ),
    to("personality", "CRIU leaves what it restores with personality 0"),
    from("personality", "CRIU reads the hexadecimal number in /proc/PID/personality as a decimal one"),
    to("extra", NO_PLACE),
    from("extra", NO_PLACE),
    to("guard", NO_PLACE),
    from("guard", "CRIU copies whole areas through a pipe in the task, which guard pages make fail"),
    from("wipe-on-fork", "CRIU does not look for this flag when it dumps"),
    from("droppable", "CRIU does not look for this flag when it dumps"),
    to("locked-on-fault", NO_PLACE),
    from("locked-on-fault", NO_PLACE),
    to("sealed", NO_PLACE),
    from("sealed", NO_PLACE),
    from("pipe-packets", "CRIU refuses pipes in packet mode"),
    to("eventfd-semaphore", "CRIU makes every eventfd one that is no semaphore"),
    from("eventfd-semaphore", "CRIU does not see at a dump that an eventfd is a semaphore"),
    to("eventfd-large", "CRIU passes the counter to eventfd(2), which takes 32 bits"),
    from("restart-nanosleep", EINTR),
    from("restart-poll", EINTR),
    from("restart-futex", EINTR),
];

/// The reason why the case may fail.
pub(crate) fn reason(scenario: &str, way: Way) -> Option<&'static str> {
    KNOWN.iter().find(|known| known.scenario == scenario && known.way == way).map(|known| known.reason)
}

/// The reason why a chain may fail.
pub(crate) fn chain(by_peer: bool) -> Option<&'static str> {
    by_peer.then_some("CRIU makes chains by soft-dirty tracking only, which the kernel may lack, as here")
}
