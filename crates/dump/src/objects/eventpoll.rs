//! epoll(7).

use rewake_images::proto::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};

use super::{OpenFile, entry};
use crate::error::Result;

pub(super) fn survey(file: &OpenFile, id: u32) -> Result<FileEntry> {
    let lines = file.fdinfo_lines().filter(|line| line.starts_with("tfd:"));
    let targets: Option<Vec<_>> = lines.map(parse_target).collect();
    let tfd = targets.ok_or_else(|| file.fdinfo_malformed("tfd"))?;
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
