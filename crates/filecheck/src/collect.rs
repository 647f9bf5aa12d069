//! From the entries of a checkpoint to the list of files that must be what they were, with who uses them and how.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;

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

/// Gathers entries in any order; [`Collector::finish`] makes the list. Of many thousands there are many: they are kept
/// together and sorted once.
#[derive(Debug, Default)]
pub struct Collector {
    files: Vec<Expected>,
    users: Vec<(u32, Use)>,
    roles: Vec<(u32, Role)>,
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
        let role = Role { writable, ..Role::default() };
        self.files.push(Expected {
            id: entry.id,
            path: (&entry.name).into(),
            cookie,
            role,
            users: Vec::new(),
        });
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
        self.users.push((id, user));
        let executable = vma.prot & PROT_EXEC != 0;
        self.roles.push((id, Role { executable, writable: shared && vma.prot & PROT_WRITE != 0 }));
    }

    /// A descriptor of a task.
    pub fn descriptor(&mut self, pid: u32, entry: &FdinfoEntry) {
        if entry.r#type == FdTypes::Reg as i32 {
            self.users.push((entry.id, Use::Descriptor { pid, fd: entry.fd }));
        }
    }

    /// The address space of a task, for its program file.
    pub fn memory(&mut self, pid: u32, entry: &MmEntry) {
        self.users.push((entry.exe_file_id, Use::Executable { pid }));
        self.roles.push((entry.exe_file_id, Role { executable: true, ..Role::default() }));
    }

    /// Working and root directory of a task.
    pub fn directories(&mut self, pid: u32, entry: &FsEntry) {
        self.users.push((entry.cwd_id, Use::WorkingDirectory { pid }));
        self.users.push((entry.root_id, Use::RootDirectory { pid }));
    }

    /// The list, by file id.
    pub fn finish(self, own: &OwnCookies) -> Vec<Expected> {
        let mut list = self.files;
        list.retain(|file| !self.elsewhere.contains(&file.id));
        // Of an id that is there twice the last one counts.
        list.reverse();
        list.sort_by_key(|file| file.id);
        list.dedup_by_key(|file| file.id);
        let place = |list: &[Expected], id| list.binary_search_by_key(&id, |file| file.id).ok();
        for (id, role) in self.roles {
            if let Some(file) = place(&list, id).and_then(|index| list.get_mut(index)) {
                file.role = file.role.or(role);
            }
        }
        for (id, user) in self.users {
            if let Some(file) = place(&list, id).and_then(|index| list.get_mut(index)) {
                if file.users.is_empty() {
                    // Mostly it stays the only one.
                    file.users.reserve_exact(1);
                }
                file.users.push(user);
            }
        }
        // Two openings of one file are two ids; what one of them may do concerns both.
        let mut by_path: HashMap<&OsStr, Role> = HashMap::with_capacity(list.len());
        for file in &list {
            let role = by_path.entry(file.path.as_os_str()).or_default();
            *role = role.or(file.role);
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
