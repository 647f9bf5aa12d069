//! `rewake verify`

use std::io::Write;
use std::path::PathBuf;

use rewake_filecheck::{Report, Verdict, Verifier, expected};
use rewake_images::Checkpoint;
use serde::Serialize;

use crate::files::{FileArgs, exit_status};

/// Say whether a checkpoint can run on these files: are they those of the dump?
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    images_dir: PathBuf,
    /// The directory in which the paths of the checkpoint begin: an unpacked container image, a mounted host
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
    verdict: Verdict,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let policy = args.files.policy()?;
    let files = expected(&Checkpoint::open(&args.images_dir)?)?;
    let mut verifier = Verifier::new(&args.root, &policy)?.with_hashing(args.files.hashing()?);
    let mut report = verifier.verify(&files)?;
    args.files.keep(&verifier.into_hashing())?;
    report.name_packages(&args.root);
    let verdict = report.verdict();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&Answer { verdict, report })?)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(exit_status(verdict))
}
