//! JSON as Python prints it: on one line with `, ` and `: `, or with an indent of four.

use super::text;

/// Collects output; its user empties `buf`.
#[derive(Debug)]
pub(super) struct Printer {
    pub(super) buf: Vec<u8>,
    pretty: bool,
    depth: usize,
    /// Nothing has been put yet into the innermost object or list.
    first: bool,
}

impl Printer {
    pub(super) fn new(pretty: bool) -> Self {
        Self { buf: Vec::new(), pretty, depth: 0, first: true }
    }

    pub(super) fn pretty(&self) -> bool {
        self.pretty
    }

    /// Begins an object or a list.
    pub(super) fn open(&mut self, bracket: u8) {
        self.buf.push(bracket);
        self.depth += 1;
        self.first = true;
    }

    /// Ends it.
    pub(super) fn close(&mut self, bracket: u8) {
        self.depth -= 1;
        if !self.first {
            self.line();
        }
        self.buf.push(bracket);
        self.first = false;
    }

    /// Before each element of a list.
    pub(super) fn element(&mut self) {
        if !self.first {
            self.buf.push(b',');
            if !self.pretty {
                self.buf.push(b' ');
            }
        }
        self.line();
        self.first = false;
    }

    /// Before each value of an object. Keys need no escapes.
    pub(super) fn key(&mut self, name: &str) {
        self.element();
        self.buf.push(b'"');
        self.buf.extend(name.as_bytes());
        self.buf.extend(b"\": ");
    }

    pub(super) fn string(&mut self, text: &[u8]) {
        text::put_string(text, &mut self.buf);
    }

    pub(super) fn base64(&mut self, bytes: &[u8]) {
        text::put_base64(bytes, &mut self.buf);
    }

    pub(super) fn number(&mut self, value: i128) {
        if value < 0 {
            self.buf.push(b'-');
        }
        // Written out, for it is most of the work: 128 bits only where 64 do not do.
        let mut digits = [0; 40];
        let mut at = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            let (quotient, digit) = match u64::try_from(rest) {
                Ok(small) => (u128::from(small / 10), (small % 10) as u8),
                Err(_) => (rest / 10, (rest % 10) as u8),
            };
            at -= 1;
            if let Some(place) = digits.get_mut(at) {
                *place = b'0' + digit;
            }
            rest = quotient;
            if rest == 0 {
                break;
            }
        }
        self.buf.extend(digits.get(at..).unwrap_or_default());
    }

    fn line(&mut self) {
        const INDENT: &[u8] = b"    ";
        if self.pretty {
            self.buf.push(b'\n');
            (0..self.depth).for_each(|_| self.buf.extend(INDENT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(pretty: bool) -> String {
        let mut p = Printer::new(pretty);
        p.open(b'{');
        p.key("empty");
        p.open(b'{');
        p.close(b'}');
        p.key("list");
        p.open(b'[');
        for value in [0, -1, i128::from(u64::MAX), i128::from(i64::MIN)] {
            p.element();
            p.number(value);
        }
        p.close(b']');
        p.close(b'}');
        String::from_utf8(p.buf).unwrap()
    }

    #[test]
    fn both_forms() {
        assert_eq!(
            print(false),
            r#"{"empty": {}, "list": [0, -1, 18446744073709551615, -9223372036854775808]}"#
        );
        let lines = [
            "{",
            "    \"empty\": {},",
            "    \"list\": [",
            "        0,",
            "        -1,",
            "        18446744073709551615,",
            "        -9223372036854775808",
            "    ]",
            "}",
        ];
        assert_eq!(print(true), lines.join("\n"));
    }
}
