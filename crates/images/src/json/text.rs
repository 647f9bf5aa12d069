//! Texts inside JSON: escapes, base64 in lines, quoted-printable.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` between quotes, in ASCII. Bytes that are no UTF-8 become lone surrogates U+DC80 to U+DCFF, from which
/// [`unescape_bytes`] makes them again: paths are bytes.
pub(super) fn put_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    // All of eight bytes at once, for this is where most time for files goes.
    let (words, rest) = text.as_chunks::<8>();
    let all = |bytes: &[u8]| bytes.iter().fold(true, |all, byte| all & is_plain(*byte));
    if words.iter().all(|word| all(word)) && all(rest) {
        out.extend_from_slice(text);
    } else {
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().for_each(|c| put_char(c, out));
            chunk.invalid().iter().for_each(|byte| put_unit(0xdc00 | u16::from(*byte), out));
        }
    }
    out.push(b'"');
}

pub(super) fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn put_char(c: char, out: &mut Vec<u8>) {
    match c {
        '"' => out.extend(b"\\\""),
        '\\' => out.extend(b"\\\\"),
        '\n' => out.extend(b"\\n"),
        '\r' => out.extend(b"\\r"),
        '\t' => out.extend(b"\\t"),
        '\x08' => out.extend(b"\\b"),
        '\x0c' => out.extend(b"\\f"),
        ' '..='~' => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| put_unit(*unit, out)),
    }
}

fn put_unit(unit: u16, out: &mut Vec<u8>) {
    out.extend(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(hex_digit(unit >> shift, HEX));
    }
}

fn hex_digit(value: u16, digits: &[u8; 16]) -> u8 {
    digits.get(usize::from(value & 15)).copied().expect("four bits")
}

/// Appends `bytes` in base64 between quotes: a newline (escaped) after every 76 characters and at the end.
pub(super) fn put_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for line in bytes.chunks(57) {
        let mut text = [0; 76];
        let len = STANDARD.encode_slice(line, &mut text).expect("57 bytes make 76 characters");
        out.extend(text.get(..len).expect("no longer than the buffer"));
        out.extend(b"\\n");
    }
    out.push(b'"');
}

/// The bytes of base64, white space anywhere.
pub(super) fn base64(text: &[u8]) -> Result<Vec<u8>, String> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

/// Longest line of quoted-printable text.
const LINE: usize = 76;

/// Quoted-printable text, in which spaces and tabs stay themselves but for those at the end of a line.
pub(crate) fn quoted_printable(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut len = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let next = bytes.get(i + 1).copied();
        let blank = matches!(byte, b' ' | b'\t');
        let line_break = matches!(byte, b'\r' | b'\n');
        // A dot alone on a line ends a mail.
        let dot = byte == b'.' && len == 0 && matches!(next, None | Some(b'\n' | b'\r' | 0));
        let control = byte < b'!' && !blank && !line_break;
        if byte > b'~' || byte == b'=' || dot || control || (blank && next.is_none()) {
            if len + 3 >= LINE {
                out.extend(b"=\n");
                len = 0;
            }
            put_quoted(byte, &mut out);
            len += 3;
        } else if byte == b'\n' || (byte == b'\r' && next == Some(b'\n')) {
            // Blanks at the end of a line would get lost in mails.
            if let Some(last) = out.pop_if(|last| matches!(last, b' ' | b'\t')) {
                put_quoted(last, &mut out);
            }
            out.push(byte);
            len = 0;
        } else {
            if next.is_some_and(|n| n != b'\n') && len + 1 >= LINE {
                out.extend(b"=\n");
                len = 0;
            }
            out.push(byte);
            len += 1;
        }
    }
    out
}

fn put_quoted(byte: u8, out: &mut Vec<u8>) {
    const UPPER: &[u8; 16] = b"0123456789ABCDEF";
    out.push(b'=');
    out.push(hex_digit(u16::from(byte >> 4), UPPER));
    out.push(hex_digit(u16::from(byte), UPPER));
}

/// The bytes of quoted-printable text. An `=` that begins nothing stands for itself.
pub(super) fn unquote_printable(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'=', [b'\n', tail @ ..] | [b'\r', b'\n', tail @ ..]) => rest = tail,
            (b'=', [high, low, tail @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
                if let (Some(high), Some(low)) = (digit(*high), digit(*low)) {
                    out.push(high << 4 | low);
                    rest = tail;
                } else {
                    out.push(byte);
                }
            }
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &[u8]) -> String {
        let mut out = Vec::new();
        put_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_to_ascii() {
        assert_eq!(string(b"plain /path"), "\"plain /path\"");
        assert_eq!(string("\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}".as_bytes()), r#""\"\\\n\r\t\b\f\u0001\u007f""#);
        assert_eq!(string("é€😀".as_bytes()), r#""\u00e9\u20ac\ud83d\ude00""#);
        assert_eq!(string(b"a\xffb\xed\xa0\x80"), r#""a\udcffb\udced\udca0\udc80""#);
    }

    #[test]
    fn base64_comes_in_lines() {
        let mut out = Vec::new();
        put_base64(&[0; 58], &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("\"{}\\nAA==\\n\"", "A".repeat(76)));
        assert_eq!(base64(b" AA ==\n").unwrap(), [0]);
        assert!(base64(b"AA=").is_err(), "padding counts");
        assert!(base64(b"A!A=").is_err());
    }

    #[test]
    fn quoted_printable_as_pythons() {
        let cases: [(&[u8], &str); 9] = [
            (b"\0abstract", "=00abstract"),
            (b"sk-unix.test\0", "sk-unix.test=00"),
            (b"a b\t", "a b=09"),
            (b"a \nb", "a=20\nb"),
            (b"1=2", "1=3D2"),
            (b".", "=2E"),
            (b".\n.x", "=2E\n.x"),
            ("é".as_bytes(), "=C3=A9"),
            (b"\r\x01\r\n", "\r=01\r\n"),
        ];
        for (bytes, text) in cases {
            assert_eq!(String::from_utf8(quoted_printable(bytes)).unwrap(), text);
            assert_eq!(unquote_printable(text.as_bytes()), bytes);
        }
        let long = [b'x'; 200];
        let text = quoted_printable(&long);
        assert_eq!(text.split(|b| *b == b'\n').map(<[u8]>::len).collect::<Vec<_>>(), [76, 76, 50]);
        assert_eq!(unquote_printable(&text), long);
        assert_eq!(unquote_printable(b"=zz="), b"=zz=");
    }
}
