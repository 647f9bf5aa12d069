//! All scenarios, by the name of the kernel object kind they are about.

mod minimal;

mod threads;

use crate::Scenario;

const fn any(name: &'static str, run: fn(&crate::stage::Stage) -> crate::stage::Check) -> Scenario {
    Scenario { name, needs_root: false, run }
}

/// The table: a new scenario is a module and a line here.
pub(crate) const ALL: &[Scenario] =
    &[any("minimal", minimal::minimal), any("stopped", minimal::stopped), any("threads", threads::threads)];
