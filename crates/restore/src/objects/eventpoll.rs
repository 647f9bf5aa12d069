//! epoll(7).

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};

use rewake_images::proto::{EventpollFileEntry, FdTypes};

use crate::error::{RestoreError, Result};
use crate::plan::Plan;
use crate::sys;

/// An empty set. Its targets are added by the process itself, for the kernel knows them by its numbers.
pub(super) fn open(entry: &EventpollFileEntry) -> Result<OwnedFd> {
    let fd = sys::epoll().map_err(RestoreError::call("epoll_create1", format!("epoll {}", entry.id)))?;
    super::set_status(&fd, entry.flags, entry.id)?;
    Ok(fd)
}

/// What to add to which set: set, target, event.
pub(crate) fn epoll_steps(plan: &Plan) -> Result<Vec<(RawFd, RawFd, libc::epoll_event)>> {
    let mut numbers: BTreeMap<u32, RawFd> = BTreeMap::new();
    for fd in plan.descriptors.iter().filter(|fd| fd.kind == FdTypes::Eventpoll.as_str_name()) {
        numbers.entry(fd.file).or_insert_with(|| fd.fd.cast_signed());
    }
    let mut steps = Vec::new();
    for (id, set) in numbers {
        let Some(entry) = plan.task.files.get(&id).and_then(|file| file.epfd.as_ref()) else { continue };
        for target in &entry.tfd {
            if !plan.descriptors.iter().any(|fd| fd.fd == target.tfd) {
                let what = format!("it watches descriptor {}, which is closed", target.tfd);
                return Err(RestoreError::inconsistent(format!("epoll {id}"), what));
            }
            let event = libc::epoll_event { events: target.events, u64: target.data };
            steps.push((set, target.tfd.cast_signed(), event));
        }
    }
    Ok(steps)
}
