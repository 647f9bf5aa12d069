//! The other way round: pages are asked for, and sent from a checkpoint.

use std::collections::HashMap;
use std::path::PathBuf;

use rewake_images::{Kind, PAGE_SIZE, PageStore};
use serde::Serialize;

use crate::connection::Connection;
use crate::error::{PageServerError, ProtocolError, Result};
use crate::wire::{Given, REQUEST_BYTES, Request, Span};

/// Pages sent at once: those who ask must be ready for fewer than they asked for.
const MOST_PAGES: u32 = 1024;
/// Memory of so many tasks is kept open.
const MOST_TASKS: usize = 4096;

/// What was lent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LendReport {
    /// Requests.
    pub requests: u64,
    /// Pages sent.
    pub pages: u64,
}

/// The memory of the tasks of a checkpoint.
#[derive(Debug)]
pub struct Lender {
    dir: PathBuf,
    open: HashMap<u64, PageStore>,
    report: LendReport,
}

impl Lender {
    /// Lends from the checkpoint in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), open: HashMap::new(), report: LendReport::default() }
    }

    /// What was lent so far.
    #[must_use]
    pub fn report(&self) -> LendReport {
        self.report
    }

    /// Answers until the other side says that it has all, or goes.
    ///
    /// # Errors
    /// [`PageServerError::Protocol`] and [`PageServerError::Image`], which end the conversation.
    pub fn serve<C: Connection + ?Sized>(&mut self, connection: &mut C) -> Result<()> {
        let mut buffer = Vec::new();
        loop {
            let mut header = [0; REQUEST_BYTES];
            match connection.read_exact(&mut header) {
                // Whoever has all it wants may just go.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read.map_err(PageServerError::broken("read from"))?,
            }
            match Request::decode(&header)? {
                Request::Get { pid, span } => {
                    let given = self.read(pid, span, &mut buffer)?;
                    let sent = connection.write_all(&given.encode());
                    let sent =
                        sent.and_then(|()| connection.write_all(&buffer)).and_then(|()| connection.flush());
                    sent.map_err(PageServerError::broken("write to"))?;
                }
                Request::Close { .. } => {
                    let sent = connection.write_all(&0_i32.to_le_bytes()).and_then(|()| connection.flush());
                    sent.map_err(PageServerError::broken("answer"))?;
                    let _ = connection.end();
                    let _ = connection.read(&mut [0]);
                    return Ok(());
                }
                _ => return Err(ProtocolError::Misplaced { request: "sending pages" }.into()),
            }
        }
    }

    /// Reads the pages of `span` up to the first that is not there.
    fn read(&mut self, pid: u64, span: Span, buffer: &mut Vec<u8>) -> Result<Given> {
        self.report.requests += 1;
        buffer.clear();
        let none = Given { pid, vaddr: span.vaddr, pages: 0 };
        let Some(store) = self.store(pid)? else { return Ok(none) };
        let end = span.vaddr + u64::from(span.pages.min(MOST_PAGES)) * PAGE_SIZE;
        let mut at = span.vaddr;
        for run in store.runs_in(span.vaddr, end) {
            if run.vaddr != at {
                break;
            }
            at = run.end();
        }
        let bytes = at - span.vaddr;
        buffer.resize(usize::try_from(bytes).unwrap_or_default(), 0);
        store.read_at(span.vaddr, buffer)?;
        self.report.pages += bytes / PAGE_SIZE;
        Ok(Given { pages: u32::try_from(bytes / PAGE_SIZE).unwrap_or_default(), ..none })
    }

    fn store(&mut self, pid: u64) -> Result<Option<&PageStore>> {
        if !self.open.contains_key(&pid) {
            let exists = self.dir.join(Kind::Pagemap.file_name(Some(pid))).exists();
            if !exists || self.open.len() >= MOST_TASKS {
                return Ok(None);
            }
            self.open.insert(pid, PageStore::open(&self.dir, Kind::Pagemap, pid)?);
        }
        Ok(self.open.get(&pid))
    }
}
