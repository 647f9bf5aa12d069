//! `crit compress` and `crit decompress`: pages of a checkpoint that is there.

use std::io::Write;
use std::path::PathBuf;

use rewake_images::pagemap::{Compression, rewrite_pages};

#[derive(Debug, clap::Args)]
pub(crate) struct PlainArgs {
    /// The checkpoint; one that others have as their parent is compressed for itself
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Keep no copies (NAME.bak) of what is replaced
    #[arg(long)]
    in_place: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    plain: PlainArgs,
    #[command(flatten)]
    blocks: BlockArgs,
}

/// How pages are cut into blocks.
#[derive(Debug, clap::Args)]
pub(crate) struct BlockArgs {
    /// Compress so many bytes together (K and M are known, at most 4M) instead of each page for itself
    #[arg(long, value_name = "SIZE", num_args = 0..=1, default_missing_value = "256K", value_parser = parse_region)]
    compress_region: Option<Compression>,
    /// Accepted for CRIU's sake: how quickly to give up looking for repetitions. Only 1, thorough, is there
    #[arg(long, visible_alias = "acceleration", value_name = "N", value_parser = clap::value_parser!(u32).range(..=1))]
    compress_acceleration: Option<u32>,
}

impl BlockArgs {
    /// Regions if they are asked for.
    pub(crate) fn region(&self) -> Option<Compression> {
        self.compress_region
    }
}

fn parse_region(text: &str) -> Result<Compression, String> {
    let region = crate::size::parse(text).ok().and_then(Compression::region);
    region.ok_or_else(|| "not a size of whole pages up to 4M".to_owned())
}

pub(crate) fn compress(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let how = args.blocks.region().unwrap_or(Compression::PerPage);
    rewrite(&args.plain, Some(how), "compressed", out)
}

pub(crate) fn decompress(args: &PlainArgs, out: &mut impl Write) -> anyhow::Result<()> {
    rewrite(args, None, "decompressed", out)
}

fn rewrite(
    args: &PlainArgs,
    how: Option<Compression>,
    done: &str,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let changes = rewrite_pages(&args.dir, how, !args.in_place)?;
    if changes.is_empty() {
        writeln!(out, "{}: nothing that is not {done} already", args.dir.display())?;
    }
    for change in changes {
        let kib = |bytes: u64| bytes.div_ceil(1024);
        writeln!(
            out,
            "{}: {} pages, {} KiB -> {} KiB",
            change.pagemap,
            change.pages,
            kib(change.before_bytes),
            kib(change.after_bytes),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_regions() {
        assert_eq!(parse_region("64K"), Ok(Compression::region(64 << 10).unwrap()));
        assert_eq!(parse_region("4m"), parse_region("4194304"));
        for wrong in ["5M", "1000", "64KK", "64G"] {
            assert!(parse_region(wrong).is_err(), "{wrong}");
        }
    }
}
