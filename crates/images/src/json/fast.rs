//! Short cuts of the reader, for the form that JSON of images has nearly always: read in words of eight bytes. On any doubt, so
//! also near the end of the buffer, nothing is read, and the reader proper decides.

use std::io::Read;

use super::read::Reader;
use super::schema::Field;

/// A byte in each place of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x80 * ONES;
const QUOTES: u64 = 0x22 * ONES;
const BACKSLASHES: u64 = 0x5c * ONES;

impl<R: Read> Reader<R> {
    /// The index of the field, of the first few given, whose key comes next; then it has been read.
    #[inline]
    pub(super) fn takes_key(&mut self, fields: &[Field]) -> Option<usize> {
        const FEW: usize = 8;
        let mut at = self.at;
        if !self.first {
            if self.buf.get(at) != Some(&b',') {
                return None;
            }
            at += 1;
        }
        if self.buf.get(at) == Some(&b' ') {
            at += 1;
        }
        let mut line = None;
        if self.buf.get(at) == Some(&b'\n') {
            at += 1;
            line = Some(at);
            while self.buf.get(at) == Some(&b' ') {
                at += 1;
            }
        }
        let text = self.buf.get(at..)?;
        let word = u64::from_le_bytes(*text.first_chunk()?);
        let matches = |field: &Field| {
            (word ^ field.key_word) & field.key_mask == 0
                && (field.json_key.len() <= 8 || text.starts_with(&field.json_key))
        };
        let index = fields.iter().take(FEW).position(matches)?;
        if let Some(start) = line {
            self.line += 1;
            (self.line_before, self.line_start) = (0, start);
        }
        self.at = at + fields.get(index)?.json_key.len();
        self.first = false;
        Some(index)
    }

    /// Reads the bracket that ends an object, if it is what comes next, without a blank between.
    #[inline]
    pub(super) fn takes_end(&mut self) -> bool {
        let ends = self.buf.get(self.at) == Some(&b'}');
        if ends {
            self.take();
            self.brackets.pop();
            self.first = false;
        }
        ends
    }

    /// What `accept` makes of the whole number that comes next, if it is one without sign.
    #[inline]
    pub(super) fn takes_whole_number(&mut self, accept: impl FnOnce(u64) -> Option<u64>) -> Option<u64> {
        let rest = self.buf.get(self.at..)?;
        let blank = usize::from(rest.first() == Some(&b' '));
        let digits = rest.get(blank..)?;
        let (value, len) = leading_number(digits)?;
        if len == 0 || !matches!(digits.get(len)?, b',' | b'}' | b']' | b'\n' | b' ') {
            return None;
        }
        if len > 1 && digits.first() == Some(&b'0') {
            return None;
        }
        let accepted = accept(value)?;
        self.at += blank + len;
        Some(accepted)
    }

    /// The string that comes next, if it is of printable ASCII without escapes.
    #[inline]
    pub(super) fn takes_plain_string(&mut self) -> Option<&[u8]> {
        let rest = self.buf.get(self.at..)?;
        let start = match rest {
            [b'"', ..] => 1,
            [b' ', b'"', ..] => 2,
            _ => return None,
        };
        let text = rest.get(start..)?;
        let mut len = 0;
        loop {
            let word = u64::from_le_bytes(*text.get(len..)?.first_chunk()?);
            let special = special_bytes(word);
            if special != 0 {
                len += special.trailing_zeros() as usize / 8;
                break;
            }
            len += 8;
        }
        if text.get(len) != Some(&b'"') {
            return None;
        }
        let start = self.at + start;
        self.at = start + len + 1;
        self.buf.get(start..start + len)
    }
}

/// The high bit of each byte that is a quote, a backslash, a control character or no ASCII. Only the lowest one is exact.
#[inline]
fn special_bytes(word: u64) -> u64 {
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let controls = word.wrapping_sub(0x20 * ONES);
    (zeros(word ^ QUOTES) | zeros(word ^ BACKSLASHES) | controls | word) & HIGHS
}

/// The number that begins `text`, and how many digits it has; `None` if it might not fit, or if `text` is too short.
#[inline]
fn leading_number(text: &[u8]) -> Option<(u64, usize)> {
    const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    // Most numbers are small.
    if let [first, second, ..] = text
        && second.wrapping_sub(b'0') > 9
    {
        let digit = first.wrapping_sub(b'0');
        return Some(if digit > 9 { (0, 0) } else { (digit.into(), 1) });
    }
    let mut value = 0_u64;
    let mut len = 0;
    for _ in 0..2 {
        let word = u64::from_le_bytes(*text.get(len..)?.first_chunk()?) ^ (u64::from(b'0') * ONES);
        // No byte before the first that is no digit carries into the next one.
        let others = (word.wrapping_add(0x76 * ONES) | word) & HIGHS;
        let count = others.trailing_zeros() / 8;
        if count == 0 {
            return Some((value, len));
        }
        value = value * POWERS.get(count as usize)? + eight_digits(word << (64 - 8 * count));
        len += count as usize;
        if count < 8 {
            return Some((value, len));
        }
    }
    for byte in text.get(16..19)? {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Some((value, len));
        }
        value = value * 10 + u64::from(digit);
        len += 1;
    }
    Some((value, len))
}

/// The number of eight digits, the first of them lowest.
#[inline]
fn eight_digits(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    low.wrapping_add(high) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        let mut text = String::new();
        for digit in "1234567890123456789".chars() {
            text.push(digit);
            for end in [',', ' ', '}', '\n', 'x', '/', ':', '\u{7f}', '\u{e9}'] {
                let padded = format!("{text}{end}0000000000000000000000000");
                let wanted = (text.parse().unwrap(), text.len());
                assert_eq!(leading_number(padded.as_bytes()), Some(wanted), "{padded}");
            }
        }
        assert_eq!(leading_number(b"-1                       "), Some((0, 0)));
        assert_eq!(leading_number(b"12, "), None, "near the end the reader decides");
        assert_eq!(eight_digits(u64::from_le_bytes([9; 8])), 99_999_999);
    }

    #[test]
    fn strings_end_at_what_is_special() {
        for special in (0..=255_u8).filter(|b| !matches!(b, b' '..=b'~') || matches!(b, b'"' | b'\\')) {
            // 0x7f needs no care when it is read.
            if special == 0x7f {
                continue;
            }
            for at in 0..8 {
                let mut text = *b"abcd{} ~";
                text[at] = special;
                let found = special_bytes(u64::from_le_bytes(text)).trailing_zeros() / 8;
                assert_eq!(found as usize, at, "{special:x}");
            }
        }
        assert_eq!(special_bytes(u64::from_le_bytes(*b"ab!#[]~ ")), 0);
    }
}
