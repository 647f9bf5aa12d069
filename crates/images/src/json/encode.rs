//! JSON to images.

use std::io::{Read, Write};
use std::path::Path;

use super::chunks::{self, Separator};
use super::parse::{Parser, Part};
use super::parse_payload::{self, Wants};
use super::read::{Place, Reader};
use super::schema::{Message, Schema};
use super::shape::{Note, Shape};
use crate::Layout;
use crate::error::{ImageError, Result};
use crate::framing::ImageWriter;
use crate::kind::{Head, KINDS, KindInfo, Payload};

/// What errors call the image being written.
const IMAGE: &str = "the image";

/// Bytes of the size before an entry.
const SIZE_LEN: usize = 4;

/// Writes the image that `json` tells, in layout v1.1. `path` is what errors call the JSON. Plain and pretty values are taken,
/// also mixed. Needs memory for one entry, if `magic` comes before
/// `entries`, and for some chunks of text where there are many: several threads parse them.
///
/// # Errors
/// [`ImageError::Json`](crate::ImageError::Json): malformed JSON, an unknown magic or name, a number out of range, a
/// missing required field; [`ImageError::Io`](crate::ImageError::Io).
pub fn encode_image(path: &Path, json: impl Read, output: &mut impl Write) -> Result<()> {
    let mut reader = Reader::new(path, json);
    let mut magic = None;
    let mut entries: Option<(Vec<u8>, Place)> = None;
    let mut done = false;
    reader.open(b'{')?;
    while let Some(key) = reader.key()? {
        match key {
            b"magic" => {
                let place = reader.place();
                let name = String::from_utf8_lossy(reader.string()?).into_owned();
                let row = KINDS.iter().find(|row| row.head != Head::Raw && row.magic_name == name);
                magic = Some(row.ok_or_else(|| reader.error_at(place, format!("unknown magic {name:?}")))?);
            }
            b"entries" => match magic {
                _ if done => return Err(reader.error("\"entries\" twice")),
                Some(row) => {
                    put_entries(row, &mut reader, output)?;
                    done = true;
                }
                // What the entries are is not known yet.
                None => entries = Some(reader.keep()?),
            },
            _ => reader.skip()?,
        }
    }
    reader.end()?;
    let row = magic.ok_or_else(|| reader.error("no \"magic\""))?;
    if let (Some((text, place)), false) = (entries, done) {
        put_entries(row, &mut Reader::new(path, text.as_slice()).starting_at(place), output)?;
        done = true;
    }
    if done { Ok(()) } else { Err(reader.error("no \"entries\"")) }
}

fn put_entries<R: Read, W: Write>(row: &KindInfo, reader: &mut Reader<R>, output: &mut W) -> Result<()> {
    // A fuzzer shall come here with little.
    const ENOUGH: usize = if cfg!(fuzzing) { 64 } else { 64 << 10 };
    let schema = Schema::get();
    let first = schema.find(row.entry).expect("tests look each one up");
    let rest = row.rest.map_or(first, |name| schema.find(name).expect("tests look each one up"));
    let output = ImageWriter::new(row.kind, Layout::V11, IMAGE, output)?.into_inner()?;
    let write =
        |out: &[u8], output: &mut &mut W| output.write_all(out).map_err(ImageError::io(IMAGE, "write"));
    let mut output = output;
    let mut message = first;
    let mut encoder = Encoder::new(row.payload);
    let mut out = Vec::new();
    reader.open(b'[')?;
    let mut cut = false;
    while reader.element()? {
        encoder.entry(message, message.name == row.entry && row.rest.is_some(), reader, &mut out)?;
        message = rest;
        if out.len() < ENOUGH {
            continue;
        }
        write(&out, &mut output)?;
        out.clear();
        // It is worth threads, then.
        if let (false, Some(separator)) = (cut, Separator::before(reader)) {
            cut = true;
            let write = |image: &[u8]| write(image, &mut output);
            chunks::put_entries(reader, &separator, message, || Encoder::new(row.payload), write)?;
        }
    }
    write(&out, &mut output)?;
    output.flush().map_err(ImageError::io(IMAGE, "write"))
}

/// Its buffers are used again for each entry.
pub(super) struct Encoder {
    payload: Payload,
    payload_bytes: Vec<u8>,
    parts: Vec<Part>,
    /// What the last entries looked like.
    shape: Option<Shape>,
    /// Entries since the last one that had this shape.
    strangers: u32,
    notes: Vec<Note>,
    open: Vec<usize>,
}

impl Encoder {
    fn new(payload: Payload) -> Self {
        let (parts, notes, open) = (Vec::new(), Vec::new(), Vec::new());
        Self { payload, payload_bytes: Vec::new(), parts, shape: None, strangers: 0, notes, open }
    }

    /// Appends the entry that comes next: its size, the message, and what follows it.
    pub(super) fn entry<R: Read>(
        &mut self,
        message: &Message,
        is_head: bool,
        reader: &mut Reader<R>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(&[0; SIZE_LEN]);
        if let Some(shape) = &self.shape
            && shape.take(reader, &mut self.open, out)
        {
            self.strangers = 0;
            return put_size(start, reader, out);
        }
        self.strangers = self.strangers.saturating_add(1);
        reader.next()?;
        let (text_start, fills) = (reader.at, reader.fills);
        // Where no entry is like the last one, taking notes each time would be in vain.
        let learns = self.strangers.is_power_of_two() && self.payload == Payload::None;
        let place = reader.place();
        let mut extra = None;
        self.parts.clear();
        self.notes.clear();
        let notes = learns.then_some(&mut self.notes);
        Parser { reader, parts: &mut self.parts, extra: Some(&mut extra), notes }.message(message, out)?;
        if learns && extra.is_none() && reader.fills == fills {
            let (text, message) = (text_start..reader.at, start + SIZE_LEN);
            self.shape = Shape::learn(text, &reader.buf, message, out, &self.notes);
        }
        put_size(start, reader, out)?;
        if self.payload == Payload::None {
            return Ok(());
        }
        self.payload_bytes.clear();
        let encoded = out.get(start + SIZE_LEN..).unwrap_or_default();
        let wants = Wants { payload: self.payload, is_head, message: encoded };
        match extra {
            None => parse_payload::without_extra(&wants).map_err(|what| reader.error_at(place, what))?,
            Some((text, place)) => {
                let mut extra = Reader::new(reader.path(), text.as_slice()).starting_at(place);
                parse_payload::parse(&wants, &mut extra, &mut self.payload_bytes)?;
            }
        }
        out.extend_from_slice(&self.payload_bytes);
        Ok(())
    }
}

/// Puts the size of the message that ends `out` where it was left out.
fn put_size<R: Read>(start: usize, reader: &Reader<R>, out: &mut [u8]) -> Result<()> {
    let (sizes, message) = out.split_at_mut(start + SIZE_LEN);
    let size = u32::try_from(message.len()).map_err(|_| reader.error("an entry of more than 4 GiB"))?;
    if let Some(room) = sizes.last_chunk_mut() {
        *room = size.to_le_bytes();
    }
    Ok(())
}
