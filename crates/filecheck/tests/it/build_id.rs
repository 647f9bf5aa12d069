//! The reader against honest and lying ELF files.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::read::elf::{ElfFile64, FileHeader};
use rewake_filecheck::BuildId;
use rewake_filecheck::build_id::{self, MAX_BUILD_ID, Scan, scan};

use crate::elf::{Elf, SHAPES};

fn found(bytes: &[u8]) -> Scan {
    Scan::Found(BuildId::new(bytes).unwrap())
}

fn malformed(image: &[u8]) -> &'static str {
    match scan(image).unwrap() {
        Scan::Malformed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_classes_byte_orders_and_lengths() {
    for (wide, big) in SHAPES {
        for len in [1, 7, 8, 16, 20, 64, MAX_BUILD_ID] {
            let id: Vec<u8> = (1u8..=255).cycle().take(len).collect();
            let image = Elf::with_build_id(wide, big, &id).bytes();
            assert_eq!(scan(image.as_slice()).unwrap(), found(&id), "wide {wide}, big {big}, {len} bytes");
        }
    }
}

#[test]
fn the_note_is_found_among_others() {
    for (wide, big) in SHAPES {
        let mut elf = Elf::new(wide, big);
        // A property note aligned to 8, an ABI note, a build-id number under another name, then the build-id.
        elf.notes.push((8, elf.note(b"GNU\0", 5, &[1; 20], 8)));
        let mut notes = elf.note(b"GNU\0", 1, &[2; 16], 4);
        notes.extend(elf.note(b"Go\0\0", 3, b"other", 4));
        notes.extend(elf.note(b"stapsdt\0", 3, &[], 4));
        notes.extend(elf.note(b"GNU\0", 3, b"the build-id", 4));
        elf.notes.push((4, notes));
        assert_eq!(scan(elf.bytes().as_slice()).unwrap(), found(b"the build-id"));
    }
}

#[test]
fn none_and_not_elf() {
    for (wide, big) in SHAPES {
        let mut elf = Elf::new(wide, big);
        assert_eq!(scan(elf.bytes().as_slice()).unwrap(), Scan::None);
        elf.notes.push((4, elf.note(b"GNU\0", 1, &[0; 16], 4)));
        assert_eq!(scan(elf.bytes().as_slice()).unwrap(), Scan::None);
        let empty = elf.header(0, 0, 0);
        assert_eq!(scan(empty.as_slice()).unwrap(), Scan::None);
    }
    for other in [&b""[..], b"\x7f", b"\x7fEL", b"#!/bin/sh\n", &[0; 200]] {
        assert_eq!(scan(other).unwrap(), Scan::NotElf);
    }
    assert_eq!(malformed(b"\x7fELF"), "unknown class or byte order");
    assert_eq!(malformed(b"\x7fELF\x03\x01\x01"), "unknown class or byte order");
    assert_eq!(malformed(b"\x7fELF\x02\x07\x01"), "unknown class or byte order");
    assert_eq!(malformed(b"\x7fELF\x02\x01\x01"), "short ELF header");
}

#[test]
fn program_headers_past_the_end() {
    for (wide, big) in SHAPES {
        let elf = Elf::new(wide, big);
        let size = elf.segment_size() as u64;
        let top = if wide { u64::MAX } else { u64::from(u32::MAX) };
        for table in [1 << 20, top, top - 10, top / 2] {
            let image = elf.header(table, size, 3);
            assert_eq!(malformed(&image), "program headers past the end");
        }
        assert_eq!(malformed(&elf.header(64, size - 1, 1)), "program header entries too small");
        // More headers than the file has room for, each of them as large as can be.
        assert_eq!(malformed(&elf.header(64, 0xffff, 0xffff)), "program headers past the end");
    }
}

#[test]
fn notes_that_lie() {
    for (wide, big) in SHAPES {
        let elf = Elf::new(wide, big);
        let table = elf.header_size() as u64;
        let with = |offset, size, rest: &[u8]| {
            let mut image = elf.header(table, elf.segment_size() as u64, 1);
            image.extend(elf.segment(4, offset, size, 4));
            image.extend(rest);
            image
        };
        let here = table + elf.segment_size() as u64;
        let top = if wide { 1 << 63 } else { 1 << 31 };
        // Segments far outside, of sizes up to 2^63 and to the very last number.
        for (offset, size) in [(here, top), (top, top), (top + (top - 1), top + (top - 1)), (top, 12)] {
            assert_eq!(malformed(&with(offset, size, &[])), "notes past the end", "{offset:#x} {size:#x}");
        }
        // Lengths of name and description beyond the segment.
        for (name, description) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX), (4, 1 << 31)] {
            let word = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
            let note = [word(name), word(description), word(3), *b"GNU\0"].concat();
            assert_eq!(malformed(&with(here, 16, &note)), "a note reaches out of its segment");
            if wide {
                // A segment that claims to hold it, in a file that does not.
                assert!(matches!(scan(with(here, top, &note).as_slice()).unwrap(), Scan::Malformed(_)));
            }
        }
        let empty = with(here, 16, &elf.note(b"GNU\0", 3, &[], 4));
        assert_eq!(malformed(&empty), "a build-id of impossible length");
        let long = elf.note(b"GNU\0", 3, &vec![1; MAX_BUILD_ID + 1], 4);
        assert_eq!(malformed(&with(here, long.len() as u64, &long)), "a build-id of impossible length");
    }
}

#[test]
fn a_lie_does_not_hide_a_later_build_id() {
    for (wide, big) in SHAPES {
        let elf = Elf::new(wide, big);
        let table = elf.header_size() as u64;
        let here = table + 3 * elf.segment_size() as u64;
        let note = elf.note(b"GNU\0", 3, &[7; 20], 4);
        let mut image = elf.header(table, elf.segment_size() as u64, 3);
        image.extend(elf.segment(4, 1 << 30, 1 << 30, 4));
        // Overlapping: one in the middle of the other.
        image.extend(elf.segment(4, here + 4, note.len() as u64 - 4, 4));
        image.extend(elf.segment(4, here, note.len() as u64, 4));
        image.extend(note);
        assert_eq!(scan(image.as_slice()).unwrap(), found(&[7; 20]));
    }
}

#[test]
fn endless_tiny_notes_end() {
    // A sparse file of 1 TiB whose one note segment is everything: all notes are empty.
    let file = tempfile::tempfile().unwrap();
    let elf = Elf::new(true, false);
    let mut image = elf.header(64, 56, 0xffff);
    for _ in 0..2000 {
        image.extend(elf.segment(4, 1 << 20, 1 << 39, 4));
    }
    file.write_all_at(&image, 0).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(matches!(scan(&file).unwrap(), Scan::Malformed(_)));
    assert_eq!(build_id::read(&file).unwrap(), None);
}

#[test]
fn real_programs_read_as_object_reads_them() {
    let mut seen = 0;
    let own = std::env::current_exe().unwrap();
    let system = ["/bin/true", "/bin/ls", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
    for path in system.iter().map(Into::into).chain([own]) {
        let Ok(data) = std::fs::read(&path) else { continue };
        let Ok(parsed) = ElfFile64::<object::Endianness>::parse(&*data) else { continue };
        let expected = parsed.elf_header().build_id_of(&data);
        let ours = build_id::read(&File::open(&path).unwrap()).unwrap();
        assert_eq!(ours.as_ref().map(BuildId::as_bytes), expected, "{}", path.display());
        seen += 1;
    }
    assert!(seen > 0, "at least the test itself is an ELF file");
}

/// The build-id as the `object` crate finds it.
trait BuildIdOf {
    fn build_id_of<'data>(&self, data: &'data [u8]) -> Option<&'data [u8]>;
}

impl<H: FileHeader<Endian = object::Endianness>> BuildIdOf for H {
    fn build_id_of<'data>(&self, data: &'data [u8]) -> Option<&'data [u8]> {
        use object::read::elf::ProgramHeader;
        let endian = self.endian().ok()?;
        for segment in self.program_headers(endian, data).ok()? {
            let Ok(Some(mut notes)) = segment.notes(endian, data) else { continue };
            while let Ok(Some(note)) = notes.next() {
                if note.name() == b"GNU" && note.n_type(endian) == object::elf::NT_GNU_BUILD_ID {
                    return Some(note.desc());
                }
            }
        }
        None
    }
}

#[test]
fn words_of_the_format() {
    let id = BuildId::new(&[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(id.to_words(), [0x0403_0201, 0x0000_0605]);
    let back = BuildId::from_words(&id.to_words()).unwrap();
    assert_ne!(back, id);
    assert!(back.same_padded(&id) && id.same_padded(&back));
    assert!(!id.same_padded(&BuildId::new(&[1, 2, 3, 4]).unwrap()));
    assert_eq!(BuildId::from_words(&[]), None);
    assert_eq!(id.to_string(), "010203040506");
}
