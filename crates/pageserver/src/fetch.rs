//! Asking for pages.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rewake_images::PAGE_SIZE;
use rewake_memdump::{MemorySource, SourceError};

use crate::connection::Connection;
use crate::error::{PageServerError, ProtocolError, Result};
use crate::wire::{Given, REQUEST_BYTES, Request, Span};

/// Asked for at once: what CRIU asks for.
const PAGES_AT_ONCE: u32 = 16;
/// Requests under way, so that the other side need not wait for the next.
const AHEAD: usize = 16;

/// A page server that holds memory nobody has here.
#[derive(Debug)]
pub struct Fetcher(Mutex<Asking>);

impl Fetcher {
    /// Asks over `connection`.
    #[must_use]
    pub fn new(connection: Box<dyn Connection>) -> Self {
        Self(Mutex::new(Asking { connection, buffer: Vec::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemorySource for Fetcher {
    fn fetch(
        &self,
        pid: u32,
        vaddr: u64,
        pages: u64,
        keep: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<(), SourceError> {
        Ok(self.lock().fetch(pid.into(), vaddr, pages, keep)?)
    }

    fn close(&self) -> Result<(), SourceError> {
        Ok(self.lock().close()?)
    }
}

#[derive(Debug)]
struct Asking {
    connection: Box<dyn Connection>,
    buffer: Vec<u8>,
}

impl Asking {
    fn fetch(
        &mut self,
        pid: u64,
        vaddr: u64,
        pages: u64,
        keep: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
    ) -> Result<()> {
        let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| vaddr.checked_add(bytes));
        let end = end.ok_or(ProtocolError::Span { vaddr, pages: u32::MAX })?;
        let mut next = vaddr;
        let mut asked: VecDeque<Span> = VecDeque::with_capacity(AHEAD);
        loop {
            while asked.len() < AHEAD && next < end {
                let left = u32::try_from((end - next) / PAGE_SIZE).unwrap_or(u32::MAX);
                let span = Span { vaddr: next, pages: left.min(PAGES_AT_ONCE) };
                self.ask(pid, span)?;
                asked.push_back(span);
                next = span.end();
            }
            let Some(span) = asked.pop_front() else { return Ok(()) };
            let given = self.take(pid, span)?;
            keep(span.vaddr, &self.buffer)
                .map_err(PageServerError::connection("keep what came from", "the page server"))?;
            if given < span.pages {
                // The rest of it, after those that are under way. It counts as one of them, so it is asked for at once.
                let got = u64::from(given) * PAGE_SIZE;
                let rest = Span { vaddr: span.vaddr + got, pages: span.pages - given };
                self.ask(pid, rest)?;
                asked.push_back(rest);
            }
        }
    }

    fn ask(&mut self, pid: u64, span: Span) -> Result<()> {
        let asked = self.connection.write_all(&Request::Get { pid, span }.encode());
        asked.and_then(|()| self.connection.flush()).map_err(PageServerError::broken("write to"))
    }

    /// The answer to the oldest request: how many pages came, which are in the buffer then.
    fn take(&mut self, pid: u64, span: Span) -> Result<u32> {
        let mut header = [0; REQUEST_BYTES];
        let read = self.connection.read_exact(&mut header);
        read.map_err(|error| match error.kind() {
            // So does CRIU if it lacks pages.
            std::io::ErrorKind::UnexpectedEof => PageServerError::NoPages { pid, vaddr: span.vaddr },
            _ => PageServerError::broken("read from")(error),
        })?;
        let given = Given::decode(&header)?;
        if given.pages == 0 {
            return Err(PageServerError::NoPages { pid, vaddr: span.vaddr });
        }
        if (given.pid, given.vaddr) != (pid, span.vaddr) || given.pages > span.pages {
            return Err(ProtocolError::Answer { vaddr: given.vaddr, pages: given.pages }.into());
        }
        let bytes = u64::from(given.pages) * PAGE_SIZE;
        self.buffer.resize(usize::try_from(bytes).unwrap_or_default(), 0);
        self.connection.read_exact(&mut self.buffer).map_err(PageServerError::broken("read from"))?;
        Ok(given.pages)
    }

    fn close(&mut self) -> Result<()> {
        let request = Request::Close { keeping_socket: false }.encode();
        let asked = self.connection.write_all(&request).and_then(|()| self.connection.flush());
        asked.map_err(PageServerError::broken("write to"))?;
        let mut status = [0; 4];
        self.connection.read_exact(&mut status).map_err(PageServerError::broken("read from"))?;
        let _ = self.connection.end();
        match i32::from_le_bytes(status) {
            0 => Ok(()),
            status => Err(PageServerError::Failed { status }),
        }
    }
}
