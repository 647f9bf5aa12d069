//! `rewake crit`: images as JSON and back, with the options of CRIU's tool of that name.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rewake_images::ImageReader;
use rewake_images::json::{
    Style, count_entries, decode_file, decode_image, encode_image, open, open_through,
};

use crate::progress::Watched;

/// What to do with an image.
#[derive(Debug, clap::Args)]
#[command(infer_long_args = true)] // scripts shorten crit's options: --pre, --no
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Turn an image into JSON
    Decode {
        /// The image [default: standard input]
        #[arg(short, long = "in", value_name = "FILE")]
        input: Option<PathBuf>,
        /// Where to write [default: standard output]
        #[arg(short, long = "out", value_name = "FILE")]
        output: Option<PathBuf>,
        /// One value a line; flags, addresses and devices as text
        #[arg(long)]
        pretty: bool,
    },
    /// Turn JSON into an image
    Encode {
        /// The JSON [default: standard input]
        #[arg(short, long = "in", value_name = "FILE")]
        input: Option<PathBuf>,
        /// Where to write [default: standard output]
        #[arg(short, long = "out", value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the magic of an image and how many entries it holds
    Info {
        /// The image
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show an image as pretty JSON
    Show {
        /// The image
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The size of contents instead of the contents
        #[arg(long)]
        nopl: bool,
    },
    /// Compress the memory pages of a checkpoint with LZ4: smaller, but no longer for CRIU up to 4.2
    Compress(crate::crit_compress::Args),
    /// Store the memory pages of a checkpoint as they are again
    Decompress(crate::crit_compress::PlainArgs),
    X(crate::crit_x::Args),
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    match &args.command {
        Command::Decode { input, output, pretty } => {
            let style = if *pretty { Style::pretty() } else { Style::plain() };
            to(output.as_deref(), out, |out| {
                match input {
                    // Where the JSON itself goes to the terminal, or to a pager, a bar would be in its way.
                    Some(path) => {
                        let watched = |file| Watched::new("decoding", output.is_some(), file);
                        decode_image(&mut open_through(path, watched)?, style, out)?;
                    }
                    None => {
                        let mut image = ImageReader::detect("standard input", std::io::stdin().lock(), None)?;
                        decode_image(&mut image, style, out)?;
                    }
                }
                // A file holds the JSON alone; on a terminal the prompt wants a line of its own.
                if output.is_none() {
                    out.write_all(b"\n")?;
                }
                Ok(())
            })?;
        }
        Command::Encode { input, output } => to(output.as_deref(), out, |out| {
            let (name, json): (&Path, Box<dyn Read>) = match input {
                Some(path) => {
                    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                    (path, Box::new(Watched::new("encoding", output.is_some(), file)))
                }
                None => (Path::new("standard input"), Box::new(std::io::stdin().lock())),
            };
            Ok(encode_image(name, json, out)?)
        })?,
        Command::Info { file } => {
            let (magic, count) = count_entries(&mut open(file)?)?;
            writeln!(out, "{{\n    \"magic\": \"{magic}\",\n    \"count\": {count}\n}}")?;
        }
        Command::Show { file, nopl } => {
            let style = Style { omit_payload: *nopl, ..Style::pretty() };
            decode_file(file, style, out)?;
            writeln!(out)?;
        }
        Command::Compress(args) => crate::crit_compress::compress(args, out)?,
        Command::Decompress(args) => crate::crit_compress::decompress(args, out)?,
        Command::X(args) => return crate::crit_x::run(args, out),
    }
    Ok(crate::DONE)
}

/// Writes to a file, or to `out`.
fn to(
    path: Option<&Path>,
    out: &mut impl Write,
    write: impl FnOnce(&mut Box<dyn Write + '_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(path) = path else { return write(&mut (Box::new(out) as Box<dyn Write>)) };
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut file: Box<dyn Write> = Box::new(BufWriter::new(file));
    write(&mut file)?;
    Ok(file.flush()?)
}
