//! Peers that make mistakes, lie or go away: nothing is kept of what they sent.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;

use proptest::prelude::*;
use rewake_images::{Kind, PAGE_SIZE, pe};
use rewake_memdump::{CaptureError, MemoryTarget};
use rewake_pageserver::{Object, PageServerError, ProtocolError, Request, Span};

use super::{PAGE, ends, names, pages, run, send, sender, with_server};

fn object(number: u64) -> Object {
    Object::new(Kind::Pagemap, number).unwrap()
}

fn open(number: u64) -> Request {
    Request::Open { object: object(number), answered: false }
}

fn add(number: u64, page: u64, pages: u32, flags: u32) -> Request {
    Request::Add { object: object(number), span: Span { vaddr: page * PAGE_SIZE, pages }, flags }
}

const CLOSE: Request = Request::Close { keeping_socket: false };

/// The bytes of these requests, with the pages that belong to them.
fn talk(requests: &[Request]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for request in requests {
        bytes.extend(request.encode());
        if let Request::Add { span, flags, .. } = request
            && flags & pe::PRESENT != 0
        {
            bytes.resize(bytes.len() + usize::try_from(span.bytes()).unwrap(), 7);
        }
    }
    bytes
}

/// What a server says to `bytes` and the end of the connection after them. Nothing may be left of it.
fn refused_with(bytes: &[u8], parent: Option<&Path>) -> PageServerError {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("there");
    let error = with_server(&to, parent, |mut stream| {
        // The server may be gone before it has read all.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    })
    .unwrap_err();
    assert_eq!(names(&to), [""; 0], "something is left");
    error
}

fn refused(requests: &[Request]) -> PageServerError {
    refused_with(&talk(requests), None)
}

#[test]
fn a_connection_that_ends_anywhere_but_at_the_end_brings_nothing() {
    let whole = talk(&[open(1), add(1, 5, 2, pe::PRESENT), add(1, 9, 1, pe::LAZY), open(2), CLOSE]);
    let cuts = (0..whole.len()).filter(|at| at % 24 < 3 || at % PAGE < 3 || at % 511 == 0);
    for at in cuts.chain([whole.len() - 1]) {
        let error = refused_with(&whole[..at], None);
        assert!(matches!(error, PageServerError::Truncated), "cut at {at}: {error}");
    }
}

#[test]
fn requests_in_the_wrong_order() {
    let protocol = |requests: &[Request]| match refused(requests) {
        PageServerError::Protocol(error) => error,
        error => panic!("{error}"),
    };
    let present = |page, pages| add(1, page, pages, pe::PRESENT);
    assert!(matches!(protocol(&[open(1), open(2), open(1)]), ProtocolError::Again { .. }));
    assert!(matches!(protocol(&[open(1), present(5, 2), present(6, 1), CLOSE]), ProtocolError::Order { .. }));
    assert!(matches!(protocol(&[open(1), present(5, 2), present(1, 1), CLOSE]), ProtocolError::Order { .. }));
    assert!(matches!(protocol(&[open(1), add(1, 5, 1, pe::PARENT)]), ProtocolError::NotInParent { .. }));
    let get = Request::Get { pid: 1, span: Span { vaddr: 0, pages: 1 } };
    assert!(matches!(protocol(&[get]), ProtocolError::Misplaced { .. }));
    // Without opening it, as long ago; but not a second time.
    let switching = [add(1, 5, 1, pe::PRESENT), add(2, 5, 1, pe::PRESENT), add(1, 6, 1, pe::PRESENT)];
    assert!(matches!(protocol(&switching), ProtocolError::Again { .. }));
}

#[test]
fn what_is_announced_takes_no_memory_and_no_disk() {
    // 16 TiB, of which 3 bytes come.
    let mut bytes = talk(&[open(1)]);
    bytes.extend(add(1, 0, u32::MAX, pe::PRESENT).encode());
    bytes.extend([1, 2, 3]);
    assert!(matches!(refused_with(&bytes, None), PageServerError::Truncated));
}

#[test]
fn a_parent_must_have_what_is_said_to_be_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    with_server(&first, None, |stream| {
        let sender = sender(stream);
        send(&sender, Kind::Pagemap, 1, (&[run(5, 4), run(10, 2)], &[]), 1, 1).unwrap();
        sender.close().unwrap();
    })
    .unwrap();
    for (page, pages) in [(4, 2), (8, 2), (9, 1), (5, 7), (0, u32::MAX)] {
        let error = refused_with(&talk(&[open(1), add(1, page, pages, pe::PARENT)]), Some(&first));
        assert!(matches!(error, PageServerError::Protocol(ProtocolError::NotInParent { .. })), "{error}");
    }
}

#[test]
fn what_is_there_already_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("there");
    let once = |generation| {
        with_server(&to, None, |stream| {
            let sender = sender(stream);
            let sent = send(&sender, Kind::Pagemap, 1, (&[run(5, 4)], &[]), generation, 1);
            let _ = sent.and_then(|()| sender.close());
        })
    };
    once(1).unwrap();
    let error = once(2).unwrap_err();
    assert!(matches!(&error, PageServerError::Exists { path } if path.ends_with("pagemap-1.img")), "{error}");
    assert_eq!(pages(&to, Kind::Pagemap, 1)[0], (5, 1));
    assert_eq!(names(&to), ["pagemap-1.img", "pages-65537.img"]);
}

#[test]
fn a_full_disk_is_told_to_both() {
    use nix::mount::{MsFlags, mount, umount};
    let dir = tempfile::tempdir().unwrap();
    let size = Some("size=64k");
    if mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), size).is_err() {
        return; // not as root
    }
    let to = dir.path().join("there");
    let error = with_server(&to, None, |stream| {
        let sender = sender(stream);
        let sent = send(&sender, Kind::Pagemap, 1, (&[run(0, 100)], &[]), 1, 1);
        let error = sent.and_then(|()| sender.close()).unwrap_err();
        assert!(matches!(error, CaptureError::Sink { .. }), "{error}");
    });
    let left = names(&to);
    umount(dir.path()).unwrap();
    assert!(matches!(error.unwrap_err(), PageServerError::Image(_)));
    assert_eq!(left, [""; 0]);
}

/// Servers that do not do what they should.
#[test]
fn a_server_that_goes_or_fails_is_an_error_of_the_capture() {
    // Gone at once; gone after so many bytes; saying that it failed.
    for read in [0_usize, 10, 24, 100, 5000] {
        let (ours, mut theirs) = ends();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (request, behind) = (read.min(24), read.saturating_sub(24));
                theirs.read_exact(&mut vec![0; request]).unwrap();
                if request == 24 {
                    theirs.write_all(&[0]).unwrap();
                }
                theirs.read_exact(&mut vec![0; behind]).unwrap();
            });
            let sender = sender(ours);
            let sent = send(&sender, Kind::Pagemap, 1, (&[run(0, 5000)], &[]), 1, 2);
            assert!(matches!(sent.unwrap_err(), CaptureError::Sink { .. }));
        });
    }
    let (ours, mut theirs) = ends();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            theirs.read_exact(&mut [0; 24]).unwrap();
            theirs.write_all(&5_i32.to_le_bytes()).unwrap();
        });
        let CaptureError::Sink { source } = sender(ours).close().unwrap_err() else { panic!() };
        let error = source.downcast_ref::<PageServerError>().unwrap();
        assert!(matches!(error, PageServerError::Failed { status: 5 }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever comes, it is refused or it makes a checkpoint that can be read.
    #[test]
    fn garbage_is_refused_or_sound(
        requests in proptest::collection::vec((0_u8..10, 0_u64..3, 0_u64..12, 0_u32..4, 0_u16..9), 0..20),
        noise in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut bytes = Vec::new();
        for (command, number, page, pages, flags) in requests {
            let mut header = [0; 24];
            header[0] = command;
            header[2] = u8::try_from(flags).unwrap();
            header[4..8].copy_from_slice(&pages.to_le_bytes());
            header[8..16].copy_from_slice(&(page * PAGE_SIZE).to_le_bytes());
            header[16] = 1;
            header[17..24].copy_from_slice(&number.to_le_bytes()[..7]);
            bytes.extend(header);
            if matches!(command, 1 | 6) && flags & 4 != 0 || command == 1 {
                bytes.resize(bytes.len() + usize::try_from(pages).unwrap() * PAGE, 1);
            }
        }
        bytes.extend(&noise);
        bytes.extend(CLOSE.encode());
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("there");
        let served = with_server(&to, None, |mut stream| {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        match served {
            Err(_) => prop_assert!(names(&to).is_empty()),
            Ok(_) => for number in 0..3 {
                if to.join(format!("pagemap-{number}.img")).exists() {
                    rewake_images::PageStore::open(&to, Kind::Pagemap, number).unwrap();
                }
            }
        }
    }
}
