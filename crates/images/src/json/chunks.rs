//! The entries of large images, parsed by several threads: the text is cut where a new entry seems to begin. Whether one does is
//! known only when all before it has been parsed; if not, what the threads made is dropped, and the reader goes on from there.

use std::io::{Empty, Read};
use std::path::Path;

use memchr::memmem::FinderRev;
use memchr::{memchr_iter, memrchr};

use super::encode::Encoder;
use super::read::{Place, Reader};
use super::ring::Ring;
use super::schema::Message;
use crate::error::{ImageError, Result};

/// Bytes of text that a thread gets at once.
const CHUNK: usize = if cfg!(fuzzing) { 128 } else { 128 << 10 };

/// What separates two entries in this text: from the end of one to the first key of the next.
pub(super) struct Separator(Vec<u8>);

impl Separator {
    /// The one that the reader stands before, if it is a usual one.
    pub(super) fn before<R>(reader: &Reader<R>) -> Option<Self> {
        const LONGEST: usize = 200;
        let rest = reader.buf.get(reader.at..)?;
        let colon = rest.iter().take(LONGEST).position(|byte| *byte == b':')?;
        let text = rest.get(..=colon)?;
        let mut significant = text.iter().filter(|byte| !matches!(byte, b' ' | b'\n'));
        let is_usual = significant.next() == Some(&b',')
            && significant.next() == Some(&b'{')
            && significant.next() == Some(&b'"')
            && significant.filter(|byte| **byte == b'"').count() == 1;
        is_usual.then(|| Self([b"}", text].concat()))
    }
}

#[derive(Debug, Default)]
struct Chunk {
    text: Vec<u8>,
    /// Where it begins.
    place: Place,
    image: Vec<u8>,
    /// It is whole entries, and `image` is what they make.
    is_sound: bool,
}

/// Parses entries as long as cutting the text works, and gives their bytes to `write`. The reader stands between two entries,
/// and so it does afterwards.
pub(super) fn put_entries<R: Read>(
    reader: &mut Reader<R>,
    separator: &Separator,
    message: &Message,
    encoder: impl Fn() -> Encoder,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let path = reader.path().to_owned();
    let path = path.as_path();
    std::thread::scope(|scope| {
        let work = || {
            let mut encoder = encoder();
            move |chunk: Chunk| parse(path, chunk, message, &mut encoder)
        };
        let Some(mut ring) = Ring::start(scope, work) else { return Ok(()) };
        let separator = FinderRev::new(&separator.0);
        let mut spare = Vec::new();
        let mut going = true;
        loop {
            if going && !ring.is_full() {
                match reader.next_chunk(&separator, spare.pop())? {
                    Some(chunk) => ring.give(chunk),
                    None => going = false,
                }
                continue;
            }
            let Some(mut chunk) = ring.take() else { return Ok(()) };
            if !chunk.is_sound {
                while let Some(later) = ring.take() {
                    chunk.text.extend_from_slice(&later.text);
                }
                reader.go_back_to(chunk.text, chunk.place);
                return Ok(());
            }
            write(&chunk.image)?;
            spare.push(chunk);
        }
    })
}

fn parse(path: &Path, mut chunk: Chunk, message: &Message, encoder: &mut Encoder) -> Chunk {
    let mut reader = Reader::inside_list(path, chunk.text, chunk.place);
    chunk.image.clear();
    chunk.is_sound = loop {
        if reader.at == reader.buf.len() {
            break true;
        }
        let entry = match reader.element() {
            Ok(true) => encoder.entry(message, false, &mut reader, &mut chunk.image),
            Ok(false) | Err(_) => break false,
        };
        if entry.is_err() {
            break false;
        }
    };
    chunk.text = reader.buf;
    chunk
}

impl Reader<Empty> {
    /// Reads `text`, which goes on with a list inside an object, behind an element.
    fn inside_list(path: &Path, text: Vec<u8>, place: Place) -> Self {
        let mut reader = Reader::new(path, std::io::empty()).starting_at(place);
        (reader.buf, reader.ended) = (text, true);
        reader.brackets.extend(b"{[");
        reader.first = false;
        reader
    }
}

impl<R: Read> Reader<R> {
    /// The text up to where an entry seems to begin, in the buffers of `spare`; `None` if nothing can be cut off.
    fn next_chunk(&mut self, separator: &FinderRev<'_>, spare: Option<Chunk>) -> Result<Option<Chunk>> {
        self.line_before += (self.at - self.line_start) as u64;
        self.buf.drain(..self.at);
        (self.at, self.line_start) = (0, 0);
        let missing = CHUNK.saturating_sub(self.buf.len());
        self.buf.reserve(missing);
        let read = (&mut self.input).take(missing as u64).read_to_end(&mut self.buf);
        read.map_err(ImageError::io(self.path(), "read"))?;
        let Some(cut) = separator.rfind(&self.buf) else { return Ok(None) };
        let (place, len) = (self.place(), cut + 1);
        let Chunk { mut text, image, .. } = spare.unwrap_or_default();
        text.clear();
        text.extend_from_slice(self.buf.get(len..).unwrap_or_default());
        std::mem::swap(&mut text, &mut self.buf);
        text.truncate(len);
        match memrchr(b'\n', &text) {
            Some(last) => {
                self.line += memchr_iter(b'\n', &text).count() as u64;
                self.line_before = (len - last - 1) as u64;
            }
            None => self.line_before += len as u64,
        }
        Ok(Some(Chunk { text, place, image, is_sound: false }))
    }

    /// Goes on with `text`, which stood at `place`, and all that comes behind.
    fn go_back_to(&mut self, mut text: Vec<u8>, place: Place) {
        text.extend_from_slice(&self.buf);
        self.buf = text;
        (self.at, self.line_start) = (0, 0);
        (self.line, self.line_before) = (place.line, place.column - 1);
    }
}
