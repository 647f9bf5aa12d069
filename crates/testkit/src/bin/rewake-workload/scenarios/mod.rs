//! All scenarios, by the name of the kernel object kind they are about.

mod churn;
mod credentials;
mod events;
mod ghost;
mod locks;
mod memfd;
mod memory;
mod minimal;
mod pipe;
mod placement;
mod process;
mod regfile;
mod registers;
mod restart;
mod scheduling;
mod signal;
mod threads;
mod timer;

use crate::{
    Scenario,
    stage::{Check, Stage},
};

const fn any(name: &'static str, run: fn(&Stage) -> Check) -> Scenario {
    Scenario { name, needs_root: false, stopped: false, run }
}

/// Sets up what only root may.
const fn root(name: &'static str, run: fn(&Stage) -> Check) -> Scenario {
    Scenario { needs_root: true, ..any(name, run) }
}

/// Dumped while SIGSTOP has it stopped.
const fn stopped(name: &'static str, run: fn(&Stage) -> Check) -> Scenario {
    Scenario { stopped: true, ..any(name, run) }
}

/// The table: a new scenario is a module and a line here.
pub(crate) const ALL: &[Scenario] = &[
    any("churn", churn::churn),
    any("minimal", minimal::minimal),
    stopped("stopped", minimal::stopped),
    any("threads", threads::threads),
    any("registers", registers::registers),
    any("segment-bases", registers::segment_bases),
    any("rseq", registers::rseq),
    any("sigaction", signal::sigaction),
    any("sigmask", signal::sigmask),
    any("sigtrap", signal::sigtrap),
    any("pending", signal::pending),
    any("thread-pending", signal::thread_pending),
    any("pending-fault", signal::pending_fault),
    any("itimers", timer::itimers),
    any("posix-timers", timer::posix_timers),
    root("credentials", credentials::credentials),
    root("setuid", credentials::setuid),
    root("thread-credentials", credentials::thread_credentials),
    root("login", credentials::login),
    any("rlimits", process::rlimits),
    any("scheduling", scheduling::scheduling),
    root("real-time", scheduling::real_time),
    any("affinity", scheduling::affinity),
    any("slice", scheduling::slice),
    root("deadline", scheduling::deadline),
    any("memory-policy", placement::memory_policy),
    any("area-policy", placement::area_policy),
    root("lock-future", placement::lock_future),
    root("lock-future-on-fault", placement::lock_future_on_fault),
    any("attributes", process::attributes_of_task),
    any("personality", process::personality),
    any("extra", process::extra),
    any("membarrier", process::membarrier),
    root("root", process::root),
    any("anonymous", memory::anonymous),
    any("shared-anonymous", memory::shared_anonymous),
    any("file-private", memory::file_private),
    any("file-shared", memory::file_shared),
    any("stack", memory::stack),
    any("protection", memory::protection),
    any("guard", memory::guard),
    any("advice", memory::advice),
    any("wipe-on-fork", memory::wipe_on_fork),
    any("read-ahead", memory::read_ahead),
    any("droppable", memory::droppable),
    any("locked", memory::locked),
    any("locked-on-fault", memory::locked_on_fault),
    any("huge-pages", memory::huge_pages),
    any("no-huge-pages", memory::no_huge_pages),
    any("brk", memory::brk),
    any("sealed", memory::sealed),
    any("regfile", regfile::regfile),
    any("path-only", regfile::path_only),
    any("directory", regfile::directory),
    any("device", regfile::device),
    any("shared-open-file", regfile::shared_open_file),
    any("ghost", ghost::ghost),
    any("ghost-holes", ghost::ghost_holes),
    any("ghost-attributes", ghost::ghost_attributes),
    any("ghost-directory", ghost::ghost_directory),
    any("unnamed", ghost::unnamed),
    any("owner", regfile::owner),
    any("file-locks", locks::file_locks),
    any("pipe", pipe::pipe),
    any("pipe-packets", pipe::pipe_packets),
    any("fifo", pipe::fifo),
    any("eventfd", events::eventfd),
    any("eventfd-semaphore", events::eventfd_semaphore),
    any("eventfd-large", events::eventfd_large),
    any("eventpoll", events::eventpoll),
    any("timerfd", events::timerfd),
    any("signalfd", events::signalfd),
    any("memfd", memfd::memfd),
    any("memfd-program", memfd::memfd_program),
    any("restart-nanosleep", restart::restart_nanosleep),
    any("restart-clock-nanosleep", restart::restart_clock_nanosleep),
    any("restart-poll", restart::restart_poll),
    any("restart-ppoll", restart::restart_ppoll),
    any("restart-select", restart::restart_select),
    any("restart-futex", restart::restart_futex),
    any("restart-read", restart::restart_read),
    any("restart-write", restart::restart_write),
    any("restart-epoll", restart::restart_epoll),
    any("restart-timerfd", restart::restart_timerfd),
    any("restart-pause", restart::restart_pause),
];
