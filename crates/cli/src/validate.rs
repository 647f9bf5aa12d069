//! `rewake validate`: what is wrong with a checkpoint in shape.

use std::io::Write;
use std::path::PathBuf;

use rewake_images::validate::validate;

/// Say whether a checkpoint is whole: every reference resolves, sizes agree, the chain of parents is unbroken
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

/// Something is wrong with it.
const BROKEN: u8 = 1;

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    anyhow::ensure!(args.dir.is_dir(), "{}: no such directory", args.dir.display());
    let report = validate(&args.dir);
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else if report.is_clean() {
        writeln!(out, "{}: {} images, nothing wrong", report.dir.display(), report.images)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.is_clean() { crate::DONE } else { BROKEN })
}
