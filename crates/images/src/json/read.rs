//! JSON read piece by piece, in constant memory. Strings are bytes: see [`super::text::put_string`].

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::{ImageError, Result};

/// Deepest nesting of objects and lists. The images need 10.
const MAX_DEPTH: usize = 200;

const BLOCK: usize = 64 << 10;

/// What a value is, before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Object,
    List,
    String,
    Number,
    Bool,
    Null,
}

impl Next {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::List => "a list",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Bool => "a truth value",
            Self::Null => "null",
        }
    }
}

/// Reads values in the order they come; whoever calls knows what comes next or asks [`Reader::next`].
#[derive(Debug)]
pub(super) struct Reader<R> {
    pub(super) input: R,
    path: PathBuf,
    pub(super) buf: Vec<u8>,
    pub(super) at: usize,
    pub(super) ended: bool,
    pub(super) line: u64,
    /// Bytes of the current line that are in `buf` no more; the column is this and `at - line_start`.
    pub(super) line_before: u64,
    pub(super) line_start: usize,
    /// What is open, outermost first.
    pub(super) brackets: Vec<u8>,
    /// Nothing has been read of the innermost object or list.
    pub(super) first: bool,
    /// The text of the value being kept, but for what is in `buf` from `kept_from`.
    kept: Option<Vec<u8>>,
    kept_from: usize,
    /// How often the buffer was filled: places in it mean something else then.
    pub(super) fills: u64,
    /// The last string.
    string: Vec<u8>,
    /// Where in it bytes stand that are no UTF-8 of the input.
    escaped_bytes: Vec<usize>,
}

/// Where a value stands, for messages about it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(path: &Path, input: R) -> Self {
        Self {
            input,
            path: path.to_owned(),
            buf: Vec::new(),
            at: 0,
            ended: false,
            line: 1,
            line_before: 0,
            line_start: 0,
            brackets: Vec::new(),
            first: true,
            kept: None,
            kept_from: 0,
            fills: 0,
            string: Vec::new(),
            escaped_bytes: Vec::new(),
        }
    }

    /// Goes on counting lines at `place`: for text that was kept.
    pub(super) fn starting_at(mut self, place: Place) -> Self {
        (self.line, self.line_before) = (place.line, place.column - 1);
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place(&self) -> Place {
        Place { line: self.line, column: self.line_before + (self.at - self.line_start) as u64 + 1 }
    }

    /// An error at the current place.
    pub(super) fn error(&self, what: impl Into<String>) -> ImageError {
        self.error_at(self.place(), what)
    }

    pub(super) fn error_at(&self, place: Place, what: impl Into<String>) -> ImageError {
        ImageError::Json {
            path: self.path.clone(),
            line: place.line,
            column: place.column,
            what: what.into(),
        }
    }

    /// What comes next. White space is passed over.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Next> {
        match self.peek_token()? {
            Some(b'{') => Ok(Next::Object),
            Some(b'[') => Ok(Next::List),
            Some(b'"') => Ok(Next::String),
            Some(b'-' | b'0'..=b'9') => Ok(Next::Number),
            Some(b't' | b'f') => Ok(Next::Bool),
            Some(b'n') => Ok(Next::Null),
            Some(byte) => Err(self.error(format!("{:?} where a value belongs", char::from(byte)))),
            None => Err(self.error("it ends where a value belongs")),
        }
    }

    /// Begins an object or list, whose bracket must come next.
    pub(super) fn open(&mut self, bracket: u8) -> Result<()> {
        if self.buf.get(self.at) == Some(&bracket) {
            self.take();
        } else {
            self.token(bracket)?;
        }
        self.brackets.push(bracket);
        self.first = true;
        if self.brackets.len() > MAX_DEPTH { Err(self.error("it nests too deep")) } else { Ok(()) }
    }

    /// Whether another element of the list comes; if not, its end has been read.
    pub(super) fn element(&mut self) -> Result<bool> {
        self.more(b']')
    }

    /// The next key of the object, `None` if it has ended.
    pub(super) fn key(&mut self) -> Result<Option<&[u8]>> {
        if !self.more(b'}')? {
            return Ok(None);
        }
        self.read_string()?;
        self.token(b':')?;
        Ok(Some(&self.string))
    }

    fn more(&mut self, end: u8) -> Result<bool> {
        if let (false, Some(&[b',', b' ', next])) =
            (self.first, self.buf.get(self.at..).and_then(<[u8]>::first_chunk))
            && next > b' '
            && next != end
        {
            self.at += 2;
            return Ok(true);
        }
        let first = std::mem::replace(&mut self.first, false);
        let next = self.peek_token()?;
        if next == Some(end) {
            self.take();
            self.brackets.pop();
            return Ok(false);
        }
        if first {
            return Ok(true);
        }
        self.token(b',')?;
        if self.peek_token()? == Some(end) {
            return Err(self.error("a comma before the end"));
        }
        Ok(true)
    }

    /// The string that comes next.
    pub(super) fn string(&mut self) -> Result<&[u8]> {
        self.read_string()?;
        Ok(&self.string)
    }

    pub(super) fn boolean(&mut self) -> Result<bool> {
        let value = self.peek_token()? == Some(b't');
        self.word(if value { b"true" } else { b"false" })?;
        Ok(value)
    }

    /// The number that comes next; what follows a decimal point is cut off.
    pub(super) fn number(&mut self) -> Result<i128> {
        const LONGEST: usize = 400;
        let place = self.place();
        self.string.clear();
        while let Some(byte @ (b'-' | b'+' | b'.' | b'0'..=b'9' | b'e' | b'E')) = self.peek()? {
            self.string.push(byte);
            self.take();
            if self.string.len() > LONGEST {
                return Err(self.error_at(place, "a number of too many digits"));
            }
        }
        parse_number(&self.string).map_err(|what| self.error_at(place, what))
    }

    /// Passes over the value that comes next.
    pub(super) fn skip(&mut self) -> Result<()> {
        let depth = self.brackets.len();
        loop {
            match self.next()? {
                Next::Object => self.open(b'{')?,
                Next::List => self.open(b'[')?,
                Next::String => self.read_string()?,
                Next::Number => drop(self.number()?),
                Next::Bool => drop(self.boolean()?),
                Next::Null => self.word(b"null")?,
            }
            // Through the ends of all that ends here, to the next value.
            loop {
                let more = match self.brackets.get(depth..).and_then(<[u8]>::last) {
                    None => return Ok(()),
                    Some(b'{') => self.key()?.is_some(),
                    Some(_) => self.element()?,
                };
                if more {
                    break;
                }
            }
        }
    }

    /// Passes over the value that comes next, and returns its text and where it stood.
    pub(super) fn keep(&mut self) -> Result<(Vec<u8>, Place)> {
        self.next()?;
        let place = self.place();
        self.kept = Some(Vec::new());
        self.kept_from = self.at;
        self.skip()?;
        let mut text = self.kept.take().unwrap_or_default();
        text.extend(self.buf.get(self.kept_from..self.at).unwrap_or_default());
        Ok((text, place))
    }

    /// Nothing but white space may be left.
    pub(super) fn end(&mut self) -> Result<()> {
        match self.peek_token()? {
            None => Ok(()),
            Some(byte) => Err(self.error(format!("{:?} after the end", char::from(byte)))),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<()> {
        for &wanted in word {
            if self.peek()? != Some(wanted) {
                return Err(self.error("an unknown word"));
            }
            self.take();
        }
        Ok(())
    }

    fn token(&mut self, wanted: u8) -> Result<()> {
        let wanted_char = char::from(wanted);
        match self.peek_token()? {
            Some(byte) if byte == wanted => {
                self.take();
                Ok(())
            }
            Some(byte) => Err(self.error(format!("{:?} where {wanted_char:?} belongs", char::from(byte)))),
            None => Err(self.error(format!("it ends where {wanted_char:?} belongs"))),
        }
    }

    fn read_string(&mut self) -> Result<()> {
        let place = self.place();
        self.token(b'"')?;
        self.string.clear();
        self.escaped_bytes.clear();
        loop {
            self.fill()?;
            let rest = self.buf.get(self.at..).unwrap_or_default();
            let special = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
            let plain = rest.get(..special.unwrap_or(rest.len())).unwrap_or_default();
            self.string.extend_from_slice(plain);
            self.at += plain.len();
            match self.peek()? {
                Some(b'"') => {
                    self.take();
                    break;
                }
                Some(b'\\') => {
                    self.take();
                    self.escape()?;
                }
                Some(0..=0x1f) => return Err(self.error("a control character inside a string")),
                Some(_) => {}
                None => return Err(self.error_at(place, "a string without end")),
            }
        }
        let mut rest = self.string.as_slice();
        let mut taken = 0;
        for at in self.escaped_bytes.iter().copied().chain([self.string.len()]) {
            let (text, tail) = rest.split_at_checked(at - taken).unwrap_or_default();
            if std::str::from_utf8(text).is_err() {
                return Err(self.error_at(place, "a string that is not UTF-8"));
            }
            rest = tail.get(1..).unwrap_or_default();
            taken = at + 1;
        }
        Ok(())
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<()> {
        let Some(byte) = self.peek()? else { return Err(self.error("a string without end")) };
        self.take();
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'u' => return self.unit(),
            _ => return Err(self.error(format!("an unknown escape {:?}", char::from(byte)))),
        };
        self.string.push(plain);
        Ok(())
    }

    fn unit(&mut self) -> Result<()> {
        let unit = self.four_digits()?;
        if let 0xd800..=0xdbff = unit {
            self.word(b"\\u").map_err(|_| self.error("half of a surrogate pair"))?;
            let second = self.four_digits()?;
            let pair = char::decode_utf16([unit, second]).next().and_then(Result::ok);
            let pair = pair.ok_or_else(|| self.error("half of a surrogate pair"))?;
            self.string.extend(pair.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
        match unit {
            // A byte that was no UTF-8.
            0xdc80..=0xdcff => {
                self.escaped_bytes.push(self.string.len());
                let [byte, _] = unit.to_le_bytes();
                self.string.push(byte);
            }
            _ => {
                let c = char::from_u32(unit.into()).ok_or_else(|| self.error("half of a surrogate pair"))?;
                self.string.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(())
    }

    fn four_digits(&mut self) -> Result<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek()?.and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit.and_then(|d| u16::try_from(d).ok()) else {
                return Err(self.error("an escape without four digits"));
            };
            self.take();
            unit = unit << 4 | digit;
        }
        Ok(unit)
    }

    /// The next byte that is no white space.
    #[inline]
    fn peek_token(&mut self) -> Result<Option<u8>> {
        loop {
            let byte = self.peek()?;
            match byte {
                Some(b' ' | b'\t' | b'\r') => self.take(),
                Some(b'\n') => {
                    self.take();
                    self.line += 1;
                    (self.line_before, self.line_start) = (0, self.at);
                }
                _ => return Ok(byte),
            }
        }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        if let Some(byte) = self.buf.get(self.at) {
            return Ok(Some(*byte));
        }
        self.fill()?;
        Ok(self.buf.get(self.at).copied())
    }

    pub(super) fn take(&mut self) {
        self.at += 1;
    }

    /// Makes sure that there is something in `buf` to read, if there is any more.
    fn fill(&mut self) -> Result<()> {
        if self.at < self.buf.len() || self.ended {
            return Ok(());
        }
        if let Some(kept) = &mut self.kept {
            kept.extend(self.buf.get(self.kept_from..).unwrap_or_default());
            self.kept_from = 0;
        }
        self.line_before += (self.at - self.line_start) as u64;
        (self.at, self.line_start) = (0, 0);
        self.fills += 1;
        self.buf.resize(BLOCK, 0);
        let read = loop {
            match self.input.read(&mut self.buf) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let count = read.map_err(ImageError::io(&self.path, "read"))?;
        self.buf.truncate(count);
        self.ended = count == 0;
        Ok(())
    }
}

fn parse_number(text: &[u8]) -> Result<i128, &'static str> {
    const WRONG: &str = "a malformed number";
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if whole == 0 || (whole > 1 && digits.first() == Some(&b'0')) {
        return Err(WRONG);
    }
    let value = if whole == digits.len() {
        if whole > 38 {
            return Err("a number out of range");
        }
        digits.iter().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'))
    } else {
        // Rust takes "1." as well, and JSON does not.
        let after_dot = digits.get(whole).is_some_and(|byte| *byte == b'.').then(|| digits.get(whole + 1));
        if after_dot.is_some_and(|byte| !byte.is_some_and(u8::is_ascii_digit)) {
            return Err(WRONG);
        }
        let number =
            std::str::from_utf8(digits).ok().and_then(|text| text.parse::<f64>().ok()).ok_or(WRONG)?;
        if number > 1e38 {
            return Err("a number out of range");
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the fraction is to be cut, and the range was checked"
        )]
        let whole = number as i128;
        whole
    };
    Ok(if negative { -value } else { value })
}
