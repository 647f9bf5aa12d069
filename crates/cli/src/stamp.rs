//! `rewake stamp`

use std::io::Write;

use rewake_filecheck::{Report, stamp_checkpoint};
use rewake_images::Checkpoint;
use serde::Serialize;

use crate::files::{CheckedArgs, exit_status};

/// Add to a checkpoint what rewake remembers of files, on a machine where they are known to be good
///
/// Also for checkpoints that CRIU made. Files that differ from what the checkpoint has of them are left alone and told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    of: CheckedArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    stamped: usize,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let checkpoint = Checkpoint::open(&args.of.images_dir)?;
    let done =
        stamp_checkpoint(&checkpoint, &args.of.root, &args.of.files.policy()?, args.of.files.hashing()?)?;
    args.of.files.keep(&done.hashing)?;
    let mut report = done.report;
    report.name_packages(&args.of.root);
    let verdict = report.verdict();
    if args.of.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&Answer { stamped: done.stamped, report })?)?;
    } else {
        writeln!(out, "{report}")?;
        writeln!(out, "{} files stamped", done.stamped)?;
    }
    Ok(exit_status(verdict))
}
