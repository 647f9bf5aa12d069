//! Makes ELF images byte by byte, sharing no layout with the reader, lies included.

/// An ELF image to be made.
#[derive(Debug, Clone)]
pub(crate) struct Elf {
    pub(crate) wide: bool,
    pub(crate) big: bool,
    /// Note segments: alignment and contents.
    pub(crate) notes: Vec<(u64, Vec<u8>)>,
    /// Bytes after everything else.
    pub(crate) tail: Vec<u8>,
}

impl Elf {
    pub(crate) fn new(wide: bool, big: bool) -> Self {
        Self { wide, big, notes: Vec::new(), tail: b"code".to_vec() }
    }

    /// An image with one segment of one build-id note.
    pub(crate) fn with_build_id(wide: bool, big: bool, id: &[u8]) -> Self {
        let mut elf = Self::new(wide, big);
        let note = elf.note(b"GNU\0", 3, id, 4);
        elf.notes.push((4, note));
        elf
    }

    fn put(&self, out: &mut Vec<u8>, value: u64, bytes: usize) {
        let little = &value.to_le_bytes()[..bytes];
        if self.big {
            out.extend(little.iter().rev());
        } else {
            out.extend(little);
        }
    }

    /// A note, filled up to `align` after name and description.
    pub(crate) fn note(&self, name: &[u8], kind: u32, description: &[u8], align: usize) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out, name.len() as u64, 4);
        self.put(&mut out, description.len() as u64, 4);
        self.put(&mut out, u64::from(kind), 4);
        out.extend(name);
        out.resize(out.len().next_multiple_of(align), 0);
        out.extend(description);
        out.resize(out.len().next_multiple_of(align), 0);
        out
    }

    fn word(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    pub(crate) fn header_size(&self) -> usize {
        if self.wide { 64 } else { 52 }
    }

    pub(crate) fn segment_size(&self) -> usize {
        if self.wide { 56 } else { 32 }
    }

    /// A program header with any numbers.
    pub(crate) fn segment(&self, kind: u32, offset: u64, size: u64, align: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let word = self.word();
        self.put(&mut out, u64::from(kind), 4);
        if self.wide {
            self.put(&mut out, 4, 4); // flags
        }
        for value in [offset, 0, 0, size, size] {
            self.put(&mut out, value, word);
        }
        if !self.wide {
            self.put(&mut out, 4, 4);
        }
        self.put(&mut out, align, word);
        assert_eq!(out.len(), self.segment_size());
        out
    }

    /// An ELF header with any numbers.
    pub(crate) fn header(&self, table: u64, entry_size: u64, entries: u64) -> Vec<u8> {
        let mut out = b"\x7fELF".to_vec();
        out.extend([if self.wide { 2 } else { 1 }, if self.big { 2 } else { 1 }, 1, 0]);
        out.resize(16, 0);
        let word = self.word();
        for (value, bytes) in [(3, 2), (62, 2), (1, 4), (0, word), (table, word), (0, word), (0, 4)] {
            self.put(&mut out, value, bytes);
        }
        let size = self.header_size() as u64;
        for value in [size, entry_size, entries, 0, 0, 0] {
            self.put(&mut out, value, 2);
        }
        assert_eq!(out.len(), self.header_size());
        out
    }

    /// The image: header, program headers (one of code first), notes, tail.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let entries = self.notes.len() + 1;
        let mut out = self.header(self.header_size() as u64, self.segment_size() as u64, entries as u64);
        let mut place = (out.len() + entries * self.segment_size()).next_multiple_of(8);
        out.extend(self.segment(1, 0, 4096, 4096));
        for (align, contents) in &self.notes {
            out.extend(self.segment(4, place as u64, contents.len() as u64, *align));
            place = (place + contents.len()).next_multiple_of(8);
        }
        for (_, contents) in &self.notes {
            out.resize(out.len().next_multiple_of(8), 0);
            out.extend(contents);
        }
        out.extend(&self.tail);
        out
    }
}

/// All four shapes.
pub(crate) const SHAPES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];
