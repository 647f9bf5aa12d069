//! JSON to images.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use super::parse::{Parser, Part};
use super::parse_payload::{self, Wants};
use super::read::{Place, Reader};
use super::schema::{Message, Schema};
use crate::Layout;
use crate::error::Result;
use crate::framing::ImageWriter;
use crate::kind::{Head, KINDS, KindInfo, Payload};

/// Writes the image that `json` tells, in layout v1.1. `path` is what errors call the JSON. Plain and pretty values are taken,
/// also mixed. Needs memory for one entry, if `magic` comes before `entries`.
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
    let schema = Schema::get();
    let first = schema.find(row.entry).expect("tests look each one up");
    let rest = row.rest.map_or(first, |name| schema.find(name).expect("tests look each one up"));
    let mut image =
        ImageWriter::new(row.kind, Layout::V11, "the image", BufWriter::with_capacity(64 << 10, output))?;
    let mut message = first;
    let mut encoder =
        Encoder { payload: row.payload, bytes: Vec::new(), payload_bytes: Vec::new(), parts: Vec::new() };
    reader.open(b'[')?;
    while reader.element()? {
        encoder.entry(message, message.name == row.entry && row.rest.is_some(), reader)?;
        image.push_raw(&encoder.bytes, &encoder.payload_bytes)?;
        message = rest;
    }
    image.into_inner().map(drop)
}

/// Its buffers are used again for each entry.
struct Encoder {
    payload: Payload,
    bytes: Vec<u8>,
    payload_bytes: Vec<u8>,
    parts: Vec<Part>,
}

impl Encoder {
    fn entry<R: Read>(&mut self, message: &Message, is_head: bool, reader: &mut Reader<R>) -> Result<()> {
        self.bytes.clear();
        self.payload_bytes.clear();
        reader.next()?;
        let place = reader.place();
        let mut extra = None;
        self.parts.clear();
        Parser { reader, parts: &mut self.parts, extra: Some(&mut extra) }
            .message(message, &mut self.bytes)?;
        let wants = Wants { payload: self.payload, is_head, message: &self.bytes };
        match extra {
            None => parse_payload::without_extra(&wants).map_err(|what| reader.error_at(place, what)),
            Some((text, place)) => {
                let mut extra = Reader::new(reader.path(), text.as_slice()).starting_at(place);
                parse_payload::parse(&wants, &mut extra, &mut self.payload_bytes)
            }
        }
    }
}
