//! JSON to messages.

use std::io::Read;

use super::read::{Next, Place, Reader};
use super::render::{address_words, device_value};
use super::schema::{Field, Int, Message, Render, Schema, Type};
use super::shape::{Note, Value, What};
use super::text;
use super::wire::{Short, bits, put_number, put_varint, wire_type_of};
use crate::error::Result;

/// Reads the object of one entry.
pub(super) struct Parser<'r, R> {
    pub(super) reader: &'r mut Reader<R>,
    /// The fields read so far of the objects that are open, innermost last. Kept by the caller, who uses it again.
    pub(super) parts: &'r mut Vec<Part>,
    /// Takes the text of the key `extra`, if it comes; only the outermost object has one.
    pub(super) extra: Option<&'r mut Option<(Vec<u8>, Place)>>,
    /// Takes notes of what is read.
    pub(super) notes: Option<&'r mut Vec<Note>>,
}

/// The bytes of one field in the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    field: usize,
    start: usize,
    end: usize,
}

impl<R: Read> Parser<'_, R> {
    /// Appends the encoded message. Keys without a field are passed over.
    pub(super) fn message(&mut self, message: &Message, out: &mut Vec<u8>) -> Result<()> {
        let mut extra = self.extra.take();
        self.reader.next()?;
        let place = self.reader.place();
        self.reader.open(b'{')?;
        let base = out.len();
        let first_part = self.parts.len();
        let mut sorted = true;
        let mut guess = 0;
        let mut missing = message.required;
        loop {
            let likely = message.fields.get(guess..).unwrap_or_default();
            if let Some((ahead, field)) =
                self.reader.takes_key(likely).and_then(|i| Some((i, likely.get(i)?)))
            {
                let (index, start) = (guess + ahead, out.len());
                if !self.usual_value(field, out) {
                    self.field(message, field, out)?;
                }
                self.parts.push(Part { field: index, start, end: out.len() });
                missing &= !(1 << index);
                guess = index + 1;
                continue;
            }
            if self.reader.takes_end() {
                break;
            }
            let Some(key) = self.reader.key()? else { break };
            let found = message.by_name(key, guess);
            if let (Some(extra), b"extra") = (&mut extra, key) {
                **extra = Some(self.reader.keep()?);
            } else if let Some((index, field)) = found {
                let start = out.len();
                self.field(message, field, out)?;
                sorted &= index >= guess;
                self.parts.push(Part { field: index, start, end: out.len() });
                missing &= !(1 << index);
                guess = index + 1;
            } else {
                self.reader.skip()?;
            }
        }
        if let Some(field) = message.fields.get(missing.trailing_zeros() as usize) {
            let what = format!("{}.{} is required, and not there", message.name, field.name);
            return Err(self.reader.error_at(place, what));
        }
        if !sorted {
            rearrange(self.parts.get_mut(first_part..).unwrap_or_default(), base, out);
            if let Some(notes) = &mut self.notes {
                notes.push(Note { what: What::Moved, text: (0, 0), image: (0, 0) });
            }
        }
        self.parts.truncate(first_part);
        Ok(())
    }

    /// The most frequent cases of [`Self::field`]. If it is another, nothing is read.
    fn usual_value(&mut self, field: &Field, out: &mut Vec<u8>) -> bool {
        let Some(value) = Value::of(field) else { return false };
        let (text, start) = (self.reader.at, out.len());
        let taken = value.take(field.wire_key, self.reader, out);
        if let (true, Some(notes)) = (taken, &mut self.notes) {
            let what = What::Value(value, field.wire_key);
            notes.push(Note { what, text: (text, self.reader.at), image: (start, out.len()) });
        }
        taken
    }

    fn field(&mut self, message: &Message, field: &Field, out: &mut Vec<u8>) -> Result<()> {
        if !field.repeated {
            return self.value(message, field, true, out);
        }
        self.expect(message, field, Next::List)?;
        self.reader.open(b'[')?;
        let mut packed = Vec::new();
        let mut count = 0_u64;
        while self.reader.element()? {
            count += 1;
            let is_address = matches!(field.render, Render::Address) && self.reader.next()? == Next::String;
            if is_address {
                self.address(message, field, out)?;
            } else if field.packed {
                self.value(message, field, false, &mut packed)?;
            } else {
                self.value(message, field, true, out)?;
            }
        }
        if count == 0 {
            // No image can tell it from a field that is not there.
            return Err(self.wrong(message, field, "an empty list"));
        }
        if field.packed {
            Short::key(field.number, 2).put(out);
            put_varint(packed.len() as u64, out);
            out.append(&mut packed);
        }
        Ok(())
    }

    fn value(&mut self, message: &Message, field: &Field, keyed: bool, out: &mut Vec<u8>) -> Result<()> {
        let wire_type = wire_type_of(field.ty);
        if keyed {
            field.wire_key.put(out);
        }
        match field.ty {
            Type::Message(index) => {
                self.expect(message, field, Next::Object)?;
                let (text, start) = (self.reader.at, out.len());
                // Room for the length, which is nearly always short.
                out.push(0);
                let first_note = self.notes.as_mut().map_or(0, |notes| {
                    notes.push(Note { what: What::Open, text: (text, text), image: (start, start + 1) });
                    notes.len()
                });
                self.message(Schema::get().message(index), out)?;
                let more_room = put_length(start, out);
                if let Some(notes) = &mut self.notes {
                    let (text, end) = (self.reader.at, out.len());
                    for note in notes.get_mut(first_note..).unwrap_or_default() {
                        note.image = (note.image.0 + more_room, note.image.1 + more_room);
                    }
                    if let Some(open) = first_note.checked_sub(1).and_then(|index| notes.get_mut(index)) {
                        open.image.1 += more_room;
                    }
                    notes.push(Note { what: What::Close, text: (text, text), image: (end, end) });
                }
            }
            Type::String => {
                self.expect(message, field, Next::String)?;
                let text = self.reader.string()?;
                put_varint(text.len() as u64, out);
                out.extend(text);
            }
            Type::Bytes => {
                self.expect(message, field, Next::String)?;
                let text = self.reader.string()?;
                let bytes = match field.render {
                    Render::UnixName => Ok(text::unquote_printable(text)),
                    _ => text::base64(text),
                };
                let bytes = bytes.map_err(|what| self.wrong(message, field, &what))?;
                put_varint(bytes.len() as u64, out);
                out.extend(bytes);
            }
            Type::Bool => {
                let value = match self.reader.next()? {
                    Next::Number => match self.reader.number()? {
                        0 => false,
                        1 => true,
                        _ => return Err(self.wrong(message, field, "neither true nor false")),
                    },
                    _ => {
                        self.expect(message, field, Next::Bool)?;
                        self.reader.boolean()?
                    }
                };
                out.push(value.into());
            }
            Type::Enum(index) => {
                self.expect(message, field, Next::String)?;
                let names = Schema::get().enumeration(index);
                let name = self.reader.string()?;
                let Some(number) = names.number_of(name).and_then(|number| bits(Int::Int32, number.into()))
                else {
                    let what = format!("{:?} is not in {}", String::from_utf8_lossy(name), names.name);
                    return Err(self.wrong(message, field, &what));
                };
                put_varint(number, out);
            }
            Type::Int(int) => {
                let value = self.integer(message, field)?;
                let range = || self.wrong(message, field, &format!("{value} is out of range"));
                put_number(wire_type, bits(int, value).ok_or_else(range)?, out);
            }
        }
        Ok(())
    }

    fn integer(&mut self, message: &Message, field: &Field) -> Result<i128> {
        match self.reader.next()? {
            Next::Number => self.reader.number(),
            Next::Bool => self.reader.boolean().map(i128::from),
            _ => {
                self.expect(message, field, Next::String)?;
                let text = String::from_utf8_lossy(self.reader.string()?).into_owned();
                integer_of(&text, field.render).map_err(|what| self.wrong(message, field, &what))
            }
        }
    }

    fn address(&mut self, message: &Message, field: &Field, out: &mut Vec<u8>) -> Result<()> {
        let text = String::from_utf8_lossy(self.reader.string()?).into_owned();
        let words = address_words(&text)
            .ok_or_else(|| self.wrong(message, field, &format!("{text:?} is no address")))?;
        for word in words {
            field.wire_key.put(out);
            put_varint(word.into(), out);
        }
        Ok(())
    }

    fn expect(&mut self, message: &Message, field: &Field, wanted: Next) -> Result<()> {
        let found = self.reader.next()?;
        if found == wanted {
            return Ok(());
        }
        Err(self.wrong(message, field, &format!("{} where {} belongs", found.name(), wanted.name())))
    }

    fn wrong(&self, message: &Message, field: &Field, what: &str) -> crate::ImageError {
        self.reader.error(format!("{}.{}: {what}", message.name, field.name))
    }
}

/// A number written as text, in the way its field has it or in any base.
fn integer_of(text: &str, render: Render) -> Result<i128, String> {
    let text = text.trim();
    match render {
        Render::Dev { user } => {
            let Some((major, minor)) = text.split_once(':') else { return plain_integer(text) };
            let number =
                |text: &str| text.trim().parse().map_err(|_| format!("{text:?} is no device number"));
            let value = device_value(number(major)?, number(minor)?, user);
            value.map(i128::from).ok_or_else(|| format!("no encoding has room for the device {text}"))
        }
        Render::Flags(_) if text.is_empty() => Ok(0),
        Render::Flags(table) => text.split('|').map(str::trim).try_fold(0_i128, |sum, part| {
            let value = match table.bit(part) {
                Some(bit) => i128::from(bit),
                None => plain_integer(part)?,
            };
            sum.checked_add(value).ok_or_else(|| format!("{part} is out of range"))
        }),
        Render::Dict(table) => table.value(text).map_or_else(|| plain_integer(text), |v| Ok(v.into())),
        Render::Plain | Render::Hex | Render::Address | Render::UnixName => plain_integer(text),
    }
}

fn plain_integer(text: &str) -> Result<i128, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, digits.get(2..)),
        Some("0o") => (8, digits.get(2..)),
        Some("0b") => (2, digits.get(2..)),
        _ => (10, Some(digits)),
    };
    // A second sign would be taken otherwise.
    let digits = digits.filter(|d| d.starts_with(|c: char| c.is_digit(radix)));
    // "010" is eight to some, ten to others.
    let digits = digits.filter(|d| radix != 10 || *d == "0" || !d.starts_with('0'));
    let value = digits.and_then(|digits| i128::from_str_radix(digits, radix).ok());
    let value = value.ok_or_else(|| format!("unknown name or number {text:?}"))?;
    Ok(if negative { -value } else { value })
}

/// Puts the length of all behind the byte at `start` there, and returns how many bytes more than that one it needs.
#[inline]
pub(super) fn put_length(start: usize, out: &mut Vec<u8>) -> usize {
    let len = out.len() - start - 1;
    if let (Ok(short @ ..0x80), Some(room)) = (u8::try_from(len), out.get_mut(start)) {
        *room = short;
        return 0;
    }
    let mut length = Vec::new();
    put_varint(len as u64, &mut length);
    let more = length.len() - 1;
    out.splice(start..=start, length);
    more
}

/// Brings the fields that lie behind `base` into the order of their numbers. Of a key that came twice the last counts.
fn rearrange(parts: &mut [Part], base: usize, out: &mut Vec<u8>) {
    parts.sort_by_key(|part| part.field);
    let old = out.split_off(base);
    for same in parts.chunk_by(|a, b| a.field == b.field) {
        if let Some(part) = same.last() {
            out.extend(old.get(part.start - base..part.end - base).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tables;

    #[test]
    fn numbers_as_text() {
        for (text, value) in [("0x1f", 31), ("-0x1", -1), ("0O17", 15), ("0b101", 5), ("42", 42), ("+7", 7)] {
            assert_eq!(plain_integer(text), Ok(value), "{text}");
        }
        for text in [
            "",
            "0x",
            "-",
            "--1",
            "0x-1",
            "010",
            "1_0",
            "x",
            "1 2",
            "9999999999999999999999999999999999999999",
        ] {
            assert!(plain_integer(text).is_err(), "{text}");
        }
        let prot = Render::Flags(tables::flags("mmap.prot").unwrap());
        assert_eq!(integer_of("PROT_READ|PROT_EXEC | 0x10", prot), Ok(21));
        assert_eq!(integer_of("", prot), Ok(0));
        assert!(integer_of("PROT_NOTHING", prot).is_err());
        assert_eq!(integer_of("8:1", Render::Dev { user: false }), Ok(0x80_0001));
        let state = Render::Dict(tables::dict("sk", "state").unwrap());
        assert_eq!(integer_of("LISTEN", state), Ok(10));
        assert_eq!(integer_of("11", state), Ok(11));
    }
}
