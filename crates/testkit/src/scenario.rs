//! One thing the workload program can be, and how to ask it afterwards.

use std::{path::Path, time::Duration};

use nix::sys::signal::Signal;

use crate::{TestkitError, Workload};

/// How long a workload may take to check its state. Only a hang is ever that slow.
const PROOF_LIMIT: Duration = Duration::from_secs(60);

/// One thing the workload program can be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scenario {
    /// Its name: that of the kernel object kind it sets up.
    pub name: String,
    /// Its set-up is only allowed to root.
    pub needs_root: bool,
    /// It is to be stopped by SIGSTOP while it is dumped, and must come back stopped.
    pub stopped: bool,
}

impl Scenario {
    /// Starts it in `dir` and waits until its state is set up: from here on it can be dumped.
    ///
    /// # Errors
    /// When it cannot be started, or not be stopped.
    pub fn start(&self, dir: impl AsRef<Path>) -> Result<Workload, TestkitError> {
        let workload = Workload::spawn(&self.name, dir)?;
        if self.stopped {
            workload.signal(Signal::SIGSTOP)?;
            workload.wait_stopped()?;
        }
        Ok(workload)
    }

    /// Asks what became of its state: `PASS`, or `FAIL` and the reason.
    ///
    /// # Errors
    /// When it is gone, does not answer, or died without an answer.
    pub fn verdict(&self, workload: &Workload) -> Result<String, TestkitError> {
        if self.stopped {
            workload.wait_stopped()?;
            workload.signal(Signal::SIGCONT)?;
        }
        workload.trigger()?;
        workload.wait_result(PROOF_LIMIT)
    }
}
