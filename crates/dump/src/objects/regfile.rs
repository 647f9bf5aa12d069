//! Files that open again by their path: regular files, directories, plain devices, named pipes.

use std::path::Path;

use nix::sys::stat::FileStat;
use rewake_images::proto::{FdTypes, FileEntry, RegFileEntry};

use super::{OpenFile, Refusal, entry};
use crate::error::Result;

/// What `pos` is for a file that cannot seek.
const NO_POSITION: u64 = u64::MAX;

pub(super) fn survey(file: &OpenFile, path: String, id: u32) -> RegFileEntry {
    let mut reg = named(path, &file.stat, file.flags, id);
    reg.pos = file.position.unwrap_or(NO_POSITION);
    reg.fown = file.fown;
    reg
}

/// The entry of a file nobody has a position in: a mapped one, a working directory.
pub(super) fn named(path: String, stat: &FileStat, flags: u32, id: u32) -> RegFileEntry {
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    // A file only appended to grows as a matter of course: its size is nothing to insist on.
    let [access, append] = [libc::O_ACCMODE, libc::O_APPEND].map(i32::unsigned_abs);
    let only_appended = flags & access == libc::O_WRONLY.unsigned_abs() && flags & append != 0;
    RegFileEntry {
        id,
        flags,
        name: path,
        mode: Some(stat.st_mode),
        size: (regular && !only_appended).then(|| stat.st_size.unsigned_abs()),
        ..Default::default()
    }
}

pub(super) fn file_entry(reg: RegFileEntry) -> FileEntry {
    let id = reg.id;
    FileEntry { reg: Some(reg), ..entry(FdTypes::Reg, id) }
}

/// Whether `path` leads to the very file with `stat`; the reason if not.
pub(crate) fn reachable(path: &Path, stat: &FileStat) -> Result<String, Refusal> {
    let Some(text) = path.to_str() else {
        return Err(Refusal::new("its path is not valid UTF-8, which the format requires", "rename it"));
    };
    if of_a_process(text) {
        return Err(Refusal::new(
            "files of a process in /proc cannot be dumped yet",
            "close it before the dump",
        ));
    }
    match nix::sys::stat::stat(path) {
        Ok(found) if (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino) => Ok(text.to_owned()),
        Ok(_) => Err(Refusal::new("its path leads to another file now", "move the other file away")),
        Err(nix::errno::Errno::ENOENT) => {
            let reason = if !path.is_absolute() {
                "files that only the kernel can name (namespaces, for one) cannot be dumped yet"
            } else if text.ends_with(" (deleted)") {
                "this name of it was removed while it has others (hard links)"
            } else {
                "its path no longer exists, or never did (queues of mq_open have none)"
            };
            Err(Refusal::new(reason, "put it back, or have the program close it"))
        }
        Err(e) => {
            Err(Refusal::new(format!("its path cannot be followed: {}", e.desc()), "make it accessible"))
        }
    }
}

/// Whether the path is below /proc/PID: such a file can only be opened again when the process is there.
fn of_a_process(path: &str) -> bool {
    let pid = path.strip_prefix("/proc/").and_then(|rest| rest.split('/').next());
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::of_a_process;

    #[test]
    fn files_of_processes_are_told_by_their_path() {
        assert!(of_a_process("/proc/12/maps") && of_a_process("/proc/1"));
        assert!(
            ["/proc/meminfo", "/proc/sys/1", "/proc/", "/proc/1x/a", "/tmp/proc/1/x"]
                .iter()
                .all(|path| !of_a_process(path))
        );
    }
}
