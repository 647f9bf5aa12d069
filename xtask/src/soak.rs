//! `cargo xtask soak SECONDS`: memory copied in rounds from a program that never stands still, for as long as you like.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What `soak` understands.
pub(crate) const USAGE: &str =
    "  soak SECONDS                  pre-dumps, dumps and restores of a churning process; needs root";

/// Runs the soak test for so many seconds.
pub(crate) fn run(seconds: &str) -> Result<()> {
    let seconds: u64 = seconds.parse().context("the length of a soak is a number of seconds")?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "-p", "rewake-restore", "--test", "it", "--", "--exact", "chain::soak", "--nocapture"])
        .env("REWAKE_SOAK_SECONDS", seconds.to_string())
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("the soak failed: {status}");
    }
    Ok(())
}
