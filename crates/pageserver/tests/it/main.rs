//! Both sides of the protocol, talking to each other and to peers that cannot be trusted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod bad;
mod lend;
mod roundtrip;
#[cfg(feature = "tls")]
mod tls;

use std::fs;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::Pid;
use rewake_images::{Kind, PAGE_SIZE, PageStore};
use rewake_memdump::{
    CaptureError, CaptureOptions, MemoryTarget, PageCategories, PagePlan, PageRun, Recorded, capture_from,
};
use rewake_pageserver::{Incoming, PageServerError, Plain, Sender, receive};

const PAGE: usize = 4096;

/// The two ends of a connection.
fn ends() -> (TcpStream, TcpStream) {
    let (one, other) = UnixStream::pair().unwrap();
    (OwnedFd::from(one).into(), OwnedFd::from(other).into())
}

fn run(page: u64, pages: u64) -> PageRun {
    PageRun { start: page * PAGE_SIZE, pages, categories: PageCategories::empty() }
}

/// What the test has at page `page`.
fn content(page: u64, generation: u8) -> [u8; PAGE] {
    let mut bytes = [generation; PAGE];
    bytes[..8].copy_from_slice(&page.to_le_bytes());
    bytes
}

/// Sends the pages of `runs`, and says that those of `in_parent` are in the parent.
fn send(
    sender: &Sender,
    kind: Kind,
    number: u64,
    (runs, in_parent): (&[PageRun], &[PageRun]),
    generation: u8,
    threads: usize,
) -> Result<(), CaptureError> {
    let memory = runs.iter().flat_map(|run| (0..run.pages).map(|n| run.start / PAGE_SIZE + n));
    let memory =
        memory.fold(Recorded::new(), |memory, page| memory.with(page * PAGE_SIZE, content(page, generation)));
    let plan = PagePlan::new(runs.iter().copied());
    let options = CaptureOptions { threads, buffer_bytes: 3 * PAGE, ..Default::default() };
    let sink = sender.open(kind, number, in_parent)?;
    capture_from(&memory, Pid::this(), &plan, &*sink, &options).map(drop)
}

/// Has `work` talk to a server that writes to `dir`; gives what the server says.
fn with_server(
    dir: &Path,
    parent: Option<&Path>,
    work: impl FnOnce(TcpStream),
) -> Result<Incoming, PageServerError> {
    serve(Incoming::create(dir, parent)?, work)
}

/// Has `work` talk to a server that keeps what comes in `incoming`.
fn serve(mut incoming: Incoming, work: impl FnOnce(TcpStream)) -> Result<Incoming, PageServerError> {
    let (ours, theirs) = ends();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let mut connection = Plain::new(theirs).unwrap();
            receive(&mut connection, &mut incoming).map(|()| incoming)
        });
        work(ours);
        server.join().unwrap()
    })
}

fn sender(stream: TcpStream) -> Sender {
    Sender::new(Box::new(Plain::new(stream).unwrap()))
}

/// Every page of an object, with the generation it is of.
fn pages(dir: &Path, kind: Kind, number: u64) -> Vec<(u64, u8)> {
    let store = PageStore::open(dir, kind, number).unwrap();
    let all = store.runs().iter().flat_map(|run| (0..run.pages).map(|n| run.vaddr / PAGE_SIZE + n));
    let with_generation = |page: u64| {
        let mut bytes = [0; PAGE];
        store.read_at(page * PAGE_SIZE, &mut bytes).unwrap();
        let generation = bytes[PAGE - 1];
        assert_eq!(bytes, content(page, generation));
        (page, generation)
    };
    all.map(with_generation).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
