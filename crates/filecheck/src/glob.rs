//! Path patterns: `*` and `?` within one component, `**` across them, `[a-z]` and `[!a-z]`, `\` before a literal.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use crate::error::CookieError;

/// A pattern for whole absolute paths. Paths are bytes, so is the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// Any byte but a slash.
    One,
    /// A byte in, or not in, these ranges; never a slash.
    Class { negated: bool, ranges: Vec<(u8, u8)> },
    /// Any bytes but slashes.
    Star,
    /// Any bytes.
    Deep,
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::One | Self::Star => byte != b'/',
            Self::Deep => true,
            Self::Class { negated, ranges } => {
                byte != b'/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }
}

impl Glob {
    /// Whether the whole path fits.
    pub fn fits(&self, path: &Path) -> bool {
        // One pass over the path with the set of reachable places in the pattern: time is the product of both lengths
        // whatever the pattern is.
        let mut reachable = vec![false; self.tokens.len() + 1];
        if let Some(first) = reachable.first_mut() {
            *first = true;
        }
        self.skip_stars(&mut reachable);
        for byte in path.as_os_str().as_bytes() {
            let mut next = vec![false; reachable.len()];
            for (place, token) in self.tokens.iter().enumerate() {
                if !reachable.get(place).copied().unwrap_or(false) || !token.takes(*byte) {
                    continue;
                }
                let stays = matches!(token, Token::Star | Token::Deep);
                if let Some(to) = next.get_mut(if stays { place } else { place + 1 }) {
                    *to = true;
                }
            }
            self.skip_stars(&mut next);
            reachable = next;
        }
        reachable.last().copied().unwrap_or(false)
    }

    /// Stars fit nothing at all, too.
    fn skip_stars(&self, reachable: &mut [bool]) {
        for (place, token) in self.tokens.iter().enumerate() {
            let here = reachable.get(place).copied().unwrap_or(false);
            if here
                && matches!(token, Token::Star | Token::Deep)
                && let Some(next) = reachable.get_mut(place + 1)
            {
                *next = true;
            }
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Glob {
    type Err = CookieError;

    fn from_str(text: &str) -> Result<Self, CookieError> {
        let bad = |reason| CookieError::Pattern { pattern: text.to_owned(), reason };
        if !text.starts_with(['/', '*', '[', '?', '\\']) {
            return Err(bad("paths are absolute: begin with / or **"));
        }
        let mut bytes = text.bytes().peekable();
        let mut tokens = Vec::new();
        while let Some(byte) = bytes.next() {
            tokens.push(match byte {
                b'*' if bytes.next_if_eq(&b'*').is_some() => Token::Deep,
                b'*' => Token::Star,
                b'?' => Token::One,
                b'\\' => Token::Byte(bytes.next().ok_or_else(|| bad("nothing after \\"))?),
                b'[' => class(&mut bytes).ok_or_else(|| bad("[ without ]"))?,
                literal => Token::Byte(literal),
            });
        }
        Ok(Self { text: text.to_owned(), tokens })
    }
}

fn class(bytes: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Option<Token> {
    let negated = bytes.next_if(|byte| matches!(byte, b'!' | b'^')).is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match bytes.next()? {
            b']' if !ranges.is_empty() => return Some(Token::Class { negated, ranges }),
            b'\\' => bytes.next()?,
            byte => byte,
        };
        if bytes.next_if_eq(&b'-').is_none() {
            ranges.push((low, low));
        } else if bytes.peek() == Some(&b']') {
            ranges.extend([(low, low), (b'-', b'-')]);
        } else {
            ranges.push((low, bytes.next()?));
        }
    }
}
