//! Messages to JSON.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::print::Printer;
use super::schema::{Field, Int, Message, Render, Schema, Type};
use super::text;
use super::wire::{self, Item, MAX_DEPTH, Malformed, Wire};

/// Prints the fields of a message, in order of their number, into an object that the caller opens and closes.
pub(super) fn fields(
    schema: &Schema,
    message: &Message,
    bytes: &[u8],
    out: &mut Printer,
) -> Result<(), Malformed> {
    let place = out.place();
    let as_they_come = Renderer { schema, out, depth: MAX_DEPTH, sorts: false }.fields(message, bytes, false);
    if as_they_come.is_err() {
        out.go_back_to(place);
        return Renderer { schema, out, depth: MAX_DEPTH, sorts: true }.fields(message, bytes, false);
    }
    Ok(())
}

/// Nothing is wrong with the bytes, but they are not as all tools write them.
const UNUSUAL: Malformed = Malformed("not in order");

struct Renderer<'p> {
    schema: &'p Schema,
    out: &'p mut Printer,
    depth: usize,
    /// Fields are put in order first. All tools write them in order, and then they are printed as they come, which is several
    /// times faster; what is not as usual is an error then.
    sorts: bool,
}

impl Renderer<'_> {
    /// `hex`: a field above asks it of all integers.
    fn fields(&mut self, message: &Message, bytes: &[u8], hex: bool) -> Result<(), Malformed> {
        if !self.sorts {
            return self.fields_as_they_come(message, bytes, hex);
        }
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

    fn fields_as_they_come(
        &mut self,
        message: &Message,
        mut bytes: &[u8],
        hex: bool,
    ) -> Result<(), Malformed> {
        let mut least = 0;
        while let Some((&first, behind)) = bytes.split_first() {
            let (index, field) = if let Some(found) = message.by_key(first) {
                bytes = behind;
                found
            } else {
                let (number, wire_type) = wire::key(&mut bytes)?;
                let Some(found) = message.by_number(number, least) else {
                    wire::skip(&mut bytes, number, wire_type, MAX_DEPTH)?;
                    continue;
                };
                if wire_type != wire::wire_type_of(found.1.ty) {
                    return Err(UNUSUAL);
                }
                found
            };
            if index < least {
                return Err(UNUSUAL);
            }
            least = index + 1;
            self.out.field(field);
            if !field.repeated {
                let value = wire::value(field.ty, &mut bytes)?;
                self.value(field, value, hex)?;
                continue;
            }
            // The words of an address are shown together.
            if self.out.pretty() && matches!(field.render, Render::Address) {
                return Err(UNUSUAL);
            }
            self.out.open(b'[');
            loop {
                self.out.element();
                let value = wire::value(field.ty, &mut bytes)?;
                self.value(field, value, hex)?;
                if !field.wire_key.take(&mut bytes) {
                    break;
                }
            }
            self.out.close(b']');
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
                // Those without a name are left out, before it comes to here if fields are sorted.
                self.out.plain_string(name.ok_or(UNUSUAL)?);
            }
            (Type::Int(Int::Uint64 | Int::Uint32), Wire::Number(bits)) if !self.out.pretty() => {
                let value =
                    if matches!(field.ty, Type::Int(Int::Uint64)) { bits } else { bits & 0xffff_ffff };
                self.out.whole_number(value);
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

    fn printed(sorts: bool, pretty: bool, message: &Message, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Printer::new(pretty);
        let schema = Schema::get();
        Renderer { schema, out: &mut out, depth: MAX_DEPTH, sorts }.fields(message, bytes, false)?;
        Ok(out.buf)
    }

    proptest::proptest! {
        /// What is printed as it comes is what sorting would have made of it.
        #[test]
        fn sorted_or_not(
            name in proptest::sample::select(&["file_entry", "core_entry", "inet_sk_entry", "mm_entry", "unix_sk_entry"][..]),
            parts in proptest::collection::vec((1_u8..25, proptest::collection::vec(0_u8..12, 0..12)), 0..9),
            sorted: bool,
            pretty: bool,
        ) {
            let message = Schema::get().find(name).unwrap();
            let mut parts = parts;
            if sorted {
                parts.sort();
            }
            let mut bytes = Vec::new();
            for (number, value) in parts {
                let Some((_, field)) = message.by_number(number.into(), 0) else { continue };
                field.wire_key.put(&mut bytes);
                match wire::wire_type_of(field.ty) {
                    2 => {
                        wire::put_varint(value.len() as u64, &mut bytes);
                        bytes.extend(value);
                    }
                    wire_type => wire::put_number(wire_type, value.iter().map(|byte| u64::from(*byte)).sum(), &mut bytes),
                }
            }
            let sorted = printed(true, pretty, message, &bytes);
            if let Ok(as_it_comes) = printed(false, pretty, message, &bytes) {
                assert_eq!(sorted, Ok(as_it_comes));
            }
        }
    }

    #[test]
    fn what_tools_write_is_printed_as_it_comes() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/pipe00-h");
        for image in std::fs::read_dir(dir).unwrap() {
            let Ok(mut image) = crate::json::open(&image.unwrap().path()) else { continue };
            let row = image.kind().info();
            while let Some(entry) = image.next_entry().unwrap() {
                let name = row.rest.filter(|_| entry.index > 0).unwrap_or(row.entry);
                let message = Schema::get().find(name).unwrap();
                let printed = printed(false, false, message, &entry.message);
                assert!(printed.is_ok(), "{}: {printed:?}", image.path().display());
            }
        }
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
