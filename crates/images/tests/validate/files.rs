//! Damage to descriptors and files.

use rewake_images::edit::ImageEditor;
use rewake_images::validate::Problem;
use rewake_images::{ImageWriter, Kind, Layout, proto};

use super::{Damaged, testdata};

fn write<M: prost::Message>(damaged: &Damaged, kind: Kind, entry: &M, payload: &[u8]) {
    let mut image = ImageWriter::create(kind, Layout::V11, damaged.path(kind, None)).unwrap();
    image.push_with(entry, payload).unwrap();
    image.finish().unwrap();
}

#[test]
fn descriptors_without_files() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Fdinfo, 2, 0, |fd: &mut proto::FdinfoEntry| fd.id = 999);
    let problem = damaged.finds("fdinfo-2.img", "file 999");
    assert_eq!(problem, Problem::Dangling { field: "id", wanted: "file 999".into() });

    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Fdinfo, 2, 0, |fd: &mut proto::FdinfoEntry| fd.r#type = 10);
    damaged.finds("fdinfo-2.img", "differ in type");

    let damaged = Damaged::new("pipe00-h");
    let path = damaged.path(Kind::Fdinfo, 2);
    let mut image = ImageEditor::open(Kind::Fdinfo, path).unwrap();
    let mut fd = 0;
    image.edit(1, |entry: &mut proto::FdinfoEntry| fd = entry.fd).unwrap();
    image.edit(0, |entry: &mut proto::FdinfoEntry| entry.fd = fd).unwrap();
    image.save().unwrap();
    damaged.finds("fdinfo-2.img", "is there twice");
}

#[test]
fn files_that_contradict_themselves() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Files, None, 1, |file: &mut proto::FileEntry| file.id = 1);
    damaged.finds("files.img", "file 1 is there twice");
    damaged.finds("files.img", "calls itself");
    // Whatever had it open finds it no more.
    damaged.finds("mm-66.img", "which is nowhere");

    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Files, None, 0, |file: &mut proto::FileEntry| file.r#type = 5);
    damaged.finds("files.img", "another type");
    damaged.edit(Kind::Files, None, 0, |file: &mut proto::FileEntry| file.reg = None);
    damaged.finds("files.img", "is 0 things");
}

#[test]
fn tasks_without_their_files() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Fs, 66, 0, |fs: &mut proto::FsEntry| (fs.cwd_id, fs.root_id) = (901, 902));
    damaged.finds("fs-66.img", "cwd_id refers to file 901");
    damaged.finds("fs-66.img", "root_id refers to file 902");
    damaged.edit(Kind::Mm, 66, 0, |mm: &mut proto::MmEntry| mm.exe_file_id = 903);
    damaged.finds("mm-66.img", "exe_file_id refers to file 903");
}

#[test]
fn remaps_that_lead_nowhere() {
    let remap = |orig_id, remap_id, ty: proto::RemapType| proto::RemapFilePathEntry {
        orig_id,
        remap_id,
        remap_type: Some(ty.into()),
    };
    for (entry, text) in [
        (remap(1, 0xab, proto::RemapType::Ghost), "ghost-file-ab.img"),
        (remap(1, 77, proto::RemapType::Linked), "remap_id refers to file 77"),
        (remap(99, 1, proto::RemapType::Linked), "orig_id refers to file 99"),
        (
            proto::RemapFilePathEntry { remap_type: None, ..remap(1, 1 << 31 | 5, proto::RemapType::Ghost) },
            "ghost-file-5.img",
        ),
    ] {
        let damaged = Damaged::new("pipe00-h");
        write(&damaged, Kind::RemapFpath, &entry, &[]);
        damaged.finds("remap-fpath.img", text);
    }
}

#[test]
fn queues_of_nobody() {
    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::PipesData, None, 0, |data: &mut proto::PipeDataEntry| data.pipe_id = 999);
    damaged.finds("pipes-data.img", "pipe 999");
    write(&damaged, Kind::FifoData, &proto::PipeDataEntry { pipe_id: 3, bytes: 0, size: None }, &[]);
    damaged.finds("fifo-data.img", "pipe 3");
    let scm = vec![proto::ScmEntry { r#type: 1, rights: vec![998] }];
    write(
        &damaged,
        Kind::SkQueues,
        &proto::SkPacketEntry { id_for: 999, length: 1, scm, ..Default::default() },
        b"x",
    );
    damaged.finds("sk-queues.img", "id_for refers to file 999");
    damaged.finds("sk-queues.img", "scm.rights refers to file 998");
}

#[test]
fn memfds_terminals_and_sockets_without_their_other_half() {
    let damaged = Damaged::new("pipe00-h");
    damaged.remove(Kind::Memfd, None);
    damaged.finds("files.img", "memfd.inode_id refers to memfd");

    let damaged = Damaged::new("pipe00-h");
    damaged.edit(Kind::Memfd, None, 0, |inode: &mut proto::MemfdInodeEntry| inode.shmid = 5);
    damaged.finds("memfd.img", "pagemap-shmem-5.img");

    let damaged = Damaged::new("pipe00-h");
    std::fs::copy(testdata("kinds/pty00-h/files.img"), damaged.path(Kind::Files, None)).unwrap();
    std::fs::copy(testdata("kinds/pty00-h/tty-data.img"), damaged.path(Kind::TtyData, None)).unwrap();
    damaged.finds("files.img", "tty.tty_info_id refers to terminal");
    damaged.finds("tty-data.img", "tty_id refers to terminal");

    let damaged = Damaged::new("pipe00-h");
    std::fs::copy(testdata("kinds/socket_udp-h/files.img"), damaged.path(Kind::Files, None)).unwrap();
    damaged.edit_first(Kind::Files, |file: &mut proto::FileEntry| {
        let Some(socket) = &mut file.isk else { return false };
        (socket.proto, socket.state, socket.dst_port, socket.ino) = (6, 1, 80, 0xbeef);
        true
    });
    assert_eq!(damaged.finds("tcp-stream-beef.img", ""), Problem::MissingImage);
}

#[test]
fn locks_of_nobody() {
    let damaged = Damaged::new("pipe00-h");
    write(&damaged, Kind::Filelocks, &proto::FileLockEntry { pid: 5, ..Default::default() }, &[]);
    damaged.finds("filelocks.img", "pid refers to task 5");
}
