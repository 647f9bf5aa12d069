//! `cargo xtask bench`: rewake beside CRIU, on the same processes, in one run.

mod case;
mod crit;
mod files;
mod measure;
mod memory;
mod report;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::codegen;
use crate::peer::Peer;

/// What `bench` understands.
pub(crate) const USAGE: &str =
    "  bench [--rounds N] [--dir DIR] [CASE…]  dump and restore times beside CRIU's; DIR on tmpfs by default
  bench crit                    the image tool's times beside those of CRIU's
  bench memory [rounds|capture|sizes]  memory copied while a process runs
  bench files                   build-ids of 200 libraries over their sizes";

/// Set for the second run, inside a pid namespace.
const INSIDE: &str = "--inside";

/// How the bench is asked to run.
#[derive(Debug)]
struct Options {
    rounds: usize,
    dir: PathBuf,
    cases: Vec<String>,
}

/// Runs the benches.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    if let ["measure", program @ ..] = args {
        return measure::child(program);
    }
    if args == ["crit"] {
        return crit::run();
    }
    let (inside, args) = match args {
        [INSIDE, rest @ ..] => (true, rest),
        _ => (false, args),
    };
    if !inside {
        return isolate(args);
    }
    let options = parse(args)?;
    let peer = Peer::open().map_err(|error| println!("without CRIU: {error}")).ok();
    let rewake = codegen::root().join("target/release/rewake");
    let load = codegen::root().join("target/release/rewake-load");
    if options.cases == ["files"] {
        let dir = tempfile::tempdir_in(&options.dir)?;
        return files::run(&rewake, peer.as_ref(), options.rounds, dir.path());
    }
    if let [first, parts @ ..] = options.cases.as_slice()
        && first == "memory"
    {
        let peer = peer.as_ref();
        return memory::run(&rewake, &load, peer, options.rounds, &options.dir, parts);
    }
    let mut rows = Vec::new();
    for case in case::ALL {
        if options.cases.is_empty() || options.cases.iter().any(|name| name == case.name) {
            let dir = tempfile::tempdir_in(&options.dir)?;
            let stage = measure::Stage { rewake: &rewake, load: &load, peer: peer.as_ref(), dir: dir.path() };
            rows.push(stage.run(case, options.rounds)?);
        }
    }
    ensure!(!rows.is_empty(), "no such case; there are: {}", case::names());
    report::print(&rows);
    Ok(())
}

fn parse(args: &[&str]) -> Result<Options> {
    let mut options = Options { rounds: 7, dir: PathBuf::from("/dev/shm"), cases: Vec::new() };
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg {
            "--rounds" => options.rounds = value()?.parse()?,
            "--dir" => options.dir = PathBuf::from(value()?),
            name if name.starts_with('-') => bail!("usage: cargo xtask bench\n\n{USAGE}"),
            name => options.cases.push(name.to_owned()),
        }
    }
    Ok(options)
}

/// Builds what is measured, and starts this program again as the first of a pid namespace: restored processes
/// need their old pids, and become its children.
fn isolate(args: &[&str]) -> Result<()> {
    parse(args)?;
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--release", "-p", "rewake-cli", "-p", "rewake-testkit"]);
    ensure!(build.current_dir(codegen::root()).status()?.success(), "cargo build failed");
    let status = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe()?)
        .args(["bench", INSIDE])
        .args(args)
        .status()
        .context("starting unshare (of util-linux)")?;
    ensure!(status.success(), "bench: {status}");
    Ok(())
}
