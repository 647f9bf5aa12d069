//! What entries of an image have in common. Tools write one like the other: the same keys in the same order, most values plain
//! numbers and strings. So what was learned from one entry reads the next ones several times faster than the parser does; at the
//! first byte that is not as expected, nothing has been read, and the parser takes the entry.

use std::io::Read;
use std::ops::Range;

use memchr::{memchr_iter, memrchr};

use super::parse::put_length;
use super::read::Reader;
use super::schema::{Field, Int, Type};
use super::wire::{self, Short};

/// Something in an entry that was parsed, by its place in the text and in the image, both counted from the buffers' beginnings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note {
    pub(super) what: What,
    /// Where the value begins and ends in the text.
    pub(super) text: (usize, usize),
    /// Where it begins and ends in the image.
    pub(super) image: (usize, usize),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    /// A value, with the key before it in the image.
    Value(Value, Short),
    /// A message begins: its length.
    Open,
    /// The last message that began ends.
    Close,
    /// Parts have been moved about: places mean nothing.
    Moved,
}

/// Values that may differ from entry to entry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    Number { int: Int, wire_type: u8 },
    Text,
}

impl Value {
    /// How a field is read in the usual case, if it is a simple one.
    pub(super) fn of(field: &Field) -> Option<Self> {
        match field.ty {
            _ if field.repeated => None,
            Type::Int(int) => Some(Self::Number { int, wire_type: wire::wire_type_of(field.ty) }),
            Type::String => Some(Self::Text),
            Type::Bool | Type::Bytes | Type::Enum(_) | Type::Message(_) => None,
        }
    }

    /// Reads one and appends it. If another value comes than the usual ones, nothing is read.
    #[inline]
    pub(super) fn take<R: Read>(self, key: Short, reader: &mut Reader<R>, image: &mut Vec<u8>) -> bool {
        match self {
            Self::Number { int, wire_type } => {
                let bits = reader.takes_whole_number(|value| wire::bits_of_whole(int, value));
                let Some(bits) = bits else { return false };
                key.put(image);
                wire::put_number(wire_type, bits, image);
            }
            Self::Text => {
                let Some(text) = reader.takes_plain_string() else { return false };
                key.put(image);
                wire::put_varint(text.len() as u64, image);
                image.extend_from_slice(text);
            }
        }
        true
    }
}

/// The steps that read an entry.
#[derive(Debug)]
pub(super) struct Shape {
    steps: Vec<Step>,
    /// Line breaks in the text.
    lines: u64,
}

#[derive(Debug)]
struct Step {
    /// The text up to the next value, in words of eight bytes, and masks of the bytes of it in them.
    text: Vec<(u64, u64)>,
    text_len: usize,
    /// What it means.
    image: Vec<u8>,
    then: Then,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    Value(Value, Short),
    Open,
    Close,
    End,
}

impl Shape {
    /// The shape of the entry whose text is this range of `text` and whose message begins at `start` in `image` and ends with it.
    pub(super) fn learn(
        entry: Range<usize>,
        text: &[u8],
        start: usize,
        image: &[u8],
        notes: &[Note],
    ) -> Option<Self> {
        let mut at = (entry.start, start);
        let mut steps = Vec::new();
        let mut step = |from: (usize, usize), to: (usize, usize), then| {
            let text = text.get(from.0..to.0)?;
            let image = image.get(from.1..to.1)?.to_vec();
            steps.push(Step { text: words(text), text_len: text.len(), image, then });
            Some(())
        };
        for note in notes {
            let then = match note.what {
                What::Value(value, key) => Then::Value(value, key),
                What::Open => Then::Open,
                What::Close => Then::Close,
                What::Moved => return None,
            };
            step(at, (note.text.0, note.image.0), then)?;
            at = (note.text.1, note.image.1);
        }
        step(at, (entry.end, image.len()), Then::End)?;
        let lines = memchr_iter(b'\n', text.get(entry)?).count() as u64;
        Some(Self { steps, lines })
    }

    /// Reads the entry that comes next, and appends its message. If it has another shape, nothing is read.
    pub(super) fn take<R: Read>(
        &self,
        reader: &mut Reader<R>,
        open: &mut Vec<usize>,
        image: &mut Vec<u8>,
    ) -> bool {
        let (text_start, image_start) = (reader.at, image.len());
        open.clear();
        if !self.steps.iter().all(|step| step.take(reader, open, image)) {
            reader.at = text_start;
            image.truncate(image_start);
            return false;
        }
        reader.first = false;
        if self.lines > 0 {
            reader.line += self.lines;
            let text = reader.buf.get(text_start..reader.at).unwrap_or_default();
            reader.line_start = text_start + memrchr(b'\n', text).map_or(0, |at| at + 1);
            reader.line_before = 0;
        }
        true
    }
}

impl Step {
    #[inline]
    fn take<R: Read>(&self, reader: &mut Reader<R>, open: &mut Vec<usize>, image: &mut Vec<u8>) -> bool {
        let mut at = reader.at;
        for (word, mask) in &self.text {
            let Some(found) = reader.buf.get(at..).and_then(<[u8]>::first_chunk) else { return false };
            if (u64::from_le_bytes(*found) ^ word) & mask != 0 {
                return false;
            }
            at += 8;
        }
        reader.at += self.text_len;
        if !self.image.is_empty() {
            image.extend_from_slice(&self.image);
        }
        match self.then {
            Then::Value(value, key) => return value.take(key, reader, image),
            Then::Open => {
                open.push(image.len());
                image.push(0);
            }
            Then::Close => {
                if let Some(start) = open.pop() {
                    put_length(start, image);
                }
            }
            Then::End => {}
        }
        true
    }
}

fn words(text: &[u8]) -> Vec<(u64, u64)> {
    let word = |chunk: &[u8]| {
        let (mut word, mut mask) = ([0; 8], [0; 8]);
        for ((word, mask), byte) in word.iter_mut().zip(&mut mask).zip(chunk) {
            (*word, *mask) = (*byte, 0xff);
        }
        (u64::from_le_bytes(word), u64::from_le_bytes(mask))
    };
    text.chunks(8).map(word).collect()
}
