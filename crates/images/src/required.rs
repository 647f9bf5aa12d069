//! Required fields: prost decodes a message that lacks them without complaint, so they are looked for in the wire bytes.

pub(crate) struct Shape {
    pub(crate) name: &'static str,
    required: &'static [(u32, &'static str)],
    nested: &'static [(u32, usize)],
}

impl Shape {
    /// The shape of a message by its name.
    pub(crate) fn of(message: &str) -> Option<&'static Self> {
        SHAPES.get(SHAPES.binary_search_by_key(&message, |shape| shape.name).ok()?)
    }

    /// The shape of the message in field `number`, `None` if that holds no message.
    pub(crate) fn nested(&self, number: u32) -> Option<&'static Self> {
        SHAPES.get(self.nested.iter().find(|(n, _)| *n == number)?.1)
    }
}

include!("generated/shapes.rs");

/// Deeper nesting than any image has is left to prost's own limit.
const MAX_DEPTH: usize = 100;

/// The dotted name of the first required field that `bytes`, a `message`, lacks.
pub(crate) fn missing(message: &str, bytes: &[u8]) -> Option<String> {
    missing_in(Shape::of(message)?, bytes, MAX_DEPTH).map(|field| format!("{message}.{field}"))
}

fn missing_in(shape: &Shape, mut bytes: &[u8], depth: usize) -> Option<String> {
    // Required numbers are small in all messages but few; the rest goes without the quick set.
    let mut seen = 0_u128;
    let mut seen_large = Vec::new();
    while let Some((number, value)) = next_field(&mut bytes) {
        match 1_u128.checked_shl(number).filter(|_| number < 128) {
            Some(bit) => seen |= bit,
            None => seen_large.push(number),
        }
        let nested = shape.nested.iter().find(|(n, _)| *n == number);
        if let (Some(&(_, index)), Some(value), true) = (nested, value, depth > 0) {
            let shape = SHAPES.get(index)?;
            if let Some(field) = missing_in(shape, value, depth - 1) {
                return Some(format!("{}.{field}", shape.name));
            }
        }
    }
    let has = |n: u32| if n < 128 { seen >> n & 1 == 1 } else { seen_large.contains(&n) };
    shape.required.iter().find(|(n, _)| !has(*n)).map(|(_, name)| (*name).to_owned())
}

/// Takes the next field; its bytes if it is length-delimited. `None` at the end, and on malformed bytes, which the
/// decoder has refused before.
pub(crate) fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
    let tag = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok()?;
    match tag & 7 {
        0 => varint(bytes).map(|_| (number, None)),
        1 => take(bytes, 8).map(|_| (number, None)),
        2 => {
            let len = varint(bytes)?;
            take(bytes, usize::try_from(len).ok()?).map(|value| (number, Some(value)))
        }
        5 => take(bytes, 4).map(|_| (number, None)),
        _ => None,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (value, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto;

    #[test]
    fn empty_vma_lacks_start_and_nested_names_are_dotted() {
        assert_eq!(missing("vma_entry", &[]).as_deref(), Some("vma_entry.start"));
        // mm_entry with all of its own fields but one empty vma (field 14).
        let mut bytes = proto::MmEntry::default().encode_to_vec();
        assert_eq!(missing("mm_entry", &bytes), None);
        bytes.extend([14 << 3 | 2, 0]);
        assert_eq!(missing("mm_entry", &bytes).as_deref(), Some("mm_entry.vma_entry.start"));
    }

    #[test]
    fn table_is_sorted() {
        assert!(SHAPES.is_sorted_by_key(|s| s.name));
    }
}
