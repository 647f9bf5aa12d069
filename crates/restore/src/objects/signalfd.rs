//! signalfd(2).

use std::os::fd::OwnedFd;

use rewake_images::proto::SignalfdEntry;

use crate::error::{RestoreError, Result};
use crate::sys;

pub(super) fn open(entry: &SignalfdEntry) -> Result<OwnedFd> {
    let fd = sys::signalfd(entry.sigmask)
        .map_err(RestoreError::call("signalfd4", format!("signalfd {}", entry.id)))?;
    super::set_status(&fd, entry.flags, entry.id)?;
    Ok(fd)
}
