//! Pages that are asked for.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use rewake_images::{Kind, PAGE_SIZE};
use rewake_memdump::{MemorySource, MemoryTarget};
use rewake_pageserver::{Fetcher, Lender, PageServerError, Plain, ProtocolError, Request, Span};

use super::{PAGE, content, ends, run, send, sender, with_server};

/// Has `work` ask a server that lends the pages 5..3005 and 4000 of task 7.
fn with_lender(work: impl FnOnce(Fetcher)) -> Result<u64, PageServerError> {
    let dir = tempfile::tempdir().unwrap();
    with_server(dir.path(), None, |stream| {
        let sender = sender(stream);
        send(&sender, Kind::Pagemap, 7, (&[run(5, 3000), run(4000, 1)], &[]), 1, 1).unwrap();
        sender.close().unwrap();
    })
    .unwrap();
    let (ours, theirs) = ends();
    let mut lender = Lender::new(dir.path());
    std::thread::scope(|scope| {
        let server =
            scope.spawn(|| lender.serve(&mut Plain::new(theirs).unwrap()).map(|()| lender.report().pages));
        work(Fetcher::new(Box::new(Plain::new(ours).unwrap())));
        server.join().unwrap()
    })
}

#[test]
fn pages_that_are_asked_for_come() {
    let lent = with_lender(|fetcher| {
        let mut got = BTreeMap::new();
        for (page, pages) in [(5, 3000), (4000, 1)] {
            let fetched = fetcher.fetch(7, page * PAGE_SIZE, pages, &mut |vaddr, bytes| {
                for (n, bytes) in (0..).zip(bytes.chunks(PAGE)) {
                    assert!(bytes == content(vaddr / PAGE_SIZE + n, 1));
                    assert!(got.insert(vaddr / PAGE_SIZE + n, ()).is_none());
                }
                Ok(())
            });
            fetched.unwrap();
        }
        assert!(got.into_keys().eq((5..3005).chain([4000])));
        fetcher.close().unwrap();
    });
    assert_eq!(lent.unwrap(), 3001);
}

#[test]
fn pages_that_are_not_there_are_told() {
    for (pid, page, pages) in [(7, 3000, 20), (7, 0, 1), (8, 5, 1), (7, 3, 10)] {
        // Requests may be under way when the one who asked gives up.
        let _ = with_lender(|fetcher| {
            let error = fetcher.fetch(pid, page * PAGE_SIZE, pages, &mut |_, _| Ok(())).unwrap_err();
            assert!(matches!(said(error), PageServerError::NoPages { .. }));
        });
    }
}

/// What a fetcher says of a server that answers with these bytes.
fn answered(bytes: &[u8]) -> PageServerError {
    let (ours, mut theirs) = ends();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            theirs.read_exact(&mut [0; 24]).unwrap();
            theirs.write_all(bytes).unwrap();
        });
        let fetcher = Fetcher::new(Box::new(Plain::new(ours).unwrap()));
        said(fetcher.fetch(7, PAGE_SIZE, 2, &mut |_, _| Ok(())).unwrap_err())
    })
}

fn said(error: rewake_memdump::SourceError) -> PageServerError {
    *error.downcast().unwrap()
}

#[test]
fn answers_to_other_questions_are_refused() {
    let about = |command: u8, pid: u64, page: u64, pages: u32| {
        let mut bytes = Request::Get { pid, span: Span { vaddr: page * PAGE_SIZE, pages } }.encode();
        bytes[0] = command;
        bytes
    };
    for answer in [about(6, 8, 1, 2), about(6, 7, 2, 2), about(6, 7, 1, 3), about(6, 7, 1, u32::MAX)] {
        let error = answered(&answer);
        assert!(matches!(error, PageServerError::Protocol(ProtocolError::Answer { .. })), "{error}");
    }
    assert!(matches!(answered(&about(3, 7, 1, 2)), PageServerError::Protocol(ProtocolError::Command { .. })));
    assert!(matches!(answered(&about(6, 7, 1, 2)), PageServerError::Truncated));
    assert!(matches!(answered(&about(6, 7, 1, 0)), PageServerError::NoPages { .. }));
    assert!(matches!(answered(&[]), PageServerError::NoPages { .. }));
}
