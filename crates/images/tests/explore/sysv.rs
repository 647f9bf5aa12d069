//! System V objects, and segments whose contents lie beside their entries.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use rewake_images::coredump::write_core;
use rewake_images::edit::ImageEditor;
use rewake_images::explore::{Details, Explorer, IpcKind, Pattern, Space, inspect, status};
use rewake_images::{Checkpoint, ImageWriter, Kind, Layout, PAGE_SIZE, proto};

const SECRET: &[u8] = b"in a segment";

/// The checkpoint of two tasks, the first of which maps a segment of 5000 bytes.
fn with_segment(dir: &Path) -> Checkpoint {
    for entry in fs::read_dir(crate::testdata().join("pipe00-h")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let desc = proto::IpcDescEntry { key: 0x1234, uid: 7, mode: 0o640, id: 98, ..Default::default() };
    let mut contents = vec![0; 5000];
    contents[4990 - SECRET.len()..4990].copy_from_slice(SECRET);
    let path = dir.join(Kind::IpcnsShm.file_name(Some(3)));
    let mut image = ImageWriter::create(Kind::IpcnsShm, Layout::V11, path).unwrap();
    image.push_with(&proto::IpcShmEntry { desc, size: 5000, ..Default::default() }, &contents).unwrap();
    image.finish().unwrap();
    let desc = proto::IpcDescEntry { id: 5, ..desc };
    let path = dir.join(Kind::IpcnsSem.file_name(Some(3)));
    let mut image = ImageWriter::create(Kind::IpcnsSem, Layout::V11, path).unwrap();
    image.push_with(&proto::IpcSemEntry { desc, nsems: 2 }, &[0; 8]).unwrap();
    image.finish().unwrap();
    let mut mm = ImageEditor::open(Kind::Mm, dir.join("mm-66.img")).unwrap();
    mm.edit(0, |mm: &mut proto::MmEntry| {
        let (start, end) = (0x1000_0000, 0x1000_0000 + 2 * PAGE_SIZE);
        let status = status::SYSVIPC | status::REGULAR;
        mm.vmas.insert(
            0,
            proto::VmaEntry {
                start,
                end,
                shmid: 98,
                prot: 3,
                flags: 1,
                status,
                fd: -1,
                ..Default::default()
            },
        );
    })
    .unwrap();
    mm.save().unwrap();
    Checkpoint::open(dir).unwrap()
}

#[test]
fn segments_are_listed_searched_and_part_of_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = with_segment(dir.path());
    let found = inspect(&checkpoint, Details::default()).unwrap().system_v;
    assert_eq!(found.len(), 2);
    assert!(
        found
            .iter()
            .any(|o| o.kind == IpcKind::Segment { size: 5000 } && (o.id, o.key, o.uid) == (98, 0x1234, 7))
    );
    assert!(found.iter().any(|o| o.kind == IpcKind::Semaphores { count: 2 }));

    let explorer = Explorer::new(&checkpoint).unwrap();
    let mut hits = Vec::new();
    for space in explorer.spaces().unwrap() {
        let flow = explorer.search(space, &Pattern::bytes(SECRET), 0, |hit| {
            hits.push((hit.space, hit.address));
            ControlFlow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
    }
    assert_eq!(hits, [(Space::Shmid(98), 4990 - SECRET.len() as u64)]);

    let core = dir.path().join("core");
    write_core(&explorer, 66, &core).unwrap();
    let core = fs::read(core).unwrap();
    assert!(core.windows(SECRET.len()).any(|window| window == SECRET));
}

#[test]
fn descriptors_are_told_if_asked_for() {
    let found = inspect(&crate::open("pipe00-h"), Details { files: true, ..Details::default() }).unwrap();
    let files = found.processes[0].files.as_ref().unwrap();
    assert_eq!(files.len(), found.processes[0].descriptors);
    assert!(files.iter().any(|file| file.fd == 0 && file.what == "/dev/null"), "{files:?}");
    assert!(files.iter().any(|file| file.what.starts_with("pipe[")), "{files:?}");
}
