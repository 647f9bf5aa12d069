//! Messages to JSON.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::print::Printer;
use super::schema::{Field, Message, Render, Schema, Type};
use super::text;
use super::wire::{self, Item, MAX_DEPTH, Malformed, Wire};

/// Prints the fields of a message, in order of their number, into an object that the caller opens and closes.
pub(super) fn fields(
    schema: &Schema,
    message: &Message,
    bytes: &[u8],
    out: &mut Printer,
) -> Result<(), Malformed> {
    Renderer { schema, out, depth: MAX_DEPTH }.fields(message, bytes, false)
}

struct Renderer<'p> {
    schema: &'p Schema,
    out: &'p mut Printer,
    depth: usize,
}

impl Renderer<'_> {
    /// `hex`: a field above asks it of all integers.
    fn fields(&mut self, message: &Message, bytes: &[u8], hex: bool) -> Result<(), Malformed> {
        let items = wire::items(self.schema, message, bytes)?;
        for same in items.chunk_by(|a, b| a.field == b.field) {
            let Some(field) = same.first().and_then(|item| message.fields.get(item.field)) else { continue };
            self.out.field(field);
            if field.repeated {
                self.list(field, same, hex)?;
            } else {
                self.single(field, same, hex)?;
            }
        }
        Ok(())
    }

    fn list(&mut self, field: &Field, items: &[Item<'_>], hex: bool) -> Result<(), Malformed> {
        self.out.open(b'[');
        let words = items.iter().map(|item| match item.value {
            Wire::Number(bits) => u32::try_from(bits).unwrap_or(u32::MAX),
            Wire::Bytes(_) => 0,
        });
        let shown = matches!(field.render, Render::Address) && self.out.pretty();
        if let Some(address) = shown.then(|| address(words)).flatten() {
            self.out.element();
            self.out.string(address.as_bytes());
        } else {
            for item in items {
                self.out.element();
                self.value(field, item.value, hex)?;
            }
        }
        self.out.close(b']');
        Ok(())
    }

    fn single(&mut self, field: &Field, items: &[Item<'_>], hex: bool) -> Result<(), Malformed> {
        match items {
            [several @ .., last] if several.is_empty() || !matches!(field.ty, Type::Message(_)) => {
                self.value(field, last.value, hex)
            }
            // A message in several pieces is the pieces put together.
            pieces => {
                let mut whole = Vec::new();
                for piece in pieces {
                    if let Wire::Bytes(bytes) = piece.value {
                        whole.extend(bytes);
                    }
                }
                self.value(field, Wire::Bytes(&whole), hex)
            }
        }
    }

    fn value(&mut self, field: &Field, value: Wire<'_>, hex: bool) -> Result<(), Malformed> {
        match (field.ty, value) {
            (Type::Message(index), Wire::Bytes(bytes)) => {
                self.depth = self.depth.checked_sub(1).ok_or(Malformed("it nests too deep"))?;
                self.out.open(b'{');
                let hex = hex || matches!(field.render, Render::Hex);
                self.fields(self.schema.message(index), bytes, hex)?;
                self.out.close(b'}');
                self.depth += 1;
            }
            (Type::String, Wire::Bytes(bytes)) => self.out.string(bytes),
            (_, Wire::Bytes(bytes)) if matches!(field.render, Render::UnixName) => {
                self.out.string(&text::quoted_printable(bytes));
            }
            (_, Wire::Bytes(bytes)) => self.out.base64(bytes),
            (Type::Bool, Wire::Number(bits)) => {
                self.out.buf.extend(if bits == 0 { &b"false"[..] } else { b"true" });
            }
            #[expect(clippy::cast_possible_truncation, reason = "so does the encoding: enums have 32 bits")]
            (Type::Enum(index), Wire::Number(bits)) => {
                let name = self.schema.enumeration(index).name_of((bits as u32).cast_signed());
                self.out.string(name.unwrap_or_default().as_bytes());
            }
            (Type::Int(int), Wire::Number(bits)) => {
                let value = wire::integer(int, bits);
                let render = if hex { Render::Hex } else { field.render };
                if self.out.pretty() { self.humane(value, render) } else { self.out.number(value) }
            }
            (Type::String | Type::Bytes | Type::Message(_), Wire::Number(_)) => {
                return Err(Malformed("a number where bytes belong"));
            }
        }
        Ok(())
    }

    fn humane(&mut self, value: i128, render: Render) {
        let buf = &mut self.out.buf;
        let written = match (render, u64::try_from(value)) {
            (Render::Hex, _) => {
                let sign = if value < 0 { "-" } else { "" };
                write!(buf, "\"{sign}{:#x}\"", value.unsigned_abs())
            }
            (Render::Dev { user }, Ok(value)) => {
                let (major, minor) = device(value, user);
                write!(buf, "\"{major}:{minor}\"")
            }
            (Render::Flags(table), Ok(value)) => {
                let (names, rest) = table.split(value);
                let rest = (rest != 0).then(|| format!("{rest:#x}"));
                let parts: Vec<String> = names.map(str::to_owned).chain(rest).collect();
                write!(buf, "\"{}\"", parts.join(" | "))
            }
            (Render::Dict(table), Ok(value)) => match table.name(value) {
                Some(name) => write!(buf, "\"{name}\""),
                None => return self.out.number(i128::from(value)),
            },
            _ => return self.out.number(value),
        };
        written.expect("a Vec takes everything");
    }
}

/// Major and minor number, as the kernel encodes them inside or as user space sees them.
pub(super) fn device(value: u64, user: bool) -> (u64, u64) {
    if user {
        const MINOR: u64 = 0xffff_ff00;
        ((value >> 8 & 0xfff) | (value >> 32 & !0xfff), (value & 0xff) | (value >> 12 & MINOR))
    } else {
        (value >> 20, value & 0xf_ffff)
    }
}

/// The value of [`device`]'s numbers, `None` if they do not fit.
pub(super) fn device_value(major: u64, minor: u64, user: bool) -> Option<u64> {
    let value = if user {
        (major & 0xfff) << 8 | (major & !0xfff) << 32 | (minor & 0xff) | (minor & !0xff) << 12
    } else {
        major.checked_mul(1 << 20)? | minor
    };
    (device(value, user) == (major, minor)).then_some(value)
}

/// The words of an address lie in memory as the network has them.
fn address(words: impl ExactSizeIterator<Item = u32>) -> Option<String> {
    let count = words.len();
    let bytes: Vec<u8> = words.take(4).flat_map(u32::to_le_bytes).collect();
    if count == 1 {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string());
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    Some(match (address.to_ipv4_mapped(), address.segments()) {
        // Rust shows the last 4 bytes as IPv4 address here.
        (Some(_), [.., high, low]) => format!("::ffff:{high:x}:{low:x}"),
        _ => address.to_string(),
    })
}

/// The words of an address.
pub(super) fn address_words(text: &str) -> Option<Vec<u32>> {
    let bytes = match text.trim().parse().ok()? {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let word = |b: &[u8]| <[u8; 4]>::try_from(b).map(u32::from_le_bytes);
    bytes.chunks(4).map(word).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_both_ways() {
        for value in [0, 0x0080_0001, 0x0801, u64::from(u32::MAX), 0x1234_5678_9abc_def0, u64::MAX] {
            for user in [false, true] {
                let (major, minor) = device(value, user);
                assert_eq!(device_value(major, minor, user), Some(value), "{value:#x}");
            }
        }
        assert_eq!(device(0x0080_0001, false), (8, 1));
        assert_eq!(device(0x0801, true), (8, 1));
        assert_eq!(device_value(1, 1 << 20, false), None, "the minor has 20 bits");
    }

    #[test]
    fn addresses_both_ways() {
        for text in ["127.0.0.1", "::1", "::", "fe80::1:2", "::ffff:7f00:1", "1:2:3:4:5:6:7:8"] {
            let words = address_words(text).unwrap();
            assert_eq!(address(words.into_iter()).unwrap(), text);
        }
        assert_eq!(address([1, 2].into_iter()), None);
        assert_eq!(address_words("localhost"), None);
    }
}
