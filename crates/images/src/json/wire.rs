//! The protobuf encoding, field by field.

use super::schema::{Int, Message, Schema, Type};

/// Deeper than any message of the schema nests, but for policies of AppArmor, which may hold one another.
pub(super) const MAX_DEPTH: usize = 100;

/// Why bytes are no message. prost has a type for this, but no way to make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// A value as it lies in the bytes, with the index of its field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) field: usize,
    pub(super) value: Wire<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    /// Of all integer types, bool and enum: the bits before conversion.
    Number(u64),
    Bytes(&'a [u8]),
}

/// The values of the fields `message` knows, in order of the field, several values of one field in their own order.
pub(super) fn items<'a>(
    schema: &Schema,
    message: &Message,
    bytes: &'a [u8],
) -> Result<Vec<Item<'a>>, Malformed> {
    items_with(schema, message, bytes, |_, _| {})
}

/// As [`items`]; `unknown` gets the index of the field and the number of each enum value without name, which is left out.
pub(super) fn items_with<'a>(
    schema: &Schema,
    message: &Message,
    mut bytes: &'a [u8],
    mut unknown: impl FnMut(usize, i32),
) -> Result<Vec<Item<'a>>, Malformed> {
    let mut items: Vec<Item<'a>> = Vec::with_capacity(message.fields.len().min(bytes.len() / 2));
    let mut sorted = true;
    while !bytes.is_empty() {
        let (number, wire_type) = key(&mut bytes)?;
        let Some((index, field)) = message.by_number(number, items.len()) else {
            skip(&mut bytes, number, wire_type, MAX_DEPTH)?;
            continue;
        };
        let mut known = |value: u64| {
            let Type::Enum(e) = field.ty else { return true };
            #[expect(clippy::cast_possible_truncation, reason = "so does the encoding: enums have 32 bits")]
            let number = (value as u32).cast_signed();
            // A number without name: unknown, as a field without name is.
            let known = schema.enumeration(e).name_of(number).is_some();
            if !known {
                unknown(index, number);
            }
            known
        };
        let wanted = wire_type_of(field.ty);
        let before = items.len();
        if wire_type == wanted {
            let value = value(field.ty, &mut bytes)?;
            if matches!(value, Wire::Number(n) if !known(n)) {
                continue;
            }
            items.push(Item { field: index, value });
        } else if wire_type == 2 && field.repeated && wanted != 2 {
            let mut packed = take_length(&mut bytes)?;
            while !packed.is_empty() {
                let value = number_of(&mut packed, wanted)?;
                if known(value) {
                    items.push(Item { field: index, value: Wire::Number(value) });
                }
            }
        } else {
            skip(&mut bytes, number, wire_type, MAX_DEPTH)?;
            continue;
        }
        let last = before.checked_sub(1).and_then(|i| items.get(i));
        sorted &= last.is_none_or(|last| last.field <= index);
    }
    if !sorted {
        items.sort_by_key(|item| item.field);
    }
    Ok(items)
}

/// Takes the value that comes next, which is not packed; its key has been read.
#[inline]
pub(super) fn value<'a>(ty: Type, bytes: &mut &'a [u8]) -> Result<Wire<'a>, Malformed> {
    Ok(match wire_type_of(ty) {
        2 => Wire::Bytes(take_length(bytes)?),
        wire_type => Wire::Number(number_of(bytes, wire_type)?),
    })
}

/// The wire type of a value that is not packed.
pub(super) fn wire_type_of(ty: Type) -> u8 {
    match ty {
        Type::String | Type::Bytes | Type::Message(_) => 2,
        Type::Int(Int::Fixed64 | Int::Sfixed64) => 1,
        Type::Int(Int::Fixed32 | Int::Sfixed32) => 5,
        Type::Int(_) | Type::Bool | Type::Enum(_) => 0,
    }
}

/// What the bits mean.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the encoding defines the values by cutting and reinterpreting"
)]
pub(super) fn integer(int: Int, bits: u64) -> i128 {
    match int {
        Int::Int32 | Int::Sfixed32 => i128::from(bits as u32 as i32),
        Int::Int64 | Int::Sfixed64 => i128::from(bits as i64),
        Int::Uint32 | Int::Fixed32 => i128::from(bits as u32),
        Int::Uint64 | Int::Fixed64 => i128::from(bits),
        Int::Sint32 => {
            let bits = bits as u32;
            i128::from((bits >> 1) as i32 ^ -((bits & 1) as i32))
        }
        Int::Sint64 => i128::from((bits >> 1) as i64 ^ -((bits & 1) as i64)),
    }
}

/// The bits that mean `value`, `None` if the type has no such value.
pub(super) fn bits(int: Int, value: i128) -> Option<u64> {
    let signed64 = |v: i64| u64::from_ne_bytes(v.to_ne_bytes());
    Some(match int {
        // Negative numbers take ten bytes whatever their type.
        Int::Int32 => signed64(i32::try_from(value).ok()?.into()),
        Int::Int64 | Int::Sfixed64 => signed64(i64::try_from(value).ok()?),
        Int::Uint32 | Int::Fixed32 => u32::try_from(value).ok()?.into(),
        Int::Uint64 | Int::Fixed64 => u64::try_from(value).ok()?,
        Int::Sfixed32 => u32::from_ne_bytes(i32::try_from(value).ok()?.to_ne_bytes()).into(),
        Int::Sint32 => {
            let value = i32::try_from(value).ok()?;
            u32::from_ne_bytes(((value << 1) ^ (value >> 31)).to_ne_bytes()).into()
        }
        Int::Sint64 => {
            let value = i64::try_from(value).ok()?;
            signed64((value << 1) ^ (value >> 63))
        }
    })
}

#[inline]
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    if let Some(short) = Short::varint(value) {
        return short.put(out);
    }
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Up to eight bytes, the first one lowest. Many images are little but numbers: putting all eight and taking back those too
/// many is several times faster than putting them one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    bytes: u64,
    len: usize,
}

impl Short {
    /// A number of at most 56 bits.
    #[inline]
    fn varint(value: u64) -> Option<Self> {
        if value < 0x80 {
            return Some(Self { bytes: value, len: 1 });
        }
        if value >> 56 != 0 {
            return None;
        }
        // Seven bits to each byte: halves apart, then quarters, then eighths.
        let halves = (value & 0x0fff_ffff) | ((value & 0x00ff_ffff_f000_0000) << 4);
        let quarters = (halves & 0x0000_3fff_0000_3fff) | ((halves & 0x0fff_c000_0fff_c000) << 2);
        let eighths = (quarters & 0x007f_007f_007f_007f) | ((quarters & 0x3f80_3f80_3f80_3f80) << 1);
        let bits = u64::BITS - value.leading_zeros();
        let len = bits.div_ceil(7);
        let all_but_last = (1_u64 << (8 * (len - 1))) - 1;
        Some(Self { bytes: eighths | (0x8080_8080_8080_8080 & all_but_last), len: len as usize })
    }

    /// What stands before a value.
    pub(super) fn key(number: u32, wire_type: u8) -> Self {
        Self::varint(u64::from(number) << 3 | u64::from(wire_type)).expect("35 bits")
    }

    /// The byte it is, if it is one.
    pub(super) fn only_byte(self) -> Option<u8> {
        if self.len == 1 { u8::try_from(self.bytes).ok() } else { None }
    }

    /// Takes these bytes, if they come next.
    pub(super) fn take(self, bytes: &mut &[u8]) -> bool {
        let begins = self.bytes.to_le_bytes();
        let rest = begins.get(..self.len).and_then(|begins| bytes.strip_prefix(begins));
        if let Some(rest) = rest {
            *bytes = rest;
        }
        rest.is_some()
    }

    #[inline]
    pub(super) fn put(self, out: &mut Vec<u8>) {
        let end = out.len() + self.len;
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.truncate(end);
    }
}

/// The bits that mean the whole number `value`: as [`bits`], in the simple cases.
pub(super) fn bits_of_whole(int: Int, value: u64) -> Option<u64> {
    match int {
        Int::Uint64 | Int::Fixed64 => Some(value),
        Int::Uint32 | Int::Fixed32 => u32::try_from(value).ok().map(u64::from),
        Int::Int32 | Int::Sfixed32 => i32::try_from(value).ok().map(|_| value),
        Int::Int64 | Int::Sfixed64 => i64::try_from(value).ok().map(|_| value),
        Int::Sint32 | Int::Sint64 => None,
    }
}

/// Appends a number of this wire type, without its key.
#[inline]
pub(super) fn put_number(wire_type: u8, bits: u64, out: &mut Vec<u8>) {
    match wire_type {
        1 => out.extend(bits.to_le_bytes()),
        5 => out.extend(bits.to_le_bytes().into_iter().take(4)),
        _ => put_varint(bits, out),
    }
}

pub(super) fn key(bytes: &mut &[u8]) -> Result<(u32, u8), Malformed> {
    let key = varint(bytes)?;
    let number = u32::try_from(key >> 3).map_err(|_| Malformed("a field number above 2^29"))?;
    match number {
        0 => Err(Malformed("field number 0")),
        _ => Ok((number, (key & 7) as u8)),
    }
}

#[inline]
fn number_of(bytes: &mut &[u8], wire_type: u8) -> Result<u64, Malformed> {
    match wire_type {
        1 => take(bytes, 8).map(little_endian),
        5 => take(bytes, 4).map(little_endian),
        _ => varint(bytes),
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

pub(super) fn skip(bytes: &mut &[u8], number: u32, wire_type: u8, depth: usize) -> Result<(), Malformed> {
    match wire_type {
        0 | 1 | 5 => number_of(bytes, wire_type).map(drop),
        2 => take_length(bytes).map(drop),
        3 if depth == 0 => Err(Malformed("groups nest too deep")),
        3 => loop {
            let (inner, wire_type) = key(bytes)?;
            if wire_type != 4 {
                skip(bytes, inner, wire_type, depth - 1)?;
            } else if inner == number {
                break Ok(());
            } else {
                break Err(Malformed("a group ends that did not begin"));
            }
        },
        _ => Err(Malformed("an unknown wire type")),
    }
}

#[inline]
fn take_length<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = varint(bytes)?;
    take(bytes, usize::try_from(len).unwrap_or(usize::MAX))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (value, rest) = bytes.split_at_checked(len).ok_or(Malformed("it ends inside a field"))?;
    *bytes = rest;
    Ok(value)
}

#[inline]
fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    if let Some((value, len)) = short_varint(bytes) {
        *bytes = bytes.get(len..).unwrap_or_default();
        return Ok(value);
    }
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed("it ends inside a number"))?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("a number of more than 64 bits"))
}

/// The number that begins `bytes` and its length, if it is one of up to eight bytes and so many are there.
#[inline]
fn short_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    const GOES_ON: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let ends = !word & GOES_ON;
    if ends == 0 {
        return None;
    }
    let bits = ends.trailing_zeros() + 1;
    let eighths = word & !GOES_ON & (u64::MAX >> (u64::BITS - bits));
    // Seven bits from each byte: neighbours together, then pairs, then halves.
    let quarters = (eighths & 0x007f_007f_007f_007f) | (eighths & 0x7f00_7f00_7f00_7f00) >> 1;
    let halves = (quarters & 0x0000_3fff_0000_3fff) | (quarters & 0x3fff_0000_3fff_0000) >> 2;
    let value = (halves & 0x0fff_ffff) | (halves & 0x0fff_ffff_0000_0000) >> 4;
    Some((value, bits as usize / 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_integers_are_inverse_at_the_edges() {
        let ints = [
            (Int::Int32, i128::from(i32::MIN), i128::from(i32::MAX)),
            (Int::Sint32, i128::from(i32::MIN), i128::from(i32::MAX)),
            (Int::Sfixed32, i128::from(i32::MIN), i128::from(i32::MAX)),
            (Int::Int64, i128::from(i64::MIN), i128::from(i64::MAX)),
            (Int::Sint64, i128::from(i64::MIN), i128::from(i64::MAX)),
            (Int::Sfixed64, i128::from(i64::MIN), i128::from(i64::MAX)),
            (Int::Uint32, 0, i128::from(u32::MAX)),
            (Int::Fixed32, 0, i128::from(u32::MAX)),
            (Int::Uint64, 0, i128::from(u64::MAX)),
            (Int::Fixed64, 0, i128::from(u64::MAX)),
        ];
        for (int, low, high) in ints {
            for value in [low, low + 1, 0, 1, high - 1, high] {
                assert_eq!(integer(int, bits(int, value).unwrap()), value, "{int:?}");
            }
            assert_eq!(bits(int, low - 1), None, "{int:?}");
            assert_eq!(bits(int, high + 1), None, "{int:?}");
        }
    }

    #[test]
    fn numbers_of_every_length() {
        let edges = (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for value in edges.chain([u64::MAX, 0x0123_4567_89ab_cdef]) {
            let (mut ours, mut wanted) = (Vec::new(), Vec::new());
            put_varint(value, &mut ours);
            prost::encoding::encode_varint(value, &mut wanted);
            assert_eq!(ours, wanted, "{value:x}");
            for behind in [0, 1, 0x80, 0xff] {
                let padded = [ours.as_slice(), &[behind; 9]].concat();
                assert_eq!(varint(&mut padded.as_slice()), Ok(value));
                assert_eq!(short_varint(&padded), (ours.len() <= 8).then_some((value, ours.len())));
            }
            assert_eq!(varint(&mut ours.as_slice()), Ok(value), "nothing behind it");
        }
        let (mut ours, mut wanted) = (Vec::new(), Vec::new());
        for number in [1, 15, 16, 2047, 2048, (1 << 29) - 1] {
            Short::key(number, 2).put(&mut ours);
            prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut wanted);
        }
        assert_eq!(ours, wanted);
    }

    #[test]
    fn unknown_fields_and_groups_are_passed_over() {
        let schema = Schema::get();
        let fs = schema.find("fs_entry").unwrap();
        // 500: group with a varint inside; 2: root_id; 1: cwd_id.
        let bytes = [0xa3, 0x1f, 0x08, 0x05, 0xa4, 0x1f, 0x10, 0x02, 0x08, 0x01];
        let items = items(schema, fs, &bytes).unwrap();
        let values: Vec<_> = items.iter().map(|i| (i.field, matches!(i.value, Wire::Number(_)))).collect();
        assert_eq!(values, [(0, true), (1, true)], "sorted by number");
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let schema = Schema::get();
        let fs = schema.find("fs_entry").unwrap();
        for bytes in [&[0x08][..], &[0x08, 0x80], &[0x0f], &[0x00, 0x00], &[0xa4, 0x1f], &[0xff; 12]] {
            assert!(items(schema, fs, bytes).is_err(), "{bytes:x?}");
        }
    }
}
