//! `cargo xtask interop …`: working with CRIU as a peer.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};

use crate::peer::{self, Peer};

/// What `interop` understands.
pub(crate) const USAGE: &str = "  interop setup [--mirror URI]  fetch and unpack the CRIU to test against
  interop criu [--] ARGS        run that criu
  interop crit [--] ARGS        run its image tool";

/// Carries out one `interop` task.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let (command, rest) = match args {
        ["setup"] => return peer::setup(None),
        ["setup", "--mirror", mirror] => return peer::setup(Some(mirror)),
        ["criu", rest @ ..] => (Peer::open()?.criu(), rest),
        ["crit", rest @ ..] => (Peer::open()?.crit(), rest),
        _ => bail!("usage: cargo xtask interop <task>\n\n{USAGE}"),
    };
    let mut command = command;
    // Returns only on failure: the peer takes this process' place, its exit status is ours.
    Err(command.args(rest.strip_prefix(&["--"]).unwrap_or(rest)).exec()).context("starting the peer")
}
