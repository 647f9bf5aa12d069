//! timerfd_create(2).

use std::os::fd::{AsFd, OwnedFd};

use nix::time::{ClockId, clock_gettime};
use rewake_images::proto::TimerfdEntry;

use crate::error::{RestoreError, Result};
use crate::sys;

const ABSTIME: u32 = libc::TFD_TIMER_ABSTIME.unsigned_abs();
const CANCEL_ON_SET: u32 = libc::TFD_TIMER_CANCEL_ON_SET.unsigned_abs();
const NANOSECONDS: i64 = 1_000_000_000;

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
    // The images have the time left, and not at what time it would have gone off. But one that was set to a point in time follows
    // the clock when that is set, and may want to be told.
    let mut times = times;
    let absolute = entry.settime_flags & ABSTIME != 0;
    if absolute {
        let now =
            clock_gettime(ClockId::from_raw(clock)).map_err(RestoreError::call("clock_gettime", object()))?;
        let [.., sec, nsec] = &mut times;
        if *nsec >= NANOSECONDS {
            return Err(lies());
        }
        let total = *nsec + now.tv_nsec();
        *sec = sec.saturating_add(now.tv_sec()).saturating_add(total / NANOSECONDS);
        *nsec = total % NANOSECONDS;
    }
    if left != (0, 0) {
        let flags = if absolute { entry.settime_flags & (ABSTIME | CANCEL_ON_SET) } else { 0 };
        sys::timerfd_settime(fd.as_fd(), flags.cast_signed(), times)
            .map_err(RestoreError::call("timerfd_settime", object()))?;
    }
    if entry.ticks > 0 {
        sys::timerfd_set_ticks(fd.as_fd(), entry.ticks)
            .map_err(RestoreError::call("ioctl(TFD_IOC_SET_TICKS)", object()))?;
    }
    super::set_status(&fd, entry.flags, entry.id)?;
    Ok(fd)
}
