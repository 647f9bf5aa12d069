//! `rewake pre-dump`

use std::io::Write;

use crate::target::{TargetArgs, memory_line};

/// Copy the memory of a process while it runs, so that its dump has less to copy
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let options = args.target.options()?;
    let report = rewake_dump::pre_dump(&options);
    // The bar is gone before anything else is said.
    drop(options);
    let report = report?;
    if args.target.json {
        args.target.show_json(&report, out)?;
    } else {
        writeln!(out, "pre-dumped pid {}: {}", args.target.pid, memory_line(&report))?;
    }
    Ok(crate::DONE)
}
