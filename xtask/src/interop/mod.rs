//! `cargo xtask interop …`: working with CRIU as a peer.

mod case;
mod chains;
mod files;
mod known;
mod pages;
mod pki;
mod runs;
mod ways;

use std::{os::unix::process::CommandExt, path::Path};

use anyhow::{Context, Result, bail};

use crate::peer::{self, Peer};

/// What `interop` understands.
pub(crate) const USAGE: &str =
    "  interop run [SCENARIO…]       take the scenarios of the testkit from rewake to CRIU and back
  interop pages                 memory sent to a page server, with CRIU in each part
  interop files                 what both refuse and accept of changed files
  interop chains                memory in several generations, from rewake to CRIU and back
  interop setup [--mirror URI]  fetch and unpack the CRIU to test against
  interop criu [--] ARGS        run that criu
  interop crit [--] ARGS        run its image tool";

/// Carries out one `interop` task.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let (command, rest) = match args {
        ["setup"] => return peer::setup(None),
        ["setup", "--mirror", mirror] => return peer::setup(Some(mirror)),
        ["run"] => {
            let rewake = runs::build()?;
            let others = files::run(&rewake).and(pages::run(&rewake)).and(chains::run(&rewake));
            return runs::run(&[]).and(others);
        }
        ["run", names @ ..] => return runs::run(names),
        // How `run` starts itself inside a namespace.
        ["case", scenario, way, rewake, dir] => {
            let Some(way) = ways::Way::named(way) else { bail!("no way is called {way}") };
            return case::run(scenario, way, Path::new(rewake), Path::new(dir));
        }
        ["files"] => {
            Peer::open()?;
            return files::run(&runs::build()?);
        }
        ["pages"] => {
            Peer::open()?;
            return pages::run(&runs::build()?);
        }
        ["pages-case", route, scenario, rewake, dir] => {
            return pages::case(route, scenario, Path::new(rewake), Path::new(dir));
        }
        ["chains"] => {
            Peer::open()?;
            return chains::run(&runs::build()?);
        }
        ["chain-case", chain, scenario, rewake, dir] => {
            return chains::case(chain, scenario, Path::new(rewake), Path::new(dir));
        }
        ["files-case", dumper, rewake, dir] => return files::case(dumper, Path::new(rewake), Path::new(dir)),
        ["criu", rest @ ..] => (Peer::open()?.criu(), rest),
        ["crit", rest @ ..] => (Peer::open()?.crit(), rest),
        _ => bail!("usage: cargo xtask interop <task>\n\n{USAGE}"),
    };
    let mut command = command;
    // Returns only on failure: the peer takes this process' place, its exit status is ours.
    Err(command.args(rest.strip_prefix(&["--"]).unwrap_or(rest)).exec()).context("starting the peer")
}
