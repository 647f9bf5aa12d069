//! From the entries of a checkpoint to the list of files that must be what they were, with who uses them and how.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::PathBuf;

use rewake_images::proto::{
    FdTypes, FdinfoEntry, FsEntry, MmEntry, RegFileEntry, RemapFilePathEntry, VmaEntry,
};

use crate::error::Result;
use crate::format;
use crate::own::OwnCookies;
use crate::policy::Role;
use crate::report::Use;
use crate::verify::Expected;

/// Bits of `vma_entry.status`.
mod status {
    pub(super) const FILE: u32 = 1 << 6 | 1 << 7;
    pub(super) const SHARED_FILE: u32 = 1 << 7;
    /// `shmid` is the id of a memfd then, which has no file outside the checkpoint.
    pub(super) const MEMFD: u32 = 1 << 14;
}

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;

/// Gathers entries in any order; [`Collector::finish`] makes the list.
#[derive(Debug, Default)]
pub struct Collector {
    files: BTreeMap<u32, Expected>,
    users: BTreeMap<u32, Vec<Use>>,
    roles: BTreeMap<u32, Role>,
    elsewhere: BTreeSet<u32>,
}

impl Collector {
    /// A file of `files.img` or `reg-files.img`. Left out are external files, which have no name of their own, and
    /// those in /proc/PID, which exist only once the tasks do.
    ///
    /// # Errors
    ///
    /// [`CookieError::ChecksumConfig`](crate::CookieError::ChecksumConfig).
    pub fn file(&mut self, entry: &RegFileEntry) -> Result<()> {
        if entry.ext == Some(true) || belongs_to_a_task(&entry.name) {
            return Ok(());
        }
        let cookie = format::load(entry)?;
        let writable =
            entry.flags & nix::libc::O_ACCMODE.cast_unsigned() != nix::libc::O_RDONLY.cast_unsigned();
        self.roles.entry(entry.id).or_default().writable |= writable;
        let path = PathBuf::from(&entry.name);
        self.files.insert(entry.id, Expected { id: entry.id, path, cookie, ..Expected::default() });
        Ok(())
    }

    /// An entry of `remap-fpath.img`: the file had no name, the checkpoint carries it or says where it is.
    pub fn remap(&mut self, entry: &RemapFilePathEntry) {
        self.elsewhere.insert(entry.orig_id);
    }

    /// A mapping of a task.
    pub fn mapping(&mut self, pid: u32, vma: &VmaEntry) {
        if vma.status & status::FILE == 0 || vma.status & status::MEMFD != 0 {
            return;
        }
        let Ok(id) = u32::try_from(vma.shmid) else { return };
        let shared = vma.status & status::SHARED_FILE != 0;
        let letter = |bit, letter| if vma.prot & bit != 0 { letter } else { '-' };
        let protection = [
            letter(PROT_READ, 'r'),
            letter(PROT_WRITE, 'w'),
            letter(PROT_EXEC, 'x'),
            if shared { 's' } else { 'p' },
        ];
        let user =
            Use::Mapping { pid, start: vma.start, end: vma.end, protection: protection.iter().collect() };
        self.users.entry(id).or_default().push(user);
        let role = self.roles.entry(id).or_default();
        role.executable |= vma.prot & PROT_EXEC != 0;
        role.writable |= shared && vma.prot & PROT_WRITE != 0;
    }

    /// A descriptor of a task.
    pub fn descriptor(&mut self, pid: u32, entry: &FdinfoEntry) {
        if entry.r#type == FdTypes::Reg as i32 {
            self.users.entry(entry.id).or_default().push(Use::Descriptor { pid, fd: entry.fd });
        }
    }

    /// The address space of a task, for its program file.
    pub fn memory(&mut self, pid: u32, entry: &MmEntry) {
        self.users.entry(entry.exe_file_id).or_default().push(Use::Executable { pid });
        self.roles.entry(entry.exe_file_id).or_default().executable = true;
    }

    /// Working and root directory of a task.
    pub fn directories(&mut self, pid: u32, entry: &FsEntry) {
        self.users.entry(entry.cwd_id).or_default().push(Use::WorkingDirectory { pid });
        self.users.entry(entry.root_id).or_default().push(Use::RootDirectory { pid });
    }

    /// The list, by file id.
    pub fn finish(mut self, own: &OwnCookies) -> Vec<Expected> {
        let mut list: Vec<Expected> =
            self.files.into_values().filter(|file| !self.elsewhere.contains(&file.id)).collect();
        for file in &mut list {
            file.users = self.users.remove(&file.id).unwrap_or_default();
            file.role = self.roles.remove(&file.id).unwrap_or_default();
        }
        // Two openings of one file are two ids; what one of them may do concerns both.
        let mut by_path: HashMap<&OsStr, Role> = HashMap::with_capacity(list.len());
        for file in &list {
            let role = by_path.entry(file.path.as_os_str()).or_default();
            role.executable |= file.role.executable;
            role.writable |= file.role.writable;
        }
        let role = |file: &Expected| by_path.get(file.path.as_os_str()).copied().unwrap_or(file.role);
        let roles: Vec<Role> = list.iter().map(role).collect();
        list.iter_mut().zip(roles).for_each(|(file, role)| file.role = role);
        own.complete_all(&mut list);
        list
    }
}

fn belongs_to_a_task(name: &str) -> bool {
    name.strip_prefix("/proc/").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}
