//! An image as JSON and back: `json FILE.img [pretty]` prints it, `json FILE.json` writes the image it tells.
//!
//!     cargo run -p rewake-images --features json --example json -- crates/images/testdata/pipe00-h/inventory.img pretty

use std::error::Error;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;

use rewake_images::json::{Style, decode_file, encode_image};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: json FILE [pretty]")?);
    let style = if args.next().is_some() { Style::pretty() } else { Style::plain() };
    let mut out = std::io::stdout().lock();
    if path.extension().is_some_and(|extension| extension == "json") {
        encode_image(&path, BufReader::new(File::open(&path)?), &mut out)?;
    } else {
        decode_file(&path, style, &mut out)?;
    }
    out.flush()?;
    Ok(())
}
