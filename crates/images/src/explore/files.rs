//! The table of open files.

use std::collections::HashMap;

use super::mems::status;
use super::names;
use crate::Checkpoint;
use crate::error::Result;
use crate::json::quoted_printable;
use crate::kind::Kind;
use crate::proto::{self, FdTypes};

/// Open files by id.
#[derive(Debug, Clone, Default)]
pub struct FileTable {
    files: HashMap<u32, proto::FileEntry>,
    /// Shared objects of memfds, by inode id.
    memfds: HashMap<u32, u64>,
}

impl FileTable {
    /// Reads `files.img`, or the image per kind of file that old dumps have in its place.
    ///
    /// # Errors
    /// Any error of reading.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        let mut table = Self::default();
        for file in checkpoint.read_all::<proto::FileEntry>(Kind::Files, None)? {
            table.files.insert(file.id, file);
        }
        for memfd in checkpoint.read_all::<proto::MemfdInodeEntry>(Kind::Memfd, None)? {
            if let Ok(inode) = u32::try_from(memfd.inode_id) {
                table.memfds.insert(inode, memfd.shmid.into());
            }
        }
        for reg in checkpoint.read_all::<proto::RegFileEntry>(Kind::RegFiles, None)? {
            table.add(reg.id, FdTypes::Reg, |file| file.reg = Some(reg));
        }
        for pipe in checkpoint.read_all::<proto::PipeEntry>(Kind::Pipes, None)? {
            table.add(pipe.id, FdTypes::Pipe, |file| file.pipe = Some(pipe.into()));
        }
        for socket in checkpoint.read_all::<proto::UnixSkEntry>(Kind::Unixsk, None)? {
            table.add(socket.id, FdTypes::Unixsk, |file| file.usk = Some(socket.into()));
        }
        for socket in checkpoint.read_all::<proto::InetSkEntry>(Kind::Inetsk, None)? {
            table.add(socket.id, FdTypes::Inetsk, |file| file.isk = Some(socket.into()));
        }
        for socket in checkpoint.read_all::<proto::PacketSockEntry>(Kind::Packetsk, None)? {
            table.add(socket.id, FdTypes::Packetsk, |file| file.psk = Some(socket.into()));
        }
        for socket in checkpoint.read_all::<proto::NetlinkSkEntry>(Kind::Netlinksk, None)? {
            table.add(socket.id, FdTypes::Netlinksk, |file| file.nlsk = Some(socket.into()));
        }
        Ok(table)
    }

    fn add(&mut self, id: u32, kind: FdTypes, set: impl FnOnce(&mut proto::FileEntry)) {
        let empty = || proto::FileEntry { id, r#type: kind.into(), ..Default::default() };
        set(self.files.entry(id).or_insert_with(empty));
    }

    /// The file of an id.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&proto::FileEntry> {
        self.files.get(&id)
    }

    /// Path of a regular file, directory or device.
    #[must_use]
    pub fn path(&self, id: u32) -> Option<&str> {
        self.get(id)?.reg.as_ref().map(|reg| reg.name.as_str())
    }

    /// The shared object whose pages a mapping shows, if the images hold it: number of its pagemap.
    #[must_use]
    pub fn shared_object(&self, vma: &proto::VmaEntry) -> Option<u64> {
        if vma.status & (status::ANON_SHARED | status::SYSVIPC) != 0 {
            return Some(vma.shmid);
        }
        let memfd = vma.status & status::FILE_SHARED != 0 && vma.status & status::MEMFD != 0;
        let file = self.get(u32::try_from(vma.shmid).ok().filter(|_| memfd)?)?;
        self.memfds.get(&file.memfd.as_ref()?.inode_id).copied()
    }

    /// Number of open files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether nothing is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A file in few words, as crit shows it: a path, `pipe[ID]`, `unix[INO (PEER) NAME]`, or kind and id.
    pub(super) fn describe(&self, kind: i32, id: u32) -> String {
        let file = self.get(id);
        match FdTypes::try_from(kind) {
            Ok(FdTypes::Reg) => self.path(id).unwrap_or("unknown path").to_owned(),
            Ok(FdTypes::Pipe) => match file.and_then(|f| f.pipe.as_ref()) {
                Some(pipe) => format!("pipe[{}]", pipe.pipe_id),
                None => "pipe[?]".to_owned(),
            },
            Ok(FdTypes::Unixsk) => match file.and_then(|f| f.usk.as_ref()) {
                Some(sk) if sk.name.is_empty() => format!("unix[{} ({})]", sk.ino, sk.peer),
                Some(sk) => {
                    let name = quoted_printable(&sk.name);
                    format!("unix[{} ({}) {}]", sk.ino, sk.peer, String::from_utf8_lossy(&name))
                }
                None => "unix[?]".to_owned(),
            },
            _ => format!("{}.{id}", names::file_type(kind)),
        }
    }
}
