//! `rewake dedup`

use std::io::Write;
use std::path::PathBuf;

/// Free the room of pages in earlier generations that a checkpoint has made useless
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The youngest checkpoint; those it descends from can no longer be restored themselves
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    #[command(flatten)]
    pub(crate) log: crate::log::LogFile,
    #[command(flatten)]
    criu: crate::criu_args::OtherCriuArgs,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let report = rewake_memdump::dedup(&args.images_dir)?;
    writeln!(out, "freed {} KiB in {} pages files", report.freed_bytes >> 10, report.files)?;
    Ok(crate::DONE)
}
