//! The client: sends what a dump captures.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rewake_images::{Kind, pe};
use rewake_memdump::{CaptureError, Chunk, MemoryTarget, PAGE_SIZE, PageRun, PageSink, Progress, Turn};

use crate::connection::Connection;
use crate::error::{PageServerError, ProtocolError, Result};
use crate::wire::{Object, Request, Span};

/// A page server, as the memory of a dump goes there.
#[derive(Debug)]
pub struct Sender {
    connection: Mutex<Box<dyn Connection>>,
    keeping_socket: bool,
    progress: Option<Arc<dyn Progress>>,
}

impl Sender {
    /// Sends over `connection`, which is in use by nobody else.
    #[must_use]
    pub fn new(connection: Box<dyn Connection>) -> Self {
        Self { connection: Mutex::new(connection), keeping_socket: false, progress: None }
    }

    /// Asks the server something, so that one that is none, or does not want us, is known before a process stands still
    /// for it.
    ///
    /// # Errors
    /// If the answer makes no sense, or there is none.
    pub fn greet(&self) -> Result<()> {
        let object = object(Kind::Pagemap, 1)?;
        yes(i32::from_le_bytes(self.ask(Request::HasParent { object })?)).map(drop)
    }

    /// The socket belongs to somebody else: the server is told to end instead of seeing it closed.
    #[must_use]
    pub fn keeping_socket(self) -> Self {
        Self { keeping_socket: true, ..self }
    }

    /// Errors of the connection are no errors if `progress` wants an end: somebody cut it, as nothing else ends waiting for the
    /// other side.
    #[must_use]
    pub fn watched(self, progress: Arc<dyn Progress>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    fn sink(&self, source: PageServerError) -> CaptureError {
        match &self.progress {
            Some(progress) if progress.cancelled() => CaptureError::Cancelled,
            _ => CaptureError::Sink { source: Box::new(source) },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<const N: usize>(&self, request: Request) -> Result<[u8; N]> {
        let mut connection = self.lock();
        let mut answer = [0; N];
        connection
            .write_all(&request.encode())
            .and_then(|()| connection.flush())
            .map_err(PageServerError::broken("write to"))?;
        connection.read_exact(&mut answer).map_err(PageServerError::broken("read from"))?;
        Ok(answer)
    }

    fn end(&self) -> Result<()> {
        let request = Request::Close { keeping_socket: self.keeping_socket };
        let status = i32::from_le_bytes(self.ask(request)?);
        if !self.keeping_socket {
            // All is said; how the connection ends matters to nobody.
            let _ = self.lock().end();
        }
        if status == 0 { Ok(()) } else { Err(PageServerError::Failed { status }) }
    }
}

fn yes(answer: i32) -> Result<bool> {
    match answer {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ProtocolError::NoAnswer { answer }.into()),
    }
}

fn object(kind: Kind, number: u64) -> Result<Object> {
    Object::new(kind, number).ok_or_else(|| ProtocolError::Object { id: number }.into())
}

impl MemoryTarget for Sender {
    fn has_parent(&self, kind: Kind, number: u64) -> Result<bool, CaptureError> {
        let object = object(kind, number).map_err(|error| self.sink(error))?;
        let answer = self.ask(Request::HasParent { object }).map_err(|error| self.sink(error))?;
        yes(i32::from_le_bytes(answer)).map_err(|error| self.sink(error))
    }

    fn open<'a>(
        &'a self,
        kind: Kind,
        number: u64,
        in_parent: &'a [PageRun],
    ) -> Result<Box<dyn PageSink + 'a>, CaptureError> {
        let object = object(kind, number).map_err(|error| self.sink(error))?;
        let [has_parent] =
            self.ask(Request::Open { object, answered: true }).map_err(|error| self.sink(error))?;
        yes(has_parent.into()).map_err(|error| self.sink(error))?;
        Ok(Box::new(Sending { sender: self, object, in_parent: Mutex::new(in_parent) }))
    }

    fn close(&self) -> Result<(), CaptureError> {
        self.end().map_err(|error| self.sink(error))
    }
}

/// The memory of one object on its way.
#[derive(Debug)]
struct Sending<'a> {
    sender: &'a Sender,
    object: Object,
    /// Pages the parent has that were not mentioned yet, ascending: entries of a pagemap must be.
    in_parent: Mutex<&'a [PageRun]>,
}

impl Sending<'_> {
    /// Mentions the pages of the parent that lie before `limit`.
    fn mention(&self, connection: &mut dyn Connection, limit: u64) -> std::io::Result<()> {
        let mut in_parent = self.in_parent.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((run, behind)) = in_parent.split_first().filter(|(run, _)| run.start < limit) {
            let (mut vaddr, mut left) = (run.start, run.pages);
            while left > 0 {
                let pages = u32::try_from(left).unwrap_or(u32::MAX);
                self.add(connection, Span { vaddr, pages }, pe::PARENT)?;
                vaddr += u64::from(pages) * PAGE_SIZE;
                left -= u64::from(pages);
            }
            *in_parent = behind;
        }
        Ok(())
    }

    fn add(&self, connection: &mut dyn Connection, span: Span, flags: u32) -> std::io::Result<()> {
        connection.write_all(&Request::Add { object: self.object, span, flags }.encode())
    }

    fn send(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64]) -> std::io::Result<()> {
        let mut connection = self.sender.lock();
        let mut rest = bytes;
        let mut place = chunk.file_offset / PAGE_SIZE;
        for &(start, len) in &chunk.iovecs {
            self.mention(&mut **connection, start)?;
            let mut at = start;
            while at < start + len {
                // As far as no page is lost, or the lost page alone.
                let lost_at = lost.get(lost.partition_point(|&lost| lost < place)).copied();
                let whole = (start + len - at) / PAGE_SIZE;
                let kept = lost_at.map_or(whole, |lost| whole.min(lost - place));
                let pages = kept.max(1);
                let (now, behind) = rest
                    .split_at_checked(usize::try_from(pages * PAGE_SIZE).unwrap_or(usize::MAX))
                    .unwrap_or((rest, &[]));
                if kept > 0 {
                    let pages = u32::try_from(pages).map_err(std::io::Error::other)?;
                    self.add(&mut **connection, Span { vaddr: at, pages }, pe::PRESENT)?;
                    connection.write_all(now)?;
                }
                rest = behind;
                at += pages * PAGE_SIZE;
                place += pages;
            }
        }
        Ok(())
    }
}

impl PageSink for Sending<'_> {
    fn put(&self, chunk: &Chunk, bytes: &[u8], lost: &[u64], turn: &Turn<'_>) -> Result<(), CaptureError> {
        turn.wait()?;
        self.send(chunk, bytes, lost)
            .map_err(PageServerError::broken("write to"))
            .map_err(|error| self.sender.sink(error))
    }

    fn finish(&self) -> Result<(), CaptureError> {
        let mut connection = self.sender.lock();
        let mentioned = self.mention(&mut **connection, u64::MAX).and_then(|()| connection.flush());
        mentioned.map_err(PageServerError::broken("write to")).map_err(|error| self.sender.sink(error))
    }
}
