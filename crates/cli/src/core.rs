//! `rewake core`

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use rewake_images::archive::Contents;
use rewake_images::coredump::write_core;
use rewake_images::explore::Explorer;

use crate::source::Source;

/// Write a core file of a checkpointed process, for gdb
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint, or an archive of a container engine; ARCHIVE::NAME for one of several in it
    #[arg(value_name = "DIR|ARCHIVE")]
    path: PathBuf,
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
    let source = Source::open(&args.path, Contents::Memory)?;
    let explorer = Explorer::new(source.checkpoint())?;
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
