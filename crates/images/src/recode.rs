//! Rewriting the images of a checkpoint through JSON and back, which brings old ones to the present layout and proves that
//! nothing is lost on the way.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use serde::Serialize;

use crate::error::{ImageError, Result};
use crate::framing::{Entry, ImageReader, ImageWriter};
use crate::json::{Style, decode_file, encode_image};
use crate::kind::{Head, Kind};
use crate::swap::Staging;
use crate::{Checkpoint, Layout, proto};

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recoded {
    /// File name.
    pub file: String,
    /// Whether the file was (or would be) replaced: its bytes change.
    pub rewritten: bool,
    /// Entries that JSON does not keep as they are (fields unknown here, say). They stay byte for byte.
    pub kept: u64,
    /// Entries in all.
    pub entries: u64,
}

/// Rewrites every image in `dir` with entries, in layout v1.1. Files whose bytes would not change are not touched. The directory is
/// replaced as a whole: an error or a crash leaves it as it was, or done (a file system that cannot exchange directories gets one
/// file after the other, the inventory last). With `dry_run` nothing is replaced.
///
/// # Errors
/// Any error of reading an image; [`ImageError::Io`].
pub fn recode(dir: &Path, dry_run: bool) -> Result<Vec<Recoded>> {
    let checkpoint = Checkpoint::open(dir)?;
    let staging = Staging::new(dir)?;
    let mut done = Vec::new();
    let mut inventory_last = checkpoint.images()?;
    inventory_last.retain(|(kind, ..)| kind.info().head != Head::Raw);
    inventory_last.sort_by_key(|(kind, ..)| *kind == Kind::Inventory);
    for (kind, _, path) in &inventory_last {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let to = staging.path().join(name);
        let (entries, kept) = recode_image(*kind, path, &to)?;
        let rewritten = !same_bytes(path, &to)?;
        if !rewritten {
            std::fs::remove_file(&to).map_err(ImageError::io(&to, "remove"))?;
        }
        done.push(Recoded { file: name.to_owned(), rewritten, kept, entries });
    }
    let names: Vec<&str> =
        done.iter().filter(|image| image.rewritten).map(|image| image.file.as_str()).collect();
    if !dry_run && !names.is_empty() {
        staging.commit(&names)?;
    }
    let mut report = done;
    report.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(report)
}

/// Numbers of entries: all, and those that came back different.
fn recode_image(kind: Kind, from: &Path, to: &Path) -> Result<(u64, u64)> {
    let pipe = || io::pipe().map_err(ImageError::io(from, "make a pipe for"));
    let (json_reader, json_writer) = pipe()?;
    let (image_reader, image_writer) = pipe()?;
    std::thread::scope(|scope| {
        let decoder = scope.spawn(move || decode(from, json_writer));
        scope.spawn(move || encode(from, json_reader, image_writer));
        let mut coded = Coded::new(from, image_reader);
        let merged = merge(kind, from, to, &mut coded);
        coded.drain();
        match decoder.join() {
            Ok(Err(error)) => Err(error),
            _ => merged,
        }
    })
}

fn decode(image: &Path, output: PipeWriter) -> Result<()> {
    let mut output = BufWriter::with_capacity(64 << 10, output);
    decode_file(image, Style::plain(), &mut output)?;
    output.flush().map_err(ImageError::io(image, "write the JSON of"))
}

/// Whatever cannot be encoded ends the stream; [`merge`] then takes the entries as they are.
fn encode(image: &Path, input: PipeReader, output: PipeWriter) {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut output = BufWriter::with_capacity(64 << 10, output);
    let _ = encode_image(image, &mut input, &mut output).map(|()| output.flush());
    // The decoder goes on writing to the end.
    let _ = io::copy(&mut input, &mut io::sink());
}

/// The image that comes back.
struct Coded {
    reader: Option<ImageReader<BufReader<PipeReader>>>,
    rest: Option<PipeReader>,
}

impl Coded {
    fn new(path: &Path, input: PipeReader) -> Self {
        let rest = input.try_clone().ok();
        Self { reader: ImageReader::detect(path, BufReader::new(input), None).ok(), rest }
    }

    fn next(&mut self) -> Option<Entry> {
        self.reader.as_mut()?.next_entry().ok()?
    }

    /// Lets the writers come to their end.
    fn drain(&mut self) {
        if let Some(rest) = &mut self.rest {
            let _ = io::copy(rest, &mut io::sink());
        }
    }
}

fn merge(kind: Kind, from: &Path, to: &Path, coded: &mut Coded) -> Result<(u64, u64)> {
    let mut reader = ImageReader::open(kind, from)?;
    let mut writer = ImageWriter::create(kind, Layout::V11, to)?;
    let (mut entries, mut kept) = (0, 0);
    while let Some(mut entry) = reader.next_entry()? {
        let back = coded.next();
        let same = back.is_some_and(|back| back.message == entry.message && back.payload == entry.payload);
        entries += 1;
        kept += u64::from(!same);
        if kind == Kind::Inventory {
            entry.message = present_version(from, &entry)?;
        }
        writer.push_raw(&entry.message, &entry.payload)?;
    }
    writer.finish()?;
    Ok((entries, kept))
}

/// The inventory says which layout the others have.
fn present_version(path: &Path, entry: &Entry) -> Result<Vec<u8>> {
    let mut inventory: proto::InventoryEntry = crate::framing::decode(path, entry)?;
    if inventory.img_version != 1 {
        return Ok(entry.message.clone());
    }
    if inventory.encode_to_vec() != entry.message {
        let what = "fields that are not known: the version cannot be changed without losing them".to_owned();
        return Err(ImageError::Invalid { path: path.to_owned(), what });
    }
    inventory.img_version = 2;
    Ok(inventory.encode_to_vec())
}

fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    let open = |path: &PathBuf| File::open(path).map_err(ImageError::io(path, "open"));
    let (a, b) = (a.to_owned(), b.to_owned());
    let (left, right) = (open(&a)?, open(&b)?);
    let len =
        |file: &File, path: &PathBuf| file.metadata().map(|m| m.len()).map_err(ImageError::io(path, "stat"));
    if len(&left, &a)? != len(&right, &b)? {
        return Ok(false);
    }
    let (mut left, mut right) = (BufReader::new(left).bytes(), BufReader::new(right).bytes());
    loop {
        match (left.next().transpose(), right.next().transpose()) {
            (Ok(None), Ok(None)) => return Ok(true),
            (Ok(x), Ok(y)) if x == y => {}
            (Ok(_), Ok(_)) => return Ok(false),
            (Err(error), _) => return Err(ImageError::io(&a, "read")(error)),
            (_, Err(error)) => return Err(ImageError::io(&b, "read")(error)),
        }
    }
}
