//! Memory mappings.

use std::collections::HashMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::explorer::Explorer;
use super::files::FileTable;
use crate::error::Result;
use crate::proto::{self, FdTypes};

/// Bits of `vma_entry.status`.
pub mod status {
    /// Dumped and restored, not made by the kernel.
    pub const REGULAR: u32 = 1;
    /// Stack of the first thread.
    pub const STACK: u32 = 1 << 1;
    /// The page all processes have at the top of the address space.
    pub const VSYSCALL: u32 = 1 << 2;
    /// Code the kernel maps.
    pub const VDSO: u32 = 1 << 3;
    /// The program break.
    pub const HEAP: u32 = 1 << 5;
    /// Private mapping of a file.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// Shared mapping of a file.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared anonymous memory.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// Private anonymous memory.
    pub const ANON_PRIVATE: u32 = 1 << 9;
    /// System V segment.
    pub const SYSVIPC: u32 = 1 << 10;
    /// Ring of a packet socket.
    pub const SOCKET: u32 = 1 << 11;
    /// Data of the kernel's code.
    pub const VVAR: u32 = 1 << 12;
    /// Mapping of a memfd.
    pub const MEMFD: u32 = 1 << 14;
}

/// `MAP_GROWSDOWN`.
const GROWSDOWN: u32 = 0x100;

/// What a mapping shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Private anonymous memory.
    Anonymous,
    /// System V segment; the number tells apart shared objects within the checkpoint.
    SysvIpc(u64),
    /// Shared anonymous memory.
    SharedMemory(u64),
    /// Ring of a packet socket.
    PacketSocket(u64),
    /// A file.
    File {
        /// Its path.
        path: String,
        /// Where in the file the mapping starts.
        offset: u64,
        /// Whether stores go to the file.
        shared: bool,
    },
    /// Stack of the first thread.
    Stack,
    /// The page all processes have at the top of the address space.
    Vsyscall,
    /// Code the kernel maps.
    Vdso,
    /// Grows downwards, like a stack.
    GrowsDown,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => Ok(()),
            Self::SysvIpc(n) => write!(f, "ips[{n:x}]"),
            Self::SharedMemory(n) => write!(f, "shmem[{n:x}]"),
            Self::PacketSocket(n) => write!(f, "packet[{n:x}]"),
            Self::File { path, offset, shared } => {
                f.write_str(path)?;
                if *offset != 0 {
                    write!(f, " + {offset:#x}")?;
                }
                f.write_str(if *shared { " (s)" } else { "" })
            }
            Self::Stack => f.write_str("[stack]"),
            Self::Vsyscall => f.write_str("[vsyscall]"),
            Self::Vdso => f.write_str("[vdso]"),
            Self::GrowsDown => f.write_str("[stack?]"),
        }
    }
}

impl Serialize for Resource {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// Its first byte.
    #[serde(serialize_with = "hex")]
    pub start: u64,
    /// Behind its last byte.
    #[serde(serialize_with = "hex")]
    pub end: u64,
    /// `PROT_READ` 1, `PROT_WRITE` 2, `PROT_EXEC` 4.
    #[serde(rename = "protection", serialize_with = "protection")]
    pub prot: u32,
    /// What it shows.
    #[serde(skip_serializing_if = "is_anonymous")]
    pub resource: Resource,
    /// Whether a restore maps it; the kernel makes the others.
    #[serde(skip)]
    pub regular: bool,
}

/// The mappings of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskMappings {
    /// Process id.
    pub pid: u32,
    /// Path of its program; `None` for a zombie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// By address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<Mapping>,
}

/// The mappings of all tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MappingList(pub Vec<TaskMappings>);

pub(super) fn hex<S: Serializer>(value: &u64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:x}"))
}

fn protection<S: Serializer>(prot: &u32, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&Protection(*prot))
}

fn is_anonymous(resource: &Resource) -> bool {
    *resource == Resource::Anonymous
}

/// `rwx`.
pub(super) struct Protection(pub(super) u32);

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(1, "r"), (2, "w"), (4, "x")] {
            f.write_str(if self.0 & bit == 0 { "-" } else { letter })?;
        }
        Ok(())
    }
}

/// Whether a mapping is one of a file.
pub(super) fn is_file(vma: &proto::VmaEntry) -> bool {
    vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0
}

/// Path of the file a mapping shows, if it shows one.
pub(super) fn path_of(files: &FileTable, vma: &proto::VmaEntry) -> Option<String> {
    let id = u32::try_from(vma.shmid).ok();
    is_file(vma).then(|| files.describe(FdTypes::Reg.into(), id.unwrap_or(u32::MAX)))
}

/// Numbers shared objects from 1, in the order they appear.
#[derive(Debug, Default)]
struct Numbers {
    seen: HashMap<u64, u64>,
}

impl Numbers {
    fn of(&mut self, shmid: u64) -> u64 {
        let next = self.seen.len() as u64 + 1;
        *self.seen.entry(shmid).or_insert(next)
    }
}

fn resource(vma: &proto::VmaEntry, files: &FileTable, numbers: &mut Numbers) -> Resource {
    let has = |bit| vma.status & bit != 0;
    if has(status::SYSVIPC) {
        return Resource::SysvIpc(numbers.of(vma.shmid));
    }
    if has(status::ANON_SHARED) {
        return Resource::SharedMemory(numbers.of(vma.shmid));
    }
    if has(status::SOCKET) {
        return Resource::PacketSocket(numbers.of(vma.shmid));
    }
    if let Some(path) = path_of(files, vma) {
        return Resource::File { path, offset: vma.pgoff, shared: has(status::FILE_SHARED) };
    }
    match () {
        () if has(status::STACK) => Resource::Stack,
        () if has(status::VSYSCALL) => Resource::Vsyscall,
        () if has(status::VDSO) => Resource::Vdso,
        () if vma.flags & GROWSDOWN != 0 => Resource::GrowsDown,
        () => Resource::Anonymous,
    }
}

impl Explorer<'_> {
    /// The mappings of all tasks.
    ///
    /// # Errors
    /// Any error of reading `mm`.
    pub fn mems(&self) -> Result<MappingList> {
        let mut numbers = Numbers::default();
        let mut all = Vec::new();
        for task in &self.tasks {
            let pid = task.entry.pid;
            let Some(mm) = self.mm(task)? else {
                all.push(TaskMappings { pid, exe: None, mems: Vec::new() });
                continue;
            };
            let mapping = |vma: &proto::VmaEntry| Mapping {
                start: vma.start,
                end: vma.end,
                prot: vma.prot,
                resource: resource(vma, &self.files, &mut numbers),
                regular: vma.status & status::REGULAR != 0,
            };
            let mems = mm.vmas.iter().map(mapping).collect();
            let exe = Some(self.files.describe(FdTypes::Reg.into(), mm.exe_file_id));
            all.push(TaskMappings { pid, exe, mems });
        }
        Ok(MappingList(all))
    }
}

impl fmt::Display for MappingList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for task in &self.0 {
            writeln!(f, "{}", task.pid)?;
            if let Some(exe) = &task.exe {
                writeln!(f, "\t{:36}    {exe}", "exe")?;
            }
            for Mapping { start, end, prot, resource, regular } in &task.mems {
                let range = format!("{start:08x}-{end:08x}");
                write!(f, "\t{range:36}{}", Protection(*prot))?;
                if *resource != Resource::Anonymous {
                    write!(f, " {resource}")?;
                }
                writeln!(f, "{}", if *regular { "" } else { " *" })?;
            }
        }
        Ok(())
    }
}
