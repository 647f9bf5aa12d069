//! The entries of large images, printed by several threads: one reads them in batches, and writes what the others print.

use std::io::Read;
use std::path::Path;

use super::print::Printer;
use super::print_payload::malformed;
use super::render;
use super::ring::Ring;
use super::schema::{Message, Schema};
use crate::error::Result;
use crate::framing::batch::Batch;
use crate::framing::{Entry, ImageReader};

/// Bytes of entries that a thread gets at once.
const BATCH: u64 = if cfg!(fuzzing) { 32 } else { 64 << 10 };

#[derive(Debug, Default)]
struct Job {
    entries: Batch,
    json: Vec<u8>,
}

/// Prints all entries that are left, each a `message` that nothing follows, as elements of a list behind others; `write` gets what
/// was printed.
pub(super) fn put_entries<R: Read>(
    image: &mut ImageReader<R>,
    message: &Message,
    pretty: bool,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let path = image.path().to_owned();
    let path = path.as_path();
    let mut batches = image.in_batches();
    std::thread::scope(|scope| {
        let work = || {
            let mut out = Printer::inside_list(pretty);
            move |mut job: Job| {
                std::mem::swap(&mut job.json, &mut out.buf);
                out.buf.clear();
                let printed = print(path, &job.entries, message, &mut out);
                std::mem::swap(&mut job.json, &mut out.buf);
                printed.map(|()| job)
            }
        };
        let Some(mut ring) = Ring::start(scope, work) else {
            let (mut work, mut job) = (work(), Job::default());
            while batches.next(&mut job.entries, BATCH)? {
                job = work(job)?;
                write(&job.json)?;
            }
            return Ok(());
        };
        let mut spare: Vec<Job> = Vec::new();
        let mut more = Ok(true);
        loop {
            if matches!(more, Ok(true)) && !ring.is_full() {
                let mut job = spare.pop().unwrap_or_default();
                more = batches.next(&mut job.entries, BATCH);
                if matches!(more, Ok(true)) {
                    ring.give(job);
                }
                continue;
            }
            let Some(job) = ring.take() else { return more.map(drop) };
            let job = job?;
            write(&job.json)?;
            spare.push(job);
        }
    })
}

fn print(path: &Path, entries: &Batch, message: &Message, out: &mut Printer) -> Result<()> {
    let schema = Schema::get();
    for (index, offset, bytes) in entries.entries() {
        out.element();
        out.open(b'{');
        render::fields(schema, message, bytes, out).map_err(|error| {
            let entry = Entry { index, offset, ..Entry::default() };
            malformed(path, &entry, &message.name, error.0)
        })?;
        out.close(b'}');
    }
    Ok(())
}
