//! The build-id of an ELF file, read without trusting a single number in it.
//!
//! A build-id is the note `NT_GNU_BUILD_ID` of name `GNU` in a `PT_NOTE` segment. Only the ELF header, the program
//! headers and the note segments are read, with positioned reads, and never more than [`MAX_NOTE_BYTES`] of notes and
//! [`MAX_SEGMENTS`] program headers: a hostile file costs a bounded amount of memory and time.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{CookieError, Result};

/// Program headers looked at; real files have about a dozen.
pub const MAX_SEGMENTS: u32 = 1024;
/// Bytes of notes looked at, over all segments together.
pub const MAX_NOTE_BYTES: u64 = 1 << 20;
/// Longest build-id taken; linkers make 8, 16 or 20 bytes, or whatever the user gave as hex.
pub const MAX_BUILD_ID: usize = 1024;

const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const NOTE_HEADER: usize = 12;

/// A build-id: some bytes that name one linked output.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// Takes the bytes as they are in the note; `None` for an empty or oversized one.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= MAX_BUILD_ID).then(|| Self(bytes.to_vec()))
    }

    /// The bytes as they are in the note.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Packs the bytes into the words of `reg_file_entry.build_id`, the last one filled up with zeroes.
    pub fn to_words(&self) -> Vec<u32> {
        let word = |chunk: &[u8]| {
            let mut bytes = [0; 4];
            for (to, from) in bytes.iter_mut().zip(chunk) {
                *to = *from;
            }
            u32::from_le_bytes(bytes)
        };
        self.0.chunks(4).map(word).collect()
    }

    /// Unpacks words of `reg_file_entry.build_id`. The filling of the last word cannot be told from contents, see
    /// [`BuildId::same_padded`].
    pub fn from_words(words: &[u32]) -> Option<Self> {
        let bytes: Vec<u8> = words.iter().take(MAX_BUILD_ID).flat_map(|word| word.to_le_bytes()).collect();
        Self::new(&bytes)
    }

    /// Whether both are the same, given that either may have been filled up with zeroes to whole words.
    pub fn same_padded(&self, other: &Self) -> bool {
        self.to_words() == other.to_words()
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// What a look for a build-id found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// It has this one.
    Found(BuildId),
    /// An ELF file without one.
    None,
    /// No ELF file.
    NotElf,
    /// It begins like an ELF file, no build-id was found, and what was read contradicts itself or the file's size.
    Malformed(&'static str),
}

/// Bytes that can be read at any place: an open file, or a slice in tests and fuzzing.
pub trait ReadAt {
    /// Reads as much of `buf` as there is from `offset` on; less than `buf.len()` only at the end.
    ///
    /// # Errors
    ///
    /// Whatever the medium answers.
    fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for std::fs::File {
    fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let Some(at) = offset.checked_add(filled as u64).filter(|at| i64::try_from(*at).is_ok()) else {
                break;
            };
            match self.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

impl ReadAt for [u8] {
    fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        Ok(buf.iter_mut().zip(from).map(|(to, byte)| *to = *byte).count())
    }
}

/// The build-id of an open file, `None` when it has none that can be found (see [`scan`] for the reason).
///
/// # Errors
///
/// [`CookieError::Read`] when reading fails; contents never are an error.
pub fn read(file: &std::fs::File) -> Result<Option<BuildId>> {
    match scan(file).map_err(|source| CookieError::Read { what: "ELF headers", source })? {
        Scan::Found(id) => Ok(Some(id)),
        Scan::None | Scan::NotElf | Scan::Malformed(_) => Ok(None),
    }
}

/// Looks for the build-id.
///
/// # Errors
///
/// Only those of the medium.
pub fn scan<R: ReadAt + ?Sized>(file: &R) -> io::Result<Scan> {
    let mut head = [0; HEAD];
    let got = file.read_full_at(&mut head, 0)?;
    scan_in(&Headed { file, head: head.get(..got).unwrap_or_default() })
}

/// Bytes read at once from the start: in nearly all files they hold all headers and notes.
const HEAD: usize = 4096;

/// A file whose first bytes are here already.
struct Headed<'a, R: ?Sized> {
    file: &'a R,
    head: &'a [u8],
}

impl<R: ReadAt + ?Sized> ReadAt for Headed<'_, R> {
    fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let whole = self.head.len() < HEAD;
        let within = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.head.len() as u64);
        if whole || within {
            self.head.read_full_at(buf, offset)
        } else {
            self.file.read_full_at(buf, offset)
        }
    }
}

fn scan_in<R: ReadAt + ?Sized>(file: &R) -> io::Result<Scan> {
    let mut header = [0; 64];
    let got = file.read_full_at(&mut header, 0)?;
    let header = header.get(..got).unwrap_or_default();
    let Some(shape) = Shape::of(header) else {
        return Ok(if header.starts_with(b"\x7fELF") {
            Scan::Malformed("unknown class or byte order")
        } else {
            Scan::NotElf
        });
    };
    let Some(table) = SegmentTable::of(shape, header) else { return Ok(Scan::Malformed("short ELF header")) };
    table.scan(file)
}

/// Class and byte order, which decide how everything else is read.
#[derive(Debug, Clone, Copy)]
struct Shape {
    wide: bool,
    big: bool,
}

impl Shape {
    fn of(header: &[u8]) -> Option<Self> {
        let (class, order) = match header {
            [0x7f, b'E', b'L', b'F', class, order, ..] => (*class, *order),
            _ => return None,
        };
        let wide = match class {
            1 => false,
            2 => true,
            _ => return None,
        };
        match order {
            1 => Some(Self { wide, big: false }),
            2 => Some(Self { wide, big: true }),
            _ => None,
        }
    }

    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let raw = bytes.get(at..)?.first_chunk()?;
        Some(if self.big { u16::from_be_bytes(*raw) } else { u16::from_le_bytes(*raw) })
    }

    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let raw = bytes.get(at..)?.first_chunk()?;
        Some(if self.big { u32::from_be_bytes(*raw) } else { u32::from_le_bytes(*raw) })
    }

    /// An address-sized word: 8 bytes at `at_wide`, or 4 at `at_narrow`.
    fn word(self, bytes: &[u8], at_wide: usize, at_narrow: usize) -> Option<u64> {
        if !self.wide {
            return self.u32(bytes, at_narrow).map(u64::from);
        }
        let raw = bytes.get(at_wide..)?.first_chunk()?;
        Some(if self.big { u64::from_be_bytes(*raw) } else { u64::from_le_bytes(*raw) })
    }
}

/// Where the program headers are.
#[derive(Debug)]
struct SegmentTable {
    shape: Shape,
    offset: u64,
    entry_size: u16,
    entries: u32,
}

/// A `PT_NOTE` program header.
#[derive(Debug, Clone, Copy)]
struct NoteSegment {
    offset: u64,
    size: u64,
    align: u64,
}

impl SegmentTable {
    fn of(shape: Shape, header: &[u8]) -> Option<Self> {
        let (entry_size, entries) = if shape.wide { (54, 56) } else { (42, 44) };
        Some(Self {
            shape,
            offset: shape.word(header, 32, 28)?,
            entry_size: shape.u16(header, entry_size)?,
            entries: u32::from(shape.u16(header, entries)?),
        })
    }

    fn scan<R: ReadAt + ?Sized>(&self, file: &R) -> io::Result<Scan> {
        let least = if self.shape.wide { 56 } else { 32 };
        if self.entries == 0 {
            return Ok(Scan::None);
        }
        if self.entry_size < least {
            return Ok(Scan::Malformed("program header entries too small"));
        }
        let mut doubt = None;
        let mut budget = MAX_NOTE_BYTES;
        let mut header = [0; 56];
        let header = header.get_mut(..usize::from(least)).unwrap_or_default();
        for index in 0..self.entries.min(MAX_SEGMENTS) {
            let place = u64::from(index)
                .checked_mul(u64::from(self.entry_size))
                .and_then(|distance| self.offset.checked_add(distance));
            let Some(place) = place else { return Ok(Scan::Malformed("program headers past the end")) };
            if file.read_full_at(header, place)? < header.len() {
                return Ok(Scan::Malformed("program headers past the end"));
            }
            let Some(segment) = self.note_segment(header) else { continue };
            match notes(self.shape, file, segment, &mut budget)? {
                Scan::Found(id) => return Ok(Scan::Found(id)),
                Scan::Malformed(why) => doubt = Some(why),
                Scan::None | Scan::NotElf => {}
            }
        }
        if self.entries > MAX_SEGMENTS {
            doubt = Some("too many program headers");
        }
        Ok(doubt.map_or(Scan::None, Scan::Malformed))
    }

    fn note_segment(&self, header: &[u8]) -> Option<NoteSegment> {
        let shape = self.shape;
        (shape.u32(header, 0)? == PT_NOTE).then_some(())?;
        Some(NoteSegment {
            offset: shape.word(header, 8, 4)?,
            size: shape.word(header, 32, 16)?,
            align: shape.word(header, 48, 28)?,
        })
    }
}

/// Walks the notes of one segment.
fn notes<R: ReadAt + ?Sized>(
    shape: Shape,
    file: &R,
    segment: NoteSegment,
    budget: &mut u64,
) -> io::Result<Scan> {
    // Segments with alignment 8 (property notes) align description and next note to 8, all others to 4.
    let align = if segment.align == 8 { 8 } else { 4 };
    let mut at = 0u64;
    let mut doubt = None;
    while segment.size.saturating_sub(at) >= NOTE_HEADER as u64 {
        let Some(place) = segment.offset.checked_add(at) else {
            return Ok(Scan::Malformed("notes past the end"));
        };
        let mut header = [0; NOTE_HEADER + 4];
        let cost = header.len() as u64;
        let Some(left) = budget.checked_sub(cost) else { return Ok(Scan::Malformed("too many notes")) };
        *budget = left;
        let got = file.read_full_at(&mut header, place)?;
        let words = (shape.u32(&header, 0), shape.u32(&header, 4), shape.u32(&header, 8));
        let ((Some(name), Some(desc), Some(kind)), true) = (words, got >= NOTE_HEADER) else {
            return Ok(Scan::Malformed("notes past the end"));
        };
        // Three lengths below 2^33 each: no sum of them leaves u64, `at` stays below `segment.size` plus that.
        let desc_at = (at + NOTE_HEADER as u64 + u64::from(name)).next_multiple_of(align);
        let Some(end) = desc_at.checked_add(u64::from(desc)) else {
            return Ok(Scan::Malformed("notes past the end"));
        };
        if end > segment.size {
            return Ok(Scan::Malformed("a note reaches out of its segment"));
        }
        let named_gnu = name == 4 && header.ends_with(b"GNU\0") && got == header.len();
        if kind == NT_GNU_BUILD_ID && named_gnu {
            match description(file, segment.offset.checked_add(desc_at), desc)? {
                Some(id) => return Ok(Scan::Found(id)),
                None => doubt = Some("a build-id of impossible length"),
            }
        }
        let Some(next) = end.checked_next_multiple_of(align) else { break };
        at = next;
    }
    Ok(doubt.map_or(Scan::None, Scan::Malformed))
}

fn description<R: ReadAt + ?Sized>(file: &R, place: Option<u64>, len: u32) -> io::Result<Option<BuildId>> {
    let (Some(place), Ok(len)) = (place, usize::try_from(len)) else { return Ok(None) };
    if len > MAX_BUILD_ID {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    let got = file.read_full_at(&mut bytes, place)?;
    Ok(if got == len { BuildId::new(&bytes) } else { None })
}
