//! Descriptors, open files, and what those refer to.

use std::collections::BTreeSet;

use super::finding::{Problem, Report};
use super::tree::Task;
use crate::kind::{KINDS, Kind};
use crate::proto::{FdTypes, RemapType};
use crate::{Checkpoint, proto};

/// Every open file.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Id and type: only together are they of one file, for a device file and what was opened through it share an id.
    known: BTreeSet<(u32, i32)>,
    /// Images of older dumpers have a file for each type; their ids are not known here.
    unknown: bool,
    entries: Vec<proto::FileEntry>,
}

impl Files {
    pub(super) fn load(checkpoint: &Checkpoint, report: &mut Report) -> Self {
        let Ok(entries) = checkpoint.read_all::<proto::FileEntry>(Kind::Files, None) else {
            return Self { unknown: true, ..Self::default() };
        };
        let legacy = |kind: Kind| {
            let row = kind.info();
            row.legacy && row.magic_name.ends_with("_FILES") && checkpoint.exists(kind, None)
        };
        let unknown = KINDS.iter().any(|row| legacy(row.kind));
        let image = Kind::Files.file_name(None);
        let mut known = BTreeSet::new();
        for (index, file) in (0..).zip(&entries) {
            if !known.insert((file.id, file.r#type)) {
                report.add(&image, Some(index), Problem::Duplicate { what: format!("file {}", file.id) });
            }
            let inner = inner(file);
            match inner.as_slice() {
                [(ty, _)] if i32::from(*ty) != file.r#type => {
                    report.contradiction(
                        &image,
                        index,
                        format!("file {} is of another type than it says", file.id),
                    );
                }
                [(_, id)] if *id != file.id => {
                    report.contradiction(&image, index, format!("file {} calls itself {id} inside", file.id));
                }
                [_] => {}
                several => {
                    let what = format!("file {} is {} things, and should be one", file.id, several.len());
                    report.contradiction(&image, index, what);
                }
            }
        }
        Self { known, unknown, entries }
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.unknown || self.known.range((id, i32::MIN)..=(id, i32::MAX)).next().is_some()
    }
}

/// The submessages there are: type and id.
fn inner(file: &proto::FileEntry) -> Vec<(FdType, u32)> {
    let mut all = Vec::new();
    macro_rules! collect {
        ($($field:ident $ty:ident),*) => {
            $(all.extend(file.$field.as_ref().map(|inner| (FdType(FdTypes::$ty), inner.id)));)*
        };
    }
    collect!(
        reg Reg, isk Inetsk, nsf Ns, psk Packetsk, nlsk Netlinksk, efd Eventfd, epfd Eventpoll, sgfd Signalfd,
        tunf Tunf, tfd Timerfd, ify Inotify, ffy Fanotify, ext Ext, usk Unixsk, fifo Fifo, pipe Pipe, tty Tty,
        memfd Memfd, bpf Bpfmap, pidfd Pidfd
    );
    all
}

#[derive(Debug, Clone, Copy)]
struct FdType(FdTypes);

impl From<FdType> for i32 {
    fn from(ty: FdType) -> Self {
        Self::from(ty.0)
    }
}

pub(super) fn check(checkpoint: &Checkpoint, tasks: &[Task], files: &Files, report: &mut Report) {
    let mut tables = BTreeSet::new();
    for task in tasks.iter().filter(|task| !task.dead) {
        if let Some(id) = task.ids.as_ref().map(|ids| ids.files_id).filter(|id| tables.insert(*id)) {
            table(checkpoint, id.into(), files, report);
        }
        if let Ok(Some(fs)) = checkpoint.read_opt::<proto::FsEntry>(Kind::Fs, Some(task.pid)) {
            for (field, id) in [("cwd_id", fs.cwd_id), ("root_id", fs.root_id)] {
                if !files.has(id) {
                    report.dangling(Kind::Fs.file_name(Some(task.pid)), 0, field, format!("file {id}"));
                }
            }
        }
        if let Some(mm) = task.mm.as_ref().filter(|mm| !files.has(mm.exe_file_id)) {
            let wanted = format!("file {}", mm.exe_file_id);
            report.dangling(Kind::Mm.file_name(Some(task.pid)), 0, "exe_file_id", wanted);
        }
    }
    remaps(checkpoint, files, report);
    queues(checkpoint, files, report);
    objects(checkpoint, files, report);
    locks(checkpoint, tasks, report);
}

fn table(checkpoint: &Checkpoint, id: u64, files: &Files, report: &mut Report) {
    let Ok(entries) = checkpoint.read_all::<proto::FdinfoEntry>(Kind::Fdinfo, Some(id)) else { return };
    let image = Kind::Fdinfo.file_name(Some(id));
    let mut seen = BTreeSet::new();
    for (index, entry) in (0..).zip(entries) {
        if !seen.insert(entry.fd) {
            report.add(&image, Some(index), Problem::Duplicate { what: format!("descriptor {}", entry.fd) });
        }
        if !files.has(entry.id) {
            report.dangling(&image, index, "id", format!("file {}", entry.id));
        } else if !files.unknown && !files.known.contains(&(entry.id, entry.r#type)) {
            let what = format!("descriptor {} and its file {} differ in type", entry.fd, entry.id);
            report.contradiction(&image, index, what);
        }
    }
}

fn remaps(checkpoint: &Checkpoint, files: &Files, report: &mut Report) {
    /// In old images without a type: the remap is a ghost.
    const GHOST: u32 = 1 << 31;
    let Ok(remaps) = checkpoint.read_all::<proto::RemapFilePathEntry>(Kind::RemapFpath, None) else { return };
    let image = Kind::RemapFpath.file_name(None);
    for (index, remap) in (0..).zip(remaps) {
        if !files.has(remap.orig_id) {
            report.dangling(&image, index, "orig_id", format!("file {}", remap.orig_id));
        }
        let (ty, id) = match remap.remap_type {
            None if remap.remap_id & GHOST != 0 => (Ok(RemapType::Ghost), remap.remap_id & !GHOST),
            None => (Ok(RemapType::Linked), remap.remap_id),
            Some(ty) => (RemapType::try_from(ty), remap.remap_id),
        };
        match ty {
            Ok(RemapType::Ghost) if !checkpoint.exists(Kind::GhostFile, Some(id.into())) => {
                report.dangling(&image, index, "remap_id", Kind::GhostFile.file_name(Some(id.into())));
            }
            Ok(RemapType::Linked) if !files.has(id) => {
                report.dangling(&image, index, "remap_id", format!("file {id}"));
            }
            _ => {}
        }
    }
}

/// What was queued, and in what.
fn queues(checkpoint: &Checkpoint, files: &Files, report: &mut Report) {
    let of_files = |select: fn(&proto::FileEntry) -> Option<u32>| -> BTreeSet<u32> {
        files.entries.iter().filter_map(select).collect()
    };
    let pipes = of_files(|file| file.pipe.as_ref().map(|pipe| pipe.pipe_id));
    let fifos = of_files(|file| file.fifo.as_ref().map(|fifo| fifo.pipe_id));
    for (kind, known) in [(Kind::PipesData, pipes), (Kind::FifoData, fifos)] {
        let Ok(data) = checkpoint.read_all::<proto::PipeDataEntry>(kind, None) else { continue };
        for (index, entry) in (0..).zip(data) {
            if !files.unknown && !known.contains(&entry.pipe_id) {
                report.dangling(kind.file_name(None), index, "pipe_id", format!("pipe {}", entry.pipe_id));
            }
        }
    }
    let image = Kind::SkQueues.file_name(None);
    let packets = checkpoint.read_all::<proto::SkPacketEntry>(Kind::SkQueues, None).unwrap_or_default();
    for (index, packet) in (0..).zip(packets) {
        if !files.has(packet.id_for) {
            report.dangling(&image, index, "id_for", format!("file {}", packet.id_for));
        }
        for id in packet.scm.iter().flat_map(|scm| &scm.rights).filter(|id| !files.has(**id)) {
            report.dangling(&image, index, "scm.rights", format!("file {id}"));
        }
    }
}

/// Images that hold more of a file.
fn objects(checkpoint: &Checkpoint, files: &Files, report: &mut Report) {
    const TCP: u32 = 6;
    const CLOSE: u32 = 7;
    const LISTEN: u32 = 10;
    let infos = checkpoint.read_all::<proto::TtyInfoEntry>(Kind::TtyInfo, None).unwrap_or_default();
    let terminals: BTreeSet<u32> = infos.iter().map(|info| info.id).collect();
    let inodes = checkpoint.read_all::<proto::MemfdInodeEntry>(Kind::Memfd, None).unwrap_or_default();
    let memfds: BTreeSet<u64> = inodes.iter().map(|inode| inode.inode_id).collect();
    let image = Kind::Files.file_name(None);
    for (index, file) in (0..).zip(&files.entries) {
        if let Some(tty) = file.tty.as_ref().filter(|tty| !terminals.contains(&tty.tty_info_id)) {
            report.dangling(&image, index, "tty.tty_info_id", format!("terminal {}", tty.tty_info_id));
        }
        if let Some(memfd) = file.memfd.as_ref().filter(|memfd| !memfds.contains(&memfd.inode_id.into())) {
            report.dangling(&image, index, "memfd.inode_id", format!("memfd {}", memfd.inode_id));
        }
        for id in [file.fifo.as_ref().and_then(|f| f.regf_id), file.tty.as_ref().and_then(|t| t.regf_id)] {
            if let Some(id) = id.filter(|id| !files.has(*id)) {
                report.dangling(&image, index, "regf_id", format!("file {id}"));
            }
        }
        let connected = |socket: &&proto::InetSkEntry| {
            socket.proto == TCP && !matches!(socket.state, CLOSE | LISTEN) && socket.dst_port != 0
        };
        if let Some(socket) = file.isk.as_deref().filter(connected) {
            let closed = checkpoint.inventory().tcp_close();
            if !closed && !checkpoint.exists(Kind::TcpStream, Some(socket.ino.into())) {
                report.missing(Kind::TcpStream, Some(socket.ino.into()));
            }
        }
    }
    for (index, inode) in (0..).zip(&inodes) {
        if !checkpoint.exists(Kind::PagemapShmem, Some(inode.shmid.into())) {
            let wanted = Kind::PagemapShmem.file_name(Some(inode.shmid.into()));
            report.dangling(Kind::Memfd.file_name(None), index, "shmid", wanted);
        }
    }
    let queued = checkpoint.read_all::<proto::TtyDataEntry>(Kind::TtyData, None).unwrap_or_default();
    for (index, data) in (0..).zip(queued) {
        if !terminals.contains(&data.tty_id) {
            let wanted = format!("terminal {}", data.tty_id);
            report.dangling(Kind::TtyData.file_name(None), index, "tty_id", wanted);
        }
    }
}

fn locks(checkpoint: &Checkpoint, tasks: &[Task], report: &mut Report) {
    let locks = checkpoint.read_all::<proto::FileLockEntry>(Kind::Filelocks, None).unwrap_or_default();
    for (index, lock) in (0..).zip(locks) {
        if !tasks.iter().any(|task| i64::try_from(task.pid) == Ok(lock.pid.into())) {
            report.dangling(Kind::Filelocks.file_name(None), index, "pid", format!("task {}", lock.pid));
        }
    }
}
