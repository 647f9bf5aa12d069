//! `rewake pre-dump`

use std::io::Write;

use crate::target::{TargetArgs, memory_line};

/// Copy the memory of a process while it runs, so that its dump has less to copy
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Accepted for CRIU's sake: memory is always read
    #[arg(long, value_enum, default_value = "read")]
    pre_dump_mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Read,
    Splice,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.pre_dump_mode == Mode::Splice {
        tracing::warn!(
            "memory is read, not spliced: the images are the same, and the process is not stopped for it"
        );
    }
    let report = rewake_dump::pre_dump(&args.target.options()?)?;
    if args.target.json {
        args.target.show_json(&report, out)?;
    } else {
        writeln!(out, "pre-dumped pid {}: {}", args.target.pid, memory_line(&report))?;
    }
    Ok(crate::DONE)
}
