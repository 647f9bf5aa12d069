//! A message changed through its type, put back into the bytes it was read from.

use crate::required::{Shape, next_field};

/// Deeper messages are taken as changed as a whole.
const MAX_DEPTH: usize = 100;

/// A field as it stands in the bytes.
#[derive(Debug, Clone, Copy)]
struct Field<'a> {
    number: u32,
    /// With its key.
    raw: &'a [u8],
    /// If it is length-delimited.
    value: Option<&'a [u8]>,
}

/// `original` with the change from `old` to `new`, both of which our encoder wrote. What did not change keeps its bytes and
/// its place: fields nobody knows, and encodings that are valid and not ours.
pub(crate) fn merge(message: &str, original: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    merge_in(Shape::of(message), original, old, new, MAX_DEPTH)
}

fn merge_in(shape: Option<&Shape>, original: &[u8], old: &[u8], new: &[u8], depth: usize) -> Vec<u8> {
    if old == new {
        return original.to_vec();
    }
    let (original, old, new) = (fields(original), fields(old), fields(new));
    let mut numbers: Vec<u32> = old.iter().chain(&new).map(|field| field.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut out: Vec<(u32, Vec<u8>)> = Vec::with_capacity(original.len());
    let changed: Vec<u32> = numbers.into_iter().filter(|n| !same(&of(&old, *n), &of(&new, *n))).collect();
    let mut done = Vec::new();
    for field in &original {
        if !changed.contains(&field.number) {
            out.push((field.number, field.raw.to_vec()));
        } else if !done.contains(&field.number) {
            done.push(field.number);
            out.push((field.number, changed_field(shape, field.number, &original, &old, &new, depth)));
        }
    }
    for number in changed.into_iter().filter(|number| !done.contains(number)) {
        let bytes = changed_field(shape, number, &original, &old, &new, depth);
        let at = out.iter().position(|(n, _)| *n > number).unwrap_or(out.len());
        out.insert(at, (number, bytes));
    }
    out.into_iter().flat_map(|(_, bytes)| bytes).collect()
}

/// All occurrences of one field.
fn changed_field(
    shape: Option<&Shape>,
    number: u32,
    original: &[Field<'_>],
    old: &[Field<'_>],
    new: &[Field<'_>],
    depth: usize,
) -> Vec<u8> {
    let nested = shape.and_then(|shape| shape.nested(number)).filter(|_| depth > 0);
    let (original, old, new) = (of(original, number), of(old, number), of(new, number));
    // A field in several pieces, or packed: which piece is which nobody can tell.
    let paired = original.len() == old.len();
    let mut out = Vec::new();
    for (index, field) in new.iter().enumerate() {
        // An element that only moved is found by what it is.
        let moved = old.iter().position(|o| o.raw == field.raw);
        let in_place = (old.len() == new.len()).then_some(index);
        let before =
            in_place.filter(|&i| old.get(i).is_some_and(|o| o.raw == field.raw)).or(moved).or(in_place);
        let pair = before.filter(|_| paired).and_then(|i| Some((original.get(i)?, old.get(i)?)));
        match (pair, nested) {
            (Some((was, old)), _) if old.raw == field.raw => out.extend(was.raw),
            (Some((was, old)), Some(shape)) => {
                let values = was.value.zip(old.value).zip(field.value);
                let Some(((was, old), value)) = values else {
                    out.extend(field.raw);
                    continue;
                };
                let merged = merge_in(Some(shape), was, old, value, depth - 1);
                prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
                prost::encoding::encode_varint(merged.len() as u64, &mut out);
                out.extend(merged);
            }
            _ => out.extend(field.raw),
        }
    }
    out
}

fn fields(mut bytes: &[u8]) -> Vec<Field<'_>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let before = bytes;
        // Decoded before: what is left is a group, which no image has and which stays as it is.
        let Some((number, value)) = next_field(&mut bytes) else {
            all.push(Field { number: u32::MAX, raw: before, value: None });
            break;
        };
        let raw = before.get(..before.len() - bytes.len()).unwrap_or_default();
        all.push(Field { number, raw, value });
    }
    all
}

fn of<'a>(fields: &[Field<'a>], number: u32) -> Vec<Field<'a>> {
    fields.iter().filter(|field| field.number == number).copied().collect()
}

fn same(a: &[Field<'_>], b: &[Field<'_>]) -> bool {
    a.iter().map(|field| field.raw).eq(b.iter().map(|field| field.raw))
}
