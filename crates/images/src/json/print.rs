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

/// A place in the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    len: usize,
    depth: usize,
    first: bool,
}

impl Printer {
    pub(super) fn new(pretty: bool) -> Self {
        Self { buf: Vec::new(), pretty, depth: 0, first: true }
    }

    /// One that goes on with a list inside an object, behind an element.
    pub(super) fn inside_list(pretty: bool) -> Self {
        Self { depth: 2, first: false, ..Self::new(pretty) }
    }

    /// Where it is: what is put from now on can be taken back.
    pub(super) fn place(&self) -> Place {
        Place { len: self.buf.len(), depth: self.depth, first: self.first }
    }

    pub(super) fn go_back_to(&mut self, place: Place) {
        self.buf.truncate(place.len);
        (self.depth, self.first) = (place.depth, place.first);
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
        self.plain_string(name);
        self.buf.extend_from_slice(b": ");
    }

    /// As [`Self::key`], of a field.
    #[inline]
    pub(super) fn field(&mut self, field: &Field) {
        if self.pretty {
            self.element();
            field.first_text.put(&mut self.buf);
        } else {
            let text = if self.first { &field.first_text } else { &field.next_text };
            text.put(&mut self.buf);
            self.first = false;
        }
    }

    /// A text that needs no escapes.
    pub(super) fn plain_string(&mut self, text: &str) {
        self.buf.push(b'"');
        self.buf.extend_from_slice(text.as_bytes());
        self.buf.push(b'"');
    }

    pub(super) fn string(&mut self, text: &[u8]) {
        text::put_string(text, &mut self.buf);
    }

    pub(super) fn base64(&mut self, bytes: &[u8]) {
        text::put_base64(bytes, &mut self.buf);
    }

    pub(super) fn number(&mut self, value: i128) {
        // 128 bits only where 64 do not do: they take their time.
        match u64::try_from(value) {
            Ok(value) => self.whole_number(value),
            Err(_) => self.buf.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        }
    }

    #[inline]
    pub(super) fn whole_number(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(digit @ 0..=9) => self.buf.push(b'0' + digit),
            _ => self.buf.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        }
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
