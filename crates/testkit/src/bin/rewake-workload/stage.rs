//! The course of a scenario: set up, say so, wait, check.

use std::{
    error::Error,
    fmt, fs,
    io::Write,
    path::{Path, PathBuf},
};

use crate::sys::signal;

/// How a scenario or a part of it went.
pub(crate) type Check = Result<(), Failure>;

/// Why the state is not what it should be.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Says which step an error belongs to.
pub(crate) trait At<T> {
    fn at(self, step: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> At<T> for Result<T, E> {
    fn at(self, step: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{step}: {}", error.into())))
    }
}

/// Fails the scenario unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::stage::Failure::new(format!($($reason)+)));
        }
    };
}
pub(crate) use ensure;

/// Fails the scenario unless something is still what it was.
macro_rules! ensure_eq {
    ($now:expr, $before:expr, $($what:tt)+) => {
        match (&$now, &$before) {
            (now, before) if *now == *before => {}
            (now, before) => {
                let what = format!($($what)+);
                return Err($crate::stage::Failure::new(format!("{what}: now {now:?}, should be {before:?}")));
            }
        }
    };
}
pub(crate) use ensure_eq;

/// Where a scenario meets the outside.
pub(crate) struct Stage {
    ready: PathBuf,
    result: PathBuf,
}

impl Stage {
    pub(crate) fn new(ready: PathBuf, result: PathBuf) -> Self {
        Self { ready, result }
    }

    /// A path beside the result, for files of the scenario.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.result.parent().unwrap_or(Path::new(".")).join(name)
    }

    /// Says that the state is set up, then waits to be told to check it.
    pub(crate) fn freeze(&self) -> Check {
        self.announce()?;
        signal::await_terminate().at("wait for SIGTERM")
    }

    /// The same, with a last step of the set-up after which the channel could not be opened any more.
    pub(crate) fn freeze_after(&self, last_step: impl FnOnce() -> Check) -> Check {
        let channel = self.channel()?;
        last_step()?;
        say_ready(channel)?;
        signal::await_terminate().at("wait for SIGTERM")
    }

    /// The same, but asleep in sigsuspend, a system call that must be restarted with the old mask in force.
    pub(crate) fn freeze_in_sigsuspend(&self) -> Check {
        signal::count_terminates().at("handle SIGTERM")?;
        self.announce()?;
        signal::suspend_until_terminate().at("wait for SIGTERM in sigsuspend")
    }

    /// Says that the state is set up. No descriptor of the channel is open afterwards.
    fn announce(&self) -> Check {
        say_ready(self.channel()?)
    }

    fn channel(&self) -> Result<fs::File, Failure> {
        fs::OpenOptions::new().write(true).open(&self.ready).at("open the ready channel")
    }

    /// Leaves the verdict; it appears whole or not at all.
    pub(crate) fn leave_result(&self, outcome: &Check) -> std::io::Result<()> {
        let mut staged = self.result.clone().into_os_string();
        staged.push(".tmp");
        let text = match outcome {
            Ok(()) => "PASS\n".to_owned(),
            Err(failure) => format!("FAIL {}\n", failure.0.replace('\n', " ")),
        };
        fs::write(&staged, text)?;
        fs::rename(&staged, &self.result)
    }
}

fn say_ready(mut channel: fs::File) -> Check {
    channel.write_all(b"ready\n").at("write to the ready channel")
}
