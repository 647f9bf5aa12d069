//! ELF headers of a core file.

/// Size of the file header.
pub(super) const FILE_HEADER: u64 = 64;
/// Size of a program header.
pub(super) const PROGRAM_HEADER: u64 = 56;
/// Size of a section header.
pub(super) const SECTION_HEADER: u64 = 64;

/// Notes.
pub(super) const PT_NOTE: u32 = 4;
/// Memory.
pub(super) const PT_LOAD: u32 = 1;

/// So many program headers do not fit the file header's field; the first section header then holds the number.
const PN_XNUM: u64 = 0xffff;

/// Little-endian fields, one after the other.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    /// `bytes` in a field of `size`, cut, and filled with zeros.
    pub(super) fn sized(self, bytes: &[u8], size: usize) -> Self {
        let bytes = bytes.get(..size).unwrap_or(bytes);
        self.bytes(bytes).zeros(size - bytes.len())
    }
}

/// One program header.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) vaddr: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
    pub(super) align: u64,
}

/// Size of all headers of a file with `segments` program headers.
pub(super) fn headers_size(segments: u64) -> u64 {
    let section = if segments >= PN_XNUM { SECTION_HEADER } else { 0 };
    FILE_HEADER + segments * PROGRAM_HEADER + section
}

/// The file header, the program headers, and the section header that counts them if they are very many.
pub(super) fn headers(segments: &[ProgramHeader]) -> Vec<u8> {
    const CORE: u16 = 4;
    const X86_64: u16 = 62;
    let count = segments.len() as u64;
    let small = u16::try_from(count).ok().filter(|_| count < PN_XNUM);
    let sections = u16::from(small.is_none());
    let section_offset = if small.is_none() { FILE_HEADER + count * PROGRAM_HEADER } else { 0 };
    let mut all = Fields::default()
        .bytes(b"\x7fELF\x02\x01\x01") // 64 bits, little-endian, version
        .zeros(9)
        .u16(CORE)
        .u16(X86_64)
        .u32(1)
        .u64(0)
        .u64(FILE_HEADER)
        .u64(section_offset)
        .u32(0)
        .u16(64)
        .u16(56)
        .u16(small.unwrap_or(0xffff))
        .u16(if sections > 0 { 64 } else { 0 })
        .u16(sections)
        .u16(0);
    for p in segments {
        all = all.u32(p.kind).u32(p.flags).u64(p.offset).u64(p.vaddr).u64(0);
        all = all.u64(p.file_size).u64(p.memory_size).u64(p.align);
    }
    if small.is_none() {
        // sh_info counts the program headers, sh_size the sections.
        let info = u32::try_from(count).unwrap_or(u32::MAX);
        all = all.zeros(32).u64(1).u32(0).u32(info).zeros(16);
    }
    all.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_many_segments_are_counted_by_a_section() {
        let header = ProgramHeader {
            kind: PT_LOAD,
            flags: 0,
            offset: 0,
            vaddr: 0,
            file_size: 0,
            memory_size: 0,
            align: 1,
        };
        for count in [1_usize, 0xfffe, 0xffff, 70_000] {
            let bytes = headers(&vec![header; count]);
            assert_eq!(bytes.len() as u64, headers_size(count as u64));
            let phnum = u16::from_le_bytes([bytes[56], bytes[57]]);
            if count < 0xffff {
                assert_eq!(usize::from(phnum), count);
            } else {
                assert_eq!(phnum, 0xffff);
                let section = &bytes[64 + 56 * count..];
                assert_eq!(section[44..48], u32::try_from(count).unwrap().to_le_bytes());
            }
        }
    }
}
