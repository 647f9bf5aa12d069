//! The reader of build-ids on any bytes: no panic, bounded work, and only what the bytes hold.
#![no_main]

use std::cell::Cell;
use std::io;

use libfuzzer_sys::fuzz_target;
use rewake_filecheck::build_id::{MAX_BUILD_ID, MAX_NOTE_BYTES, MAX_SEGMENTS, ReadAt, Scan, scan};

/// Counts what is read, so that a file making the reader work without bound is a finding.
struct Counted<'a> {
    data: &'a [u8],
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl ReadAt for Counted<'_> {
    fn read_full_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + buf.len() as u64);
        self.data.read_full_at(buf, offset)
    }
}

fuzz_target!(|data: &[u8]| {
    let counted = Counted { data, reads: Cell::new(0), bytes: Cell::new(0) };
    let scan = scan(&counted).expect("memory does not fail");
    if let Scan::Found(id) = scan {
        let id = id.as_bytes();
        assert!(!id.is_empty() && id.len() <= MAX_BUILD_ID);
        assert!(data.windows(id.len()).any(|window| window == id));
    }
    let most = u64::from(MAX_SEGMENTS) * 64 + 2 * MAX_NOTE_BYTES + 4096 + MAX_BUILD_ID as u64;
    assert!(counted.bytes.get() <= most, "{} bytes in {} reads", counted.bytes.get(), counted.reads.get());
});
