//! `rewake recode`

use std::io::Write;
use std::path::PathBuf;

/// Rewrite the images of a checkpoint in the present layout, through JSON and back
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let images = rewake_images::recode::recode(&args.dir, args.dry_run)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&images)?)?;
        return Ok(crate::DONE);
    }
    for image in images.iter().filter(|image| image.rewritten || image.kept > 0) {
        let done = if image.rewritten { "rewritten" } else { "unchanged" };
        write!(out, "{}: {done}", image.file)?;
        if image.kept > 0 {
            write!(
                out,
                "; {} of {} entries are not what JSON makes of them, and stay",
                image.kept, image.entries
            )?;
        }
        writeln!(out)?;
    }
    let rewritten = images.iter().filter(|image| image.rewritten).count();
    writeln!(out, "{rewritten} of {} images rewritten", images.len())?;
    Ok(crate::DONE)
}
