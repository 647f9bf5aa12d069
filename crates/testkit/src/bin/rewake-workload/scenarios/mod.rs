//! All scenarios, by the name of the kernel object kind they are about.

mod churn;
mod minimal;

mod threads;

use crate::{
    Scenario,
    stage::{Check, Stage},
};

const fn any(name: &'static str, run: fn(&Stage) -> Check) -> Scenario {
    Scenario { name, needs_root: false, stopped: false, run }
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
];
