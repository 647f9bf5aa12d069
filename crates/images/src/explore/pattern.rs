//! What is looked for in memory, and how it is found fast.

use std::ops::Range;

use regex_automata::{Input, meta, util::syntax};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::error::{ImageError, Result};

/// Something to look for.
#[derive(Debug, Clone)]
pub struct Pattern {
    needle: Needle,
    longest: usize,
}

#[derive(Debug, Clone)]
enum Needle {
    Bytes(Box<memchr::memmem::Finder<'static>>),
    Regex(Box<Regex>),
}

#[derive(Debug, Clone)]
struct Regex {
    regex: meta::Regex,
    /// Where no literal tells where to look.
    alphabet: Option<Alphabet>,
    /// A byte that every match has.
    required: Option<u8>,
}

impl Pattern {
    /// Matches of a regular expression up to this length are found wherever they lie, whole. Of a longer one the first so many
    /// bytes count as a match, and the search goes on behind them; if those do not match by themselves, it may be found from a
    /// later byte on, or not at all.
    pub const LONGEST: usize = 64 << 10;

    /// Looks for these bytes. Nothing is found if there are none.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        let finder = memchr::memmem::Finder::new(bytes).into_owned();
        Self { needle: Needle::Bytes(Box::new(finder)), longest: bytes.len() }
    }

    /// Looks for a regular expression in the syntax of the `regex` crate. Memory is bytes: `(?-u)` lets `.` and classes match any.
    /// Empty matches do not count.
    ///
    /// # Errors
    /// [`ImageError::Pattern`].
    pub fn regex(text: &str) -> Result<Self> {
        let wrong = |what: String| ImageError::Pattern { what };
        let hir = ParserBuilder::new().utf8(false).build().parse(text).map_err(|e| wrong(e.to_string()))?;
        let config = meta::Config::new().utf8_empty(false).nfa_size_limit(Some(10 << 20));
        let regex = meta::Builder::new()
            .configure(config)
            .syntax(syntax::Config::new().utf8(false))
            .build_from_hir(&hir)
            .map_err(|error| match error.size_limit() {
                Some(limit) => wrong(format!("it would need more than {limit} bytes")),
                None => wrong(error.to_string()),
            })?;
        let by_literal = regex.is_accelerated() && has_literal(&hir);
        let alphabet = if by_literal { None } else { Alphabet::of(&hir) };
        let regex = Regex { regex, alphabet, required: required(&hir) };
        Ok(Self { needle: Needle::Regex(Box::new(regex)), longest: Self::LONGEST })
    }

    /// The matches inside `text` from `from` on.
    pub(super) fn matches<'p, 't>(&'p self, text: &'t [u8], from: usize) -> Matches<'p, 't> {
        Matches { pattern: self, text, from, run: from..from, window: 0 }
    }

    /// Before this place of `text` every match that begins there ends in it, if it is no longer than matches may be: what comes
    /// behind `text` cannot tell.
    pub(super) fn decided(&self, text: &[u8]) -> usize {
        let limit = text.len().saturating_sub(self.longest);
        let Needle::Regex(regex) = &self.needle else { return limit };
        let Some(alphabet) = &regex.alphabet else { return limit };
        let tail = text.get(limit..).unwrap_or_default();
        limit + tail.iter().rposition(|byte| !alphabet.has(*byte)).map_or(0, |last| last + 1)
    }
}

/// Matches that do not overlap, by place.
#[derive(Debug)]
pub(super) struct Matches<'p, 't> {
    pattern: &'p Pattern,
    text: &'t [u8],
    from: usize,
    /// The last run of bytes that was looked at.
    run: Range<usize>,
    /// Bytes that the engine gets with the next run, if that is near again.
    window: usize,
}

impl Iterator for Matches<'_, '_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let found = match &self.pattern.needle {
            Needle::Bytes(finder) => {
                let len = finder.needle().len();
                let at = finder.find(self.text.get(self.from..)?).filter(|_| len > 0)?;
                self.from + at..self.from + at + len
            }
            Needle::Regex(regex) => {
                let found = self.next_of(regex)?;
                found.start..found.end.min(found.start + Pattern::LONGEST)
            }
        };
        self.from = found.end;
        Some(found)
    }
}

impl Matches<'_, '_> {
    fn next_of(&mut self, regex: &Regex) -> Option<Range<usize>> {
        let Some(alphabet) = &regex.alphabet else {
            return regex.find(self.text, self.from..self.text.len());
        };
        loop {
            if self.from < self.run.end
                && let Some(found) = regex.find(self.text, self.from..self.run.end)
            {
                return Some(found);
            }
            let from = self.from.max(self.run.end);
            self.run = match regex.required {
                Some(byte) => alphabet.next_run_with(byte, self.text, from)?,
                None => alphabet.next_run(self.text, from)?,
            };
            self.from = self.run.start;
            self.widen(alphabet, self.run.start - from);
        }
    }

    /// Where runs lie close together, to look for each by itself takes longer than to give the engine many at once.
    fn widen(&mut self, alphabet: &Alphabet, skipped: usize) {
        const NEAR: usize = 128;
        const MOST: usize = 16 << 10;
        self.window = if skipped < NEAR { (self.window * 2).clamp(NEAR, MOST) } else { 0 };
        let at = self.run.start + self.window;
        if let Some(rest) = self.text.get(at..)
            && at > self.run.end
        {
            // It ends where no match goes on.
            let len = rest.iter().position(|byte| !alphabet.has(*byte));
            self.run.end = len.map_or(self.text.len(), |len| at + len);
        }
    }
}

impl Regex {
    /// The first match in `range` that is not empty. What lies outside may be looked at, but does not match.
    fn find(&self, text: &[u8], range: Range<usize>) -> Option<Range<usize>> {
        let mut input = Input::new(text).range(range);
        loop {
            let found = self.regex.search(&input)?.range();
            if !found.is_empty() {
                return Some(found);
            }
            if found.end >= input.end() {
                return None;
            }
            input.set_start(found.end + 1);
        }
    }
}

/// Whether all matches have text in them that can be looked for by itself.
fn has_literal(hir: &Hir) -> bool {
    const LONG_ENOUGH: usize = 3;
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.len() >= LONG_ENOUGH,
        HirKind::Capture(capture) => has_literal(&capture.sub),
        HirKind::Repetition(repetition) => repetition.min > 0 && has_literal(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().any(has_literal),
        HirKind::Alternation(parts) => parts.iter().all(has_literal),
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => false,
    }
}

/// A byte that every match has, if there is one that stands in the expression by itself.
fn required(hir: &Hir) -> Option<u8> {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.last().copied(),
        HirKind::Capture(capture) => required(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().find_map(required),
        _ => None,
    }
}

/// The bytes that matches are made of, and how many of them at least. Memory is mostly other bytes: one look at every so many
/// bytes tells that no match is there.
#[derive(Debug, Clone)]
struct Alphabet {
    bytes: Box<[bool; 256]>,
    shortest: usize,
}

impl Alphabet {
    /// Longer steps would gain nothing.
    const MOST: usize = 64;

    /// `None` if any byte may be in a match, or if all matches are empty.
    fn of(hir: &Hir) -> Option<Self> {
        let shortest = hir.properties().minimum_len()?.clamp(1, Self::MOST);
        let mut alphabet = Self { bytes: Box::new([false; 256]), shortest };
        alphabet.add(hir);
        (!alphabet.bytes.iter().all(|has| *has)).then_some(alphabet)
    }

    fn has(&self, byte: u8) -> bool {
        self.bytes.get(usize::from(byte)).is_some_and(|has| *has)
    }

    /// Any byte of any match of `hir`. The parser bounds how deep it nests.
    fn add(&mut self, hir: &Hir) {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => literal.0.iter().for_each(|byte| self.add_range(*byte, *byte)),
            HirKind::Class(Class::Bytes(class)) => {
                class.ranges().iter().for_each(|range| self.add_range(range.start(), range.end()));
            }
            HirKind::Class(Class::Unicode(class)) => {
                for range in class.ranges() {
                    if let Ok(start @ ..0x80) = u8::try_from(range.start()) {
                        self.add_range(start, u8::try_from(range.end()).unwrap_or(0x7f).min(0x7f));
                    }
                    if range.end() > '\u{7f}' {
                        self.add_range(0x80, 0xff);
                    }
                }
            }
            HirKind::Repetition(repetition) => self.add(&repetition.sub),
            HirKind::Capture(capture) => self.add(&capture.sub),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => {
                parts.iter().for_each(|part| self.add(part));
            }
        }
    }

    fn add_range(&mut self, first: u8, last: u8) {
        let range = usize::from(first)..=usize::from(last);
        self.bytes.get_mut(range).unwrap_or_default().fill(true);
    }

    /// As [`Self::next_run`], of the runs that have this byte.
    fn next_run_with(&self, byte: u8, text: &[u8], from: usize) -> Option<Range<usize>> {
        let mut from = from;
        loop {
            let rest = text.get(from..)?;
            let at = memchr::memchr(byte, rest)?;
            let (before, after) = rest.split_at_checked(at)?;
            let start = before.iter().rposition(|byte| !self.has(*byte)).map_or(0, |last| last + 1);
            let len = after.iter().position(|byte| !self.has(*byte)).unwrap_or(after.len());
            if at + len - start >= self.shortest {
                return Some(from + start..from + at + len);
            }
            from += at + len;
        }
    }

    /// The next run of these bytes long enough for a match, from `from` on: no match begins before it, and none that begins in it
    /// goes beyond.
    fn next_run(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        let mut start = from;
        'runs: loop {
            // Whatever match there is has all its first bytes, so the last of them, in the alphabet.
            let probes = text.get(start + self.shortest - 1..)?.iter().step_by(self.shortest);
            let skipped = if self.shortest == 1 {
                text.get(start..)?.iter().position(|byte| self.has(*byte))?
            } else {
                probes.into_iter().position(|byte| self.has(*byte))? * self.shortest
            };
            start += skipped;
            let window = text.get(start..start + self.shortest)?;
            if let Some(other) = window.iter().rposition(|byte| !self.has(*byte)) {
                start += other + 1;
                continue 'runs;
            }
            let end = start + self.shortest;
            let rest = text.get(end..)?;
            let more = rest.iter().position(|byte| !self.has(*byte)).unwrap_or(rest.len());
            return Some(start..end + more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pattern: &Pattern, text: &[u8]) -> Vec<Range<usize>> {
        pattern.matches(text, 0).collect()
    }

    /// The short cut finds what the expression alone finds.
    #[test]
    fn runs_hide_no_match() {
        let patterns = [
            r"[0-9]{3}-[0-9]{4}",
            r"\d+",
            r"\b[a-c]+\b",
            r"(?m)^[a-c]{2,}$",
            r"[ab]{2}|c[0-9]{5}",
            r"(?-u)[\x80-\xff]{3}",
            r"[é-ü]a",
            r"a*",
            r"(?:ab|1)+-?",
            r"\bb",
            r"[a-c]+?[0-9]",
            r"(?-u)[^\x00a]{4}",
            r"[ab]+-[0-9]",
            r"(?:[ab]-)+c?",
        ];
        let alphabet = b"ab-01c2\n \xc3\xa9\x00".as_slice();
        let mut state = 7_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            alphabet[usize::try_from(state >> 40).unwrap() % alphabet.len()]
        };
        // With gaps, for where runs are near each other they are taken many at once.
        let text: Vec<u8> =
            (0..40_000).map(|at| if at / 700 % 4 > 1 && at > 9_000 { b' ' } else { byte() }).collect();
        for expression in patterns {
            let pattern = Pattern::regex(expression).unwrap();
            let plain = regex::bytes::Regex::new(expression).unwrap();
            let mut wanted: Vec<_> = Vec::new();
            let mut from = 0;
            while let Some(found) = plain.find_at(&text, from) {
                from = found.end() + usize::from(found.is_empty());
                if !found.is_empty() {
                    wanted.push(found.range());
                }
            }
            assert_eq!(all(&pattern, &text), wanted, "{expression}");
        }
        let pattern = Pattern::regex(r"[ab]+[0-9]").unwrap();
        let mut matches = pattern.matches(&text, 0);
        let windows: Vec<usize> = std::iter::from_fn(|| matches.next().map(|_| matches.run.len())).collect();
        assert!(windows.iter().any(|len| *len < 20), "alone");
        assert!(windows.iter().any(|len| *len > 8_000), "many at once");
    }

    #[test]
    fn what_is_wrong_with_it() {
        for (text, what) in [("(", "unclosed group"), ("(?s-u:.{100000}){100}", "it would need more than")] {
            let error = Pattern::regex(text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn which_bytes_and_how_many() {
        let of = |text: &str| {
            let Needle::Regex(regex) = Pattern::regex(text).unwrap().needle else { panic!() };
            regex
                .alphabet
                .map(|alphabet| (alphabet.bytes.iter().filter(|has| **has).count(), alphabet.shortest))
        };
        assert_eq!(of(r"[0-9]{3}-[0-9]{4}"), Some((11, 8)));
        assert_eq!(of(r"[0-9]{100}"), Some((10, 64)));
        assert_eq!(of(r"(?s)(?-u)."), None, "any byte");
        assert_eq!(of(r"[0-9]+ bottles"), None, "it has a literal");
        assert_eq!(of(r"[a-é]"), Some((31 + 128, 1)));
        let pattern = Pattern::regex("[0-9]{3}").unwrap();
        assert_eq!(pattern.decided(b"12 34567"), 3);
        assert_eq!(pattern.decided(b"12 34567 "), 9);
    }
}
