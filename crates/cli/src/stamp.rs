//! `rewake stamp`

use std::io::Write;
use std::path::PathBuf;

use rewake_filecheck::{Report, stamp_checkpoint};
use rewake_images::Checkpoint;
use serde::Serialize;

use crate::files::{FileArgs, exit_status};

/// Add to a checkpoint what rewake remembers of files, on a machine where they are known to be good
///
/// Also for checkpoints that CRIU made. Files that differ from what the checkpoint has of them are left alone and told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    images_dir: PathBuf,
    /// The directory in which the paths of the checkpoint begin
    #[arg(long, value_name = "PATH", default_value = "/")]
    root: PathBuf,
    #[command(flatten)]
    files: FileArgs,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    stamped: usize,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let checkpoint = Checkpoint::open(&args.images_dir)?;
    let done = stamp_checkpoint(&checkpoint, &args.root, &args.files.policy()?, args.files.hashing()?)?;
    args.files.keep(&done.hashing)?;
    let mut report = done.report;
    report.name_packages(&args.root);
    let verdict = report.verdict();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&Answer { stamped: done.stamped, report })?)?;
    } else {
        writeln!(out, "{report}")?;
        writeln!(out, "{} files stamped", done.stamped)?;
    }
    Ok(exit_status(verdict))
}
