//! The file.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Serialize;

use super::elf::{self, PT_LOAD, PT_NOTE, ProgramHeader};
use super::notes::{self, Facts, Thread};
use super::segments::{self, Segment, Stores};
use crate::PAGE_SIZE;
use crate::error::{ImageError, Result};
use crate::explore::Explorer;
use crate::proto;

/// What a core file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CoreReport {
    /// Process id.
    pub pid: u32,
    /// Number of threads.
    pub threads: usize,
    /// Number of parts of memory.
    pub segments: usize,
    /// Pages written.
    pub pages: u64,
}

/// Writes a core file of the task `pid` to `path`. Stretches without pages become holes.
///
/// # Errors
/// [`ImageError::NoTask`]; [`ImageError::Invalid`] for a zombie, for an architecture other than x86-64 and for a 32-bit task; any error of
/// reading images; [`ImageError::Io`].
pub fn write_core(explorer: &Explorer<'_>, pid: u32, path: &Path) -> Result<CoreReport> {
    let task = explorer.task(pid)?;
    let checkpoint = explorer.checkpoint();
    let invalid = |what: &str| ImageError::Invalid {
        path: checkpoint.path(crate::Kind::Core, Some(pid.into())),
        what: what.to_owned(),
    };
    let mm = explorer.mm(task)?.ok_or_else(|| invalid("a zombie has no memory"))?;
    let mut threads = vec![Thread { tid: pid, core: task.core.clone() }];
    for tid in task.entry.threads.iter().copied().filter(|tid| *tid != pid) {
        threads.push(Thread { tid, core: checkpoint.core(tid.into())? });
    }
    for thread in &threads {
        let info = thread.core.thread_info.as_ref();
        let info = info.ok_or_else(|| invalid("no registers of x86: core files are of x86-64 alone"))?;
        if info.gpregs.mode == Some(proto::UserX86RegsMode::Compat.into()) {
            return Err(invalid("a 32-bit task: core files are of x86-64 alone"));
        }
    }
    let arguments = explorer.arguments(task)?.unwrap_or_default();
    let facts = Facts { task, threads: &threads, mm: &mm, files: explorer.files(), arguments: &arguments };
    let mut stores = Stores::default();
    let segments = segments::segments(explorer, pid, &mm, &mut stores)?;
    let layout = Layout::new(&notes::notes(&facts), &segments, path)?;
    let file = File::create(path).map_err(ImageError::io(path, "create"))?;
    let mut out = Output { out: BufWriter::with_capacity(1 << 20, file), path };
    out.put(0, &layout.head)?;
    let mut pages = 0;
    for (segment, header) in segments.iter().zip(&layout.loads) {
        pages += copy(explorer, &mut stores, segment, header.offset, &mut out)?;
    }
    out.finish(layout.size)?;
    Ok(CoreReport { pid, threads: threads.len(), segments: segments.len(), pages })
}

/// Where everything lies.
struct Layout {
    /// Headers and notes.
    head: Vec<u8>,
    loads: Vec<ProgramHeader>,
    size: u64,
}

impl Layout {
    fn new(notes: &[u8], segments: &[Segment], path: &Path) -> Result<Self> {
        let too_large =
            || ImageError::Invalid { path: path.to_owned(), what: "it would be too large".into() };
        let notes_at = elf::headers_size(segments.len() as u64 + 1);
        let notes_size = notes.len() as u64;
        let note = ProgramHeader {
            kind: PT_NOTE,
            flags: 0,
            offset: notes_at,
            vaddr: 0,
            file_size: notes_size,
            memory_size: 0,
            align: 4,
        };
        let mut offset = (notes_at + notes_size).next_multiple_of(PAGE_SIZE);
        let mut headers = vec![note];
        for segment in segments {
            let size = segment.end - segment.start;
            let file_size = if segment.source.is_some() { size } else { 0 };
            headers.push(ProgramHeader {
                kind: PT_LOAD,
                flags: elf_flags(segment.prot),
                offset,
                vaddr: segment.start,
                file_size,
                memory_size: size,
                align: PAGE_SIZE,
            });
            offset = offset.checked_add(file_size).ok_or_else(too_large)?;
        }
        let mut head = elf::headers(&headers);
        head.extend(notes);
        headers.remove(0);
        Ok(Self { head, loads: headers, size: offset })
    }
}

/// `PF_R`, `PF_W` and `PF_X` are the other way round.
fn elf_flags(prot: u32) -> u32 {
    (prot & 1) << 2 | (prot & 2) | (prot & 4) >> 2
}

/// A file written front to back, with holes.
struct Output<'p> {
    out: BufWriter<File>,
    path: &'p Path,
}

impl Output<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let write = || ImageError::io(self.path, "write");
        if self.out.stream_position().map_err(write())? != at {
            self.out.seek(SeekFrom::Start(at)).map_err(write())?;
        }
        self.out.write_all(bytes).map_err(write())
    }

    /// A hole at the end counts as well.
    fn finish(self, size: u64) -> Result<()> {
        let write = || ImageError::io(self.path, "write");
        let file = self.out.into_inner().map_err(|error| write()(error.into_error()))?;
        file.set_len(size).map_err(write())
    }
}

/// Copies the pages of a segment, and says how many.
fn copy(
    explorer: &Explorer<'_>,
    stores: &mut Stores,
    segment: &Segment,
    offset: u64,
    out: &mut Output<'_>,
) -> Result<u64> {
    const CHUNK: u64 = 1 << 20;
    let Some((space, shift)) = segment.source else { return Ok(0) };
    let store = stores.get(explorer, space)?;
    let from = segment.start.wrapping_add(shift);
    let mut buf = Vec::new();
    let mut pages = 0;
    for run in store.runs_in(from, from.saturating_add(segment.end - segment.start)) {
        let mut at = run.vaddr;
        while at < run.end() {
            let size = (run.end() - at).min(CHUNK);
            buf.resize(usize::try_from(size).unwrap_or(0), 0);
            store.read_at(at, &mut buf)?;
            out.put(offset + (at - from), &buf)?;
            at += size;
        }
        pages += run.pages;
    }
    Ok(pages)
}
