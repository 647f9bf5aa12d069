//! `rewake core`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use rewake_images::Checkpoint;
use rewake_images::coredump::write_core;
use rewake_images::explore::Explorer;

/// Write a core file of a checkpointed process, for gdb
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The process [default: the first of the tree]
    #[arg(short, long)]
    pid: Option<u32>,
    /// Where the core file goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    let explorer = Explorer::new(&checkpoint)?;
    let pid = match args.pid {
        Some(pid) => pid,
        None => explorer.tasks().first().context("the process tree is empty")?.entry.pid,
    };
    let report = write_core(&explorer, pid, &args.output)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        let (threads, pages) = (report.threads, report.pages);
        writeln!(out, "{}: pid {pid}, {threads} threads, {pages} pages", args.output.display())?;
    }
    Ok(crate::DONE)
}
