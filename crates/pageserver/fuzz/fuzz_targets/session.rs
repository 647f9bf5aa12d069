//! A server that is told anything: it may refuse, but what it hands on to be kept makes sense.
#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use rewake_images::{PAGE_SIZE, pe};
use rewake_pageserver::{Connection, Object, PageServerError, Receiver, Span, receive};

/// One end of a connection whose other end has said everything it will.
#[derive(Debug)]
struct Said<'a>(&'a [u8]);

impl Read for Said<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Said<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for Said<'_> {
    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps nothing, but knows what would have to come.
#[derive(Default)]
struct Checker {
    open: bool,
    missing: u64,
    committed: bool,
}

impl Receiver for Checker {
    fn open(&mut self, object: Object) -> Result<bool, PageServerError> {
        assert_eq!(self.missing, 0);
        assert!(object.number < 1 << 56);
        self.open = true;
        Ok(object.number % 2 == 0)
    }

    fn has_parent(&mut self, _object: Object) -> Result<bool, PageServerError> {
        Ok(false)
    }

    fn entry(&mut self, span: Span, flags: u32) -> Result<(), PageServerError> {
        assert!(self.open && self.missing == 0);
        assert!(span.vaddr % PAGE_SIZE == 0 && span.pages > 0 && span.end() > span.vaddr);
        self.missing = if flags & pe::PRESENT != 0 { span.bytes() } else { 0 };
        Ok(())
    }

    fn pages(&mut self, bytes: &[u8]) -> Result<(), PageServerError> {
        self.missing = self.missing.checked_sub(bytes.len() as u64).expect("no more than was announced");
        Ok(())
    }

    fn commit(&mut self) -> Result<(), PageServerError> {
        assert_eq!(self.missing, 0);
        self.committed = true;
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut checker = Checker::default();
    let received = receive(&mut Said(data), &mut checker);
    assert_eq!(received.is_ok(), checker.committed);
});
