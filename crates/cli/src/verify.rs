//! `rewake verify`

use std::io::Write;

use rewake_filecheck::{Report, Verdict, Verifier, expected};
use rewake_images::Checkpoint;
use serde::Serialize;

use crate::files::{CheckedArgs, exit_status};

/// Say whether a checkpoint can run on these files: are they those of the dump?
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    of: CheckedArgs,
}

#[derive(Debug, Serialize)]
struct Answer {
    verdict: Verdict,
    #[serde(flatten)]
    report: Report,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let policy = args.of.files.policy()?;
    let files = expected(&Checkpoint::open(&args.of.images_dir)?)?;
    let mut verifier = Verifier::new(&args.of.root, &policy)?.with_hashing(args.of.files.hashing()?);
    let mut report = verifier.verify(&files)?;
    args.of.files.keep(&verifier.into_hashing())?;
    report.name_packages(&args.of.root);
    let verdict = report.verdict();
    if args.of.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&Answer { verdict, report })?)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(exit_status(verdict))
}
