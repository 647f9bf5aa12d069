//! `rewake crit x`: who runs, what is open, what is mapped, what is connected in a checkpoint.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use rewake_images::Checkpoint;
use rewake_images::explore::Explorer;
use serde::Serialize;

/// Explore a checkpoint: processes, descriptors, mappings, pages or sockets
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// What to show
    #[arg(value_name = "WHAT")]
    what: What,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// The process tree
    Ps,
    /// Open files
    #[value(alias = "fd")]
    Fds,
    /// Memory mappings
    #[value(alias = "mem")]
    Mems,
    /// Pages in the images, and the mappings they belong to
    Rss,
    /// Sockets
    Sk,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    let explorer = Explorer::new(&checkpoint)?;
    match args.what {
        What::Ps => show(&explorer.ps()?, args.json, out),
        What::Fds => show(&explorer.fds()?, args.json, out),
        What::Mems => show(&explorer.mems()?, args.json, out),
        What::Rss => show(&explorer.rss()?, args.json, out),
        What::Sk => show(&explorer.sockets()?, args.json, out),
    }
}

fn show(view: &(impl Display + Serialize), json: bool, out: &mut impl Write) -> anyhow::Result<u8> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(view)?)?;
    } else {
        write!(out, "{view}")?;
    }
    Ok(crate::DONE)
}
