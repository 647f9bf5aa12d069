//! JSON as Python prints it: on one line with `, ` and `: `, or with an indent of four.

use super::schema::Field;
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

    /// As [`Self::key`], of a field.
    pub(super) fn field(&mut self, field: &Field) {
        self.element();
        self.buf.extend_from_slice(&field.json_key);
        self.buf.push(b' ');
    }

    pub(super) fn string(&mut self, text: &[u8]) {
        text::put_string(text, &mut self.buf);
    }

    pub(super) fn base64(&mut self, bytes: &[u8]) {
        text::put_base64(bytes, &mut self.buf);
    }

    pub(super) fn number(&mut self, value: i128) {
        let mut buffer = itoa::Buffer::new();
        // 128 bits only where 64 do not do: they take their time.
        let digits = match u64::try_from(value) {
            Ok(value) => buffer.format(value),
            Err(_) => buffer.format(value),
        };
        self.buf.extend_from_slice(digits.as_bytes());
    }

    fn line(&mut self) {
        const LINE: &[u8] = b"\n                                                                ";
        if self.pretty {
            let (some, more) = (LINE.get(..1 + 4 * self.depth).unwrap_or(LINE), 4 * self.depth + 1);
            self.buf.extend_from_slice(some);
            self.buf.extend((some.len()..more).map(|_| b' '));
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
