//! The files of a dump, each open file description once.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::{FileStat, fstat};
use nix::unistd::Pid;
use rewake_filecheck::open::FileState;
use rewake_images::Kind;
use rewake_images::proto::{FdTypes, FileEntry, PipeDataEntry, RegFileEntry, RemapFilePathEntry, RemapType};
use rewake_memdump::{Area, AreaKind};

use super::ghost::Ghost;
use super::locks::Locks;
use super::memfd::SharedObject;
use super::{ObjectKind, OpenFile, Refusal, eventfd, eventpoll, memfd, pipe, regfile, signalfd, timerfd};
use crate::error::{DumpError, Result};
use crate::options::DumpOptions;
use crate::preflight::Obstacle;
use crate::{proc, sys};

/// Device and inode number.
type Identity = (u64, u64);

fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// What a mapping of a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MappedFile {
    pub(crate) id: u32,
    /// It is a memfd or shared anonymous memory.
    pub(crate) memfd: bool,
}

/// Contents of a pipe, or the promise of them.
#[derive(Debug)]
pub(crate) struct PipeContents {
    pub(crate) kind: Kind,
    pub(crate) entry: PipeDataEntry,
    pub(crate) bytes: Vec<u8>,
}

/// Every file of the dump: open ones, mapped ones, directories.
#[derive(Debug, Default)]
pub(crate) struct FileTable {
    pub(crate) entries: Vec<FileEntry>,
    pub(crate) shared: Vec<SharedObject>,
    pub(crate) pipes: BTreeMap<u32, PipeContents>,
    pub(crate) ghosts: Vec<Ghost>,
    pub(crate) remaps: Vec<RemapFilePathEntry>,
    /// Descriptors seen, by file, in the order kcmp(2) gives: files on one inode (all eventfds are) are found quickly.
    known: HashMap<Identity, Vec<Known>>,
    mapped: HashMap<(Identity, u32), MappedFile>,
    shared_ids: HashMap<Identity, u32>,
    ghost_ids: HashMap<Identity, u32>,
    /// Files that have cookies, to be put in when it is known what is done with them.
    pub(crate) named: Vec<NamedFile>,
    ghost_limit: u64,
    pub(crate) locks: Locks,
}

/// A regular file that has an entry.
#[derive(Debug)]
pub(crate) struct NamedFile {
    /// Place of its entry in the table.
    place: usize,
    pub(crate) state: FileState,
    /// Leads to the very file the task has.
    pub(crate) link: PathBuf,
    pub(crate) deleted: bool,
    /// There is a lease, which opening it would break.
    pub(crate) leased: bool,
}

impl NamedFile {
    pub(crate) fn entry<'a>(&self, files: &'a mut FileTable) -> Option<&'a mut RegFileEntry> {
        files.entries.get_mut(self.place)?.reg.as_mut()
    }
}

#[derive(Debug)]
struct Known {
    pid: Pid,
    fd: RawFd,
    id: u32,
    kind: FdTypes,
}

impl FileTable {
    pub(crate) fn new(options: &DumpOptions) -> Self {
        let locks = Locks::new(options.file_locks);
        Self { ghost_limit: options.ghost_limit, locks, ..Self::default() }
    }

    fn next_id(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("fewer files than descriptors can be") + 1
    }

    /// Takes note of a descriptor; gives the id and type of the open file behind it, new or known.
    pub(crate) fn add_fd(&mut self, file: OpenFile) -> Result<(u32, FdTypes)> {
        let held = self.locks.of(&file)?;
        let (id, kind) = self.identify(file)?;
        self.locks.add(id, held);
        Ok((id, kind))
    }

    fn identify(&mut self, file: OpenFile) -> Result<(u32, FdTypes)> {
        let bucket = self.known.entry(identity(&file.stat)).or_default();
        let mut failed = None;
        let place = bucket.binary_search_by(|known| {
            if known.pid != file.pid {
                // Two tasks: only trees have them, and those compare across.
                return known.pid.cmp(&file.pid);
            }
            sys::kcmp_file(file.pid, known.fd, file.fd).unwrap_or_else(|errno| {
                failed = Some(errno);
                std::cmp::Ordering::Equal
            })
        });
        if let Some(errno) = failed {
            return Err(DumpError::call(file.pid, "kcmp", format!("descriptor {}", file.fd))(errno));
        }
        match place {
            Ok(at) => {
                let known = bucket.get(at).expect("binary_search found it there");
                Ok((known.id, known.kind))
            }
            Err(at) => {
                let (pid, fd, key) = (file.pid, file.fd, identity(&file.stat));
                let (id, kind) = self.survey(file)?;
                let bucket = self.known.entry(key).or_default();
                bucket.insert(at, Known { pid, fd, id, kind });
                Ok((id, kind))
            }
        }
    }

    fn survey(&mut self, file: OpenFile) -> Result<(u32, FdTypes)> {
        let refused = |refusal| {
            refused(file.pid, &format!("descriptor {} ({})", file.fd, file.link.display()), refusal)
        };
        let kind = file.kind().map_err(&refused)?;
        if kind == ObjectKind::Fifo {
            return self.survey_fifo(file);
        }
        let id = self.next_id();
        let entry = match kind {
            ObjectKind::Path => {
                let path = self.path_of_open(&file, id).map_err(&refused)?;
                let leased = file.locks().any(|lock| lock.contains("LEASE"));
                self.note_cookie(&file.stat, format!("/proc/{}/fd/{}", file.pid, file.fd), leased);
                regfile::file_entry(regfile::survey(&file, path, id))
            }
            ObjectKind::Memfd => {
                memfd::refusal(&file.dup).map_or(Ok(()), |refusal| Err(refused(refusal)))?;
                let inode_id = self
                    .shared_object(&file.dup, &file.stat, &file.link)
                    .map_err(DumpError::call(file.pid, "dup", file.link.display().to_string()))?;
                memfd::survey(&file, id, inode_id)
            }
            ObjectKind::Pipe => {
                self.note_pipe(&file, Kind::PipesData)?;
                pipe::survey_pipe(&file, id)?
            }
            ObjectKind::Eventfd => eventfd::survey(&file, id)?,
            ObjectKind::Eventpoll => eventpoll::survey(&file, id)?,
            ObjectKind::Timerfd => timerfd::survey(&file, id)?,
            ObjectKind::Signalfd => signalfd::survey(&file, id)?,
            ObjectKind::Fifo => unreachable!("dealt with above"),
        };
        let kind = entry.r#type();
        self.entries.push(entry);
        Ok((id, kind))
    }

    /// A named pipe is two entries: the path, and the open end.
    fn survey_fifo(&mut self, file: OpenFile) -> Result<(u32, FdTypes)> {
        let what = format!("descriptor {} ({})", file.fd, file.link.display());
        let regf_id = self.next_id();
        let path = self.path_of_open(&file, regf_id);
        let path = path.map_err(|refusal| refused(file.pid, &what, refusal))?;
        self.entries.push(regfile::file_entry(regfile::survey(&file, path, regf_id)));
        let id = self.next_id();
        self.note_pipe(&file, Kind::FifoData)?;
        self.entries.push(pipe::survey_fifo(&file, id, regf_id)?);
        Ok((id, FdTypes::Fifo))
    }

    fn note_pipe(&mut self, file: &OpenFile, kind: Kind) -> Result<()> {
        let pipe_id = pipe::pipe_id(file)?;
        if !pipe::readable(file) || self.pipes.contains_key(&pipe_id) {
            return Ok(());
        }
        let (entry, bytes) = pipe::contents(file)?;
        if pipe::packets(file) && !bytes.is_empty() {
            let refusal =
                Refusal::new("a pipe in packet mode (O_DIRECT) holds data", "have the program read it first");
            return Err(refused(
                file.pid,
                &format!("descriptor {} ({})", file.fd, file.link.display()),
                refusal,
            ));
        }
        self.pipes.insert(pipe_id, PipeContents { kind, entry, bytes });
        Ok(())
    }

    /// Takes note of a file that is mapped, run or stood in: `link` is its name in the directory of /proc.
    /// `flags` are those to open it with again.
    pub(crate) fn add_link(&mut self, pid: Pid, link: &str, flags: u32) -> Result<MappedFile> {
        let path = proc::link(pid, link)?;
        let file = open_path(Path::new(&format!("/proc/{pid}/{link}")));
        let file = file.map_err(DumpError::proc(pid, link))?;
        let stat = fstat(&file).map_err(DumpError::call(pid, "fstat", link))?;
        let key = (identity(&stat), flags);
        if let Some(known) = self.mapped.get(&key) {
            return Ok(*known);
        }
        let id = self.next_id();
        let shared_memory = stat.st_nlink == 0 && shared_memory(&path);
        let entry = if shared_memory {
            let readable = File::open(format!("/proc/{pid}/{link}")).map_err(DumpError::proc(pid, link))?;
            let inode_id = self
                .shared_object(&readable.into(), &stat, &path)
                .map_err(DumpError::call(pid, "dup", link))?;
            memfd::mapped(id, flags, inode_id)
        } else {
            let name = self.path_of(&stat, &path, file.as_fd(), id);
            let name =
                name.map_err(|refusal| refused(pid, &format!("{link} ({})", path.display()), refusal))?;
            self.note_cookie(&stat, format!("/proc/{pid}/{link}"), false);
            regfile::file_entry(regfile::named(name, &stat, flags, id))
        };
        self.entries.push(entry);
        let mapped = MappedFile { id, memfd: shared_memory };
        self.mapped.insert(key, mapped);
        Ok(mapped)
    }

    /// As [`Self::path_of`], of an open file.
    fn path_of_open(&mut self, file: &OpenFile, id: u32) -> Result<String, Refusal> {
        match file.link.to_str() {
            Some(path) if file.followed && file.stat.st_nlink > 0 => Ok(path.to_owned()),
            _ => self.path_of(&file.stat, &file.link, file.dup.as_fd(), id),
        }
    }

    /// The path to write for a file, which becomes a ghost if it was deleted.
    fn path_of(
        &mut self,
        stat: &FileStat,
        link: &Path,
        file: BorrowedFd<'_>,
        id: u32,
    ) -> Result<String, Refusal> {
        if stat.st_nlink > 0 {
            return regfile::reachable(link, stat);
        }
        let name = link.to_str().map(|l| l.strip_suffix(" (deleted)").unwrap_or(l).to_owned());
        let name = name.ok_or_else(|| {
            Refusal::new("its path is not valid UTF-8, which the format requires", "close it")
        })?;
        let key = identity(stat);
        let remap_id = match self.ghost_ids.get(&key) {
            Some(&remap_id) => remap_id,
            None => {
                let remap_id = u32::try_from(self.ghosts.len()).expect("fewer ghosts than files") + 1;
                self.ghosts.push(Ghost::of(file, stat, remap_id, self.ghost_limit)?);
                self.ghost_ids.insert(key, remap_id);
                remap_id
            }
        };
        let remap_type = Some(RemapType::Ghost.into());
        self.remaps.push(RemapFilePathEntry { orig_id: id, remap_id, remap_type });
        Ok(name)
    }

    fn shared_object(
        &mut self,
        file: &OwnedFd,
        stat: &FileStat,
        link: &Path,
    ) -> Result<u32, nix::errno::Errno> {
        if let Some(&id) = self.shared_ids.get(&identity(stat)) {
            return Ok(id);
        }
        let id = self.shared_id(stat);
        let file =
            file.try_clone().map_err(|e| nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
        self.shared.push(memfd::object(file, stat, link, id));
        self.shared_ids.insert(identity(stat), id);
        Ok(id)
    }

    /// A number for the object that it has in every dump of the same process, so that its pages are found in a parent.
    fn shared_id(&self, stat: &FileStat) -> u32 {
        let mut id = u32::try_from(stat.st_ino & u64::from(u32::MAX)).unwrap_or(0);
        // Inode numbers have more bits, and there is more than one such file system.
        while id == 0 || self.shared.iter().any(|object| object.inode.shmid == id) {
            id = id.wrapping_add(1);
        }
        id
    }

    /// The entry that is made next is of this file.
    fn note_cookie(&mut self, stat: &FileStat, link: String, leased: bool) {
        let state = FileState::from(stat);
        if state.is_regular() {
            let (place, deleted) = (self.entries.len(), stat.st_nlink == 0);
            self.named.push(NamedFile { place, state, link: link.into(), deleted, leased });
        }
    }
}

/// The shared memory objects of a process that runs, under the numbers that a dump gives them. What cannot be opened,
/// because it is gone or for lack of privileges, is left out.
pub(crate) fn shared_of_running(pid: Pid, areas: &[Area]) -> Vec<SharedObject> {
    let mapped = areas.iter().filter(|area| area.kind == AreaKind::AnonShared || area.is_memfd());
    let mut links: Vec<String> =
        mapped.map(|area| format!("map_files/{:x}-{:x}", area.start, area.end)).collect();
    let fds = crate::preflight::list(pid, "fd").unwrap_or_default();
    links.extend(fds.into_iter().map(|fd| format!("fd/{fd}")));
    let mut table = FileTable::default();
    for link in links {
        let Ok(path) = proc::link(pid, &link) else { continue };
        if !shared_memory(&path) {
            continue;
        }
        let found = File::open(format!("/proc/{pid}/{link}")).map(OwnedFd::from);
        let found = found.and_then(|file| Ok((fstat(&file)?, file)));
        match found {
            Ok((stat, file)) if stat.st_nlink == 0 => {
                // Only duplicating the descriptor can fail, and the dump will say so.
                let _ = table.shared_object(&file, &stat, &path);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%pid, link, %error, "shared memory that the dump will have to copy")
            }
        }
    }
    table.shared
}

fn open_path(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_PATH).open(path)
}

fn shared_memory(link: &Path) -> bool {
    let name = link.as_os_str().as_encoded_bytes();
    name.starts_with(b"/memfd:") || name == b"/dev/zero (deleted)"
}

pub(crate) fn refused(pid: Pid, object: &str, refusal: Refusal) -> DumpError {
    let Refusal { reason, remedy } = refusal;
    let obstacle =
        Obstacle { pid: pid.as_raw(), object: object.to_owned(), reason, remedy: remedy.to_owned() };
    DumpError::Obstacles { obstacles: vec![obstacle] }
}
