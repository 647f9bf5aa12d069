//! `rewake dump --every`: checkpoints again and again.

use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rewake_dump::{DumpOptions, Ended, Periodic, dump_periodically};

use crate::target::{TargetArgs, memory_line};

#[derive(Debug, clap::Args)]
pub(crate) struct EveryArgs {
    /// Make a checkpoint every so many seconds, in directories 1, 2 and so on, until the process ends (exit status 1) or
    /// SIGTERM or SIGINT comes (exit status 0). Each holds what changed since the one before; `latest` leads to the youngest
    #[arg(long, value_name = "SECONDS", requires = "leave_running", value_parser = seconds)]
    #[arg(conflicts_with_all = ["pre_dumps", "prev_images_dir", "page_server"])]
    every: Option<Duration>,
    /// With --every: how many checkpoints are kept; what they need of older ones stays as well
    #[arg(long, value_name = "N", default_value = "2", requires = "every")]
    keep: NonZeroUsize,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl EveryArgs {
    /// Makes checkpoints until there is an end, if that is asked for.
    pub(crate) fn run(
        &self,
        target: &TargetArgs,
        options: &DumpOptions,
        out: &mut impl Write,
    ) -> anyhow::Result<Option<u8>> {
        let Some(every) = self.every else { return Ok(None) };
        let mut options = options.clone();
        options.snapshot = true;
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        // Before any thread is started: all of them inherit it.
        signals.thread_block().context("blocking signals")?;
        let end = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("listening for signals")?;
        let periodic = Periodic { every, keep: self.keep };
        let ended = dump_periodically(&options, periodic, end.as_fd(), |dir, report| {
            let line = if target.json {
                serde_json::json!({ "dir": dir, "report": report }).to_string()
            } else {
                format!("{}: {}", dir.display(), memory_line(report))
            };
            // Checkpoints go on being made although nobody listens.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        })?;
        Ok(Some(match ended {
            Ended::Asked => crate::DONE,
            Ended::Process => {
                tracing::info!("the process has ended");
                crate::ENDED
            }
        }))
    }
}
