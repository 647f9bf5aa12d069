//! timerfd_create(2).

use std::os::fd::{AsFd, OwnedFd};

use rewake_images::proto::TimerfdEntry;

use crate::error::{RestoreError, Result};
use crate::sys;

pub(super) fn open(entry: &TimerfdEntry) -> Result<OwnedFd> {
    let object = || format!("timerfd {}", entry.id);
    let lies = || RestoreError::inconsistent(object(), "a number is out of range");
    let clock = i32::try_from(entry.clockid).map_err(|_| lies())?;
    let fd = sys::timerfd(clock).map_err(RestoreError::call("timerfd_create", object()))?;
    let mut left = (entry.vsec, entry.vnsec);
    if left == (0, 0) && entry.ticks > 0 {
        // A periodic timer that went off and was not read since: the kernel starts it again only when it is asked, so
        // CRIU finds no time left. Restored as it stands, it would be off.
        left = (entry.isec, entry.insec);
    }
    let times = [entry.isec, entry.insec, left.0, left.1];
    let [isec, insec, vsec, vnsec] = times.map(i64::try_from);
    let times = [
        isec.map_err(|_| lies())?,
        insec.map_err(|_| lies())?,
        vsec.map_err(|_| lies())?,
        vnsec.map_err(|_| lies())?,
    ];
    // The remaining time is relative, however the timer was set, so TFD_TIMER_CANCEL_ON_SET, which is for absolute times,
    // is lost: the images do not say at what time it would have gone off.
    if left != (0, 0) {
        sys::timerfd_settime(fd.as_fd(), 0, times)
            .map_err(RestoreError::call("timerfd_settime", object()))?;
    }
    if entry.ticks > 0 {
        sys::timerfd_set_ticks(fd.as_fd(), entry.ticks)
            .map_err(RestoreError::call("ioctl(TFD_IOC_SET_TICKS)", object()))?;
    }
    super::set_status(&fd, entry.flags, entry.id)?;
    Ok(fd)
}
