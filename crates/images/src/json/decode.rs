//! Images to JSON.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use super::batches;
use super::print::Printer;
use super::print_payload as payload;
use super::render;
use super::schema::{Message, Schema};
use crate::error::{ImageError, Result};
use crate::framing::{Entry, ImageReader};
use crate::kind::{Count, Head, Kind, Payload};

/// How an image is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// One value per line; flags, addresses and device numbers as text.
    pub pretty: bool,
    /// The size in place of the bytes that follow an entry. What it prints cannot be encoded again.
    pub omit_payload: bool,
}

impl Style {
    /// One line; every number as number.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// For people; [`encode_image`](super::encode_image) takes it as well.
    #[must_use]
    pub fn pretty() -> Self {
        Self { pretty: true, ..Self::default() }
    }
}

/// Writes the image at `path` as JSON, and no newline behind it. Its magic tells the kind. Needs memory for one entry, and for some batches
/// of small ones where there are many: several threads print them.
///
/// # Errors
/// Any error of reading; [`ImageError::UnknownMagic`]; [`ImageError::Invalid`] for an entry that is no message.
pub fn decode_file(path: &Path, style: Style, output: &mut impl Write) -> Result<()> {
    decode_image(&mut open(path)?, style, output)
}

/// Opens the image at `path`, whose magic tells the kind.
///
/// # Errors
/// As [`ImageReader::detect`].
pub fn open(path: &Path) -> Result<ImageReader<BufReader<File>>> {
    open_through(path, |file| file)
}

/// As [`open`]; the file is read through what `wrap` makes of it, which may watch how far it is.
///
/// # Errors
/// As [`open`].
pub fn open_through<R: Read>(path: &Path, wrap: impl FnOnce(File) -> R) -> Result<ImageReader<BufReader<R>>> {
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some((kind, _)) = name.and_then(Kind::from_file_name)
        && kind.info().head == Head::Raw
    {
        return Err(no_entries(path));
    }
    let file = File::open(path).map_err(ImageError::io(path, "open"))?;
    let meta = file.metadata().map_err(ImageError::io(path, "stat"))?;
    let input = BufReader::with_capacity(64 << 10, wrap(file));
    ImageReader::detect(path, input, meta.is_file().then_some(meta.len()))
}

/// Writes an image as JSON, and no newline behind it. Needs memory for one entry, and for some batches
/// of small ones where there are many: several threads print them.
///
/// # Errors
/// As [`decode_file`].
pub fn decode_image<R: Read>(
    image: &mut ImageReader<R>,
    style: Style,
    output: &mut impl Write,
) -> Result<()> {
    const ENOUGH: usize = 64 << 10;
    let schema = Schema::get();
    let row = image.kind().info();
    let Some(first) = schema.find(row.entry) else {
        return Err(no_entries(image.path()));
    };
    let rest = row.rest.and_then(|name| schema.find(name)).unwrap_or(first);
    let mut out = Printer::new(style.pretty);
    let path = image.path().to_owned();
    let mut write = |json: &[u8]| output.write_all(json).map_err(ImageError::io(&path, "write the JSON of"));
    out.open(b'{');
    out.key("magic");
    out.string(row.magic_name.as_bytes());
    out.key("entries");
    out.open(b'[');
    let mut entry = Entry::default();
    let mut alone = row.payload != Payload::None;
    while image.read_entry(&mut entry)? {
        out.element();
        let message = if entry.index == 0 { first } else { rest };
        put_entry(row.payload, message, image.path(), &entry, style, &mut out)?;
        if out.buf.len() >= ENOUGH {
            write(&out.buf)?;
            out.buf.clear();
            // It is worth threads, then.
            if !alone {
                alone = true;
                batches::put_entries(image, rest, style.pretty, &mut write)?;
            }
        }
    }
    out.close(b']');
    out.close(b'}');
    write(&out.buf)
}

fn no_entries(path: &Path) -> ImageError {
    ImageError::Invalid { path: path.to_owned(), what: "a raw image: contents without entries".into() }
}

fn put_entry(
    payload: Payload,
    message: &Message,
    path: &Path,
    entry: &Entry,
    style: Style,
    out: &mut Printer,
) -> Result<()> {
    out.open(b'{');
    render::fields(Schema::get(), message, &entry.message, out)
        .map_err(|e| payload::malformed(path, entry, &message.name, e.0))?;
    if style.omit_payload {
        payload::put_size(payload, path, entry, out)?;
    } else {
        payload::put(payload, path, entry, out)?;
    }
    out.close(b'}');
    Ok(())
}

/// The name of an image's magic, and how many entries it has. The head of a pagemap does not count.
///
/// # Errors
/// Any error of reading.
pub fn count_entries<R: Read>(image: &mut ImageReader<R>) -> Result<(&'static str, u64)> {
    let row = image.kind().info();
    let mut count = 0_u64;
    let mut entry = Entry::default();
    while image.read_entry(&mut entry)? {
        count += 1;
    }
    let is_pagemap = row.count == Count::HeadArray && matches!(row.kind, Kind::Pagemap | Kind::PagemapShmem);
    Ok((row.magic_name, if is_pagemap { count.saturating_sub(1) } else { count }))
}
