//! timerfd_create(2).

use std::os::fd::AsFd;

use rewake_images::proto::{FdTypes, FileEntry, TimerfdEntry};

use super::{OpenFile, entry};
use crate::error::{DumpError, Result};
use crate::sys;

pub(super) fn survey(file: &OpenFile, id: u32) -> Result<FileEntry> {
    // A periodic timer that went off and was not read since is started again when somebody asks for the time left, and
    // shows none until then.
    sys::timerfd_gettime(file.dup.as_fd()).map_err(DumpError::call(
        file.pid,
        "timerfd_gettime",
        format!("descriptor {}", file.fd),
    ))?;
    let info = file.fdinfo_now()?;
    let number = |name: &str| -> Result<u64> {
        info.field(name)
            .ok_or_else(|| file.fdinfo_malformed(name))?
            .parse()
            .map_err(|_| file.fdinfo_malformed(name))
    };
    let octal = info.field("settime flags").ok_or_else(|| file.fdinfo_malformed("settime flags"))?;
    let settime_flags = u32::from_str_radix(octal, 8).map_err(|_| file.fdinfo_malformed("settime flags"))?;
    let time = |name: &str| -> Result<(u64, u64)> {
        let value = info.field(name).ok_or_else(|| file.fdinfo_malformed(name))?;
        parse_time(value).ok_or_else(|| file.fdinfo_malformed(name))
    };
    let ((vsec, vnsec), (isec, insec)) = (time("it_value")?, time("it_interval")?);
    let clockid = u32::try_from(number("clockid")?).map_err(|_| file.fdinfo_malformed("clockid"))?;
    let tfd = TimerfdEntry {
        id,
        flags: file.flags,
        fown: file.fown,
        clockid,
        ticks: number("ticks")?,
        settime_flags,
        vsec,
        vnsec,
        isec,
        insec,
    };
    Ok(FileEntry { tfd: Some(tfd.into()), ..entry(FdTypes::Timerfd, id) })
}

/// `(seconds, nanoseconds)` as fdinfo writes it.
fn parse_time(text: &str) -> Option<(u64, u64)> {
    let (seconds, nanoseconds) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some((seconds.trim().parse().ok()?, nanoseconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn times() {
        assert_eq!(super::parse_time("(3, 250000000)"), Some((3, 250_000_000)));
        assert_eq!(super::parse_time("(3; 4)"), None);
    }
}
