//! epoll(7).

use std::collections::HashMap;

use nix::errno::Errno;
use rewake_images::proto::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};

use super::{OpenFile, Refusal, entry, refused};
use crate::error::{DumpError, Result};
use crate::sys;

pub(super) fn survey(file: &OpenFile, id: u32) -> Result<FileEntry> {
    let lines = file.fdinfo_lines().filter(|line| line.starts_with("tfd:"));
    let targets: Option<Vec<_>> = lines.map(parse_target).collect();
    let tfd = targets.ok_or_else(|| file.fdinfo_malformed("tfd"))?;
    let mut watched: HashMap<u32, u32> = HashMap::new();
    for target in &tfd {
        let nth = watched.entry(target.tfd).or_default();
        let same = sys::watches(file.pid, file.fd, target.tfd.cast_signed(), *nth);
        *nth += 1;
        match same {
            // Built without that, the kernel cannot tell.
            Ok(true) | Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            Ok(false) | Err(Errno::EBADF) => {
                let reason = format!(
                    "it watches a file as descriptor {}, which was closed while a duplicate of it is open",
                    target.tfd
                );
                let object = format!("descriptor {} ({})", file.fd, file.link.display());
                let remedy = "have the program remove a descriptor from the set before it closes that";
                return Err(refused(file.pid, &object, Refusal { reason, remedy }));
            }
            Err(errno) => {
                return Err(DumpError::call(file.pid, "kcmp", format!("descriptor {}", file.fd))(errno));
            }
        }
    }
    let epfd = EventpollFileEntry { id, flags: file.flags, fown: file.fown, tfd };
    Ok(FileEntry { epfd: Some(epfd.into()), ..entry(FdTypes::Eventpoll, id) })
}

/// `tfd: 5 events: 1d data: ffffffffffffffff  pos:0 ino:61af sdev:7`
fn parse_target(line: &str) -> Option<EventpollTfdEntry> {
    let after = |name: &str| -> Option<&str> {
        let (_, rest) = line.split_once(name)?;
        rest.split_ascii_whitespace().next()
    };
    Some(EventpollTfdEntry {
        // The id is of no use: the number is looked up in the table of the task.
        id: 0,
        tfd: after("tfd:")?.parse().ok()?,
        events: u32::from_str_radix(after("events:")?, 16).ok()?,
        data: u64::from_str_radix(after("data:")?, 16).ok()?,
        dev: after("sdev:").and_then(|v| u32::from_str_radix(v, 16).ok()),
        inode: after("ino:").and_then(|v| u64::from_str_radix(v, 16).ok()),
        pos: after("pos:").and_then(|v| v.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_line_of_fdinfo() {
        let target = super::parse_target(
            "tfd:        5 events:       1d data: ffffffffffffffff  pos:0 ino:61af sdev:7",
        );
        let target = target.unwrap();
        assert_eq!((target.tfd, target.events, target.data), (5, 0x1d, u64::MAX));
        assert_eq!((target.dev, target.inode, target.pos), (Some(7), Some(0x61af), Some(0)));
    }
}
