//! Just enough of the protobuf wire format to exchange fields of a message and keep every other byte.

/// A field as it lies in a message.
struct Field<'a> {
    number: u32,
    /// Its contents, if it has a length.
    contents: Option<&'a [u8]>,
    /// All of it, tag included.
    whole: &'a [u8],
}

/// Splits the first field off; `None` for what is no field.
fn next(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let number = u32::try_from(tag >> 3).ok()?;
    let (contents, rest) = match tag & 7 {
        0 => (None, varint(rest)?.1),
        1 => (None, rest.get(8..)?),
        2 => {
            let (len, rest) = varint(rest)?;
            let (contents, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            (Some(contents), rest)
        }
        5 => (None, rest.get(4..)?),
        _ => return None,
    };
    let whole = bytes.get(..bytes.len() - rest.len())?;
    Some((Field { number, contents, whole }, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// Appends a number as field `number`.
pub(crate) fn put(out: &mut Vec<u8>, number: u32, value: u32) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, u64::from(value));
}

/// The message without these fields; `None` if it is no message.
pub(crate) fn without(mut message: &[u8], numbers: &[u32]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len());
    while !message.is_empty() {
        let (field, rest) = next(message)?;
        if !numbers.contains(&field.number) {
            out.extend(field.whole);
        }
        message = rest;
    }
    Some(out)
}

/// The message with `map` applied to the message that is its field `number`; `None` if it is no message.
pub(crate) fn map_message(
    mut message: &[u8],
    number: u32,
    map: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len());
    while !message.is_empty() {
        let (field, rest) = next(message)?;
        match field.contents.filter(|_| field.number == number) {
            Some(contents) => {
                let contents = map(contents)?;
                put_varint(&mut out, u64::from(number) << 3 | 2);
                put_varint(&mut out, contents.len() as u64);
                out.extend(contents);
            }
            None => out.extend(field.whole),
        }
        message = rest;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_go_and_come_and_the_rest_stays() {
        // Field 1 varint 300, field 9 fixed64, field 3 message {11: 5}, field 200 (unknown) fixed32.
        let message = [
            &[0x08, 0xac, 0x02][..],
            &[0x49, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0x1a, 2, 0x58, 5],
            &[0xc5, 0x0c, 9, 9, 9, 9],
        ]
        .concat();
        let mapped = map_message(&message, 3, |inner| {
            assert_eq!(inner, [0x58, 5]);
            let mut inner = without(inner, &[11])?;
            put(&mut inner, 11, 300);
            Some(inner)
        });
        let expected = [&message[..12], &[0x1a, 3, 0x58, 0xac, 0x02], &message[16..]].concat();
        assert_eq!(mapped.unwrap(), expected);
        assert!(without(&message, &[1, 3, 9, 200]).unwrap().is_empty());
        for bad in [&[0x08][..], &[0x0b, 1], &[0x1a, 200, 1], &[0xff; 11]] {
            assert!(without(bad, &[]).is_none(), "{bad:?}");
        }
    }
}
