//! The text files of /proc/PID. proc(5).

use std::fs::{self, File};
use std::io::{Read, Result as IoResult};
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::error::{DumpError, Result};

/// Text of /proc/PID/`file`.
pub(crate) fn read(pid: Pid, file: &str) -> Result<String> {
    let text = read_bytes(pid, file)?;
    String::from_utf8(text).map_err(|_| malformed(pid, file, "it is no text"))
}

/// Bytes of /proc/PID/`file`.
pub(crate) fn read_bytes(pid: Pid, file: &str) -> Result<Vec<u8>> {
    let whole = || {
        let mut opened = File::open(format!("/proc/{pid}/{file}"))?;
        let mut bytes = Vec::new();
        while read_some(&mut opened, &mut bytes)? > 0 {}
        Ok(bytes)
    };
    whole().map_err(DumpError::proc(pid, file))
}

/// Adds what one read gives; how much that was. These files do not tell their size, and the library would feel its way.
pub(crate) fn read_some(file: &mut File, bytes: &mut Vec<u8>) -> IoResult<usize> {
    let mut piece = [0; PIECE];
    let read = file.read(&mut piece)?;
    bytes.extend(piece.iter().take(read));
    Ok(read)
}

/// Most that [`read_some`] reads.
pub(crate) const PIECE: usize = 2048;

/// Target of the link /proc/PID/`file`.
pub(crate) fn link(pid: Pid, file: &str) -> Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/{file}")).map_err(DumpError::proc(pid, file))
}

fn malformed(pid: Pid, file: &str, what: &str) -> DumpError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    DumpError::Proc { pid, file: file.to_owned(), source }
}

/// Fields of /proc/PID/stat. Addresses are zero without the right to see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) ppid: i32,
    pub(crate) pgid: i32,
    pub(crate) sid: i32,
    pub(crate) tty: i32,
    pub(crate) flags: u32,
    pub(crate) start_code: u64,
    pub(crate) end_code: u64,
    pub(crate) start_stack: u64,
    pub(crate) start_data: u64,
    pub(crate) end_data: u64,
    pub(crate) start_brk: u64,
    pub(crate) arg_start: u64,
    pub(crate) arg_end: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
}

impl Stat {
    pub(crate) fn read(pid: Pid) -> Result<Self> {
        Self::parse(&read(pid, "stat")?).ok_or_else(|| malformed(pid, "stat", "too few fields"))
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold blanks and parentheses.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered as in the manual page, where the state is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let int = |number| field(number)?.parse::<i32>().ok();
        let addr = |number| field(number)?.parse::<u64>().ok();
        Some(Self {
            state: field(3)?.chars().next()?,
            ppid: int(4)?,
            pgid: int(5)?,
            sid: int(6)?,
            tty: int(7)?,
            flags: field(9)?.parse().ok()?,
            start_code: addr(26)?,
            end_code: addr(27)?,
            start_stack: addr(28)?,
            start_data: addr(45)?,
            end_data: addr(46)?,
            start_brk: addr(47)?,
            arg_start: addr(48)?,
            arg_end: addr(49)?,
            env_start: addr(50)?,
            env_end: addr(51)?,
        })
    }
}

/// Fields of /proc/PID/status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) tgid: i32,
    pub(crate) umask: u32,
    /// Size of the table of descriptors: all numbers are below it.
    pub(crate) fd_size: u32,
    /// Real, effective, saved, file system.
    pub(crate) uids: [u32; 4],
    /// Real, effective, saved, file system.
    pub(crate) gids: [u32; 4],
    pub(crate) groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub(crate) caps: [u64; 5],
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: u32,
    /// Memory it has locked, in KiB.
    pub(crate) locked_kib: u64,
}

impl Status {
    pub(crate) fn read(pid: Pid) -> Result<Self> {
        Self::parse(&read(pid, "status")?).ok_or_else(|| malformed(pid, "status", "a field is missing"))
    }

    /// Of one thread, which may have credentials of its own.
    pub(crate) fn read_thread(pid: Pid, tid: Pid) -> Result<Self> {
        let file = format!("task/{tid}/status");
        Self::parse(&read(pid, &file)?).ok_or_else(|| malformed(pid, &file, "a field is missing"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let numbers = |name| -> Option<Vec<u32>> {
            field(name)?.split_ascii_whitespace().map(|n| n.parse().ok()).collect()
        };
        let cap = |name| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            tgid: field("Tgid")?.parse().ok()?,
            fd_size: field("FDSize").and_then(|size| size.parse().ok()).unwrap_or(u32::MAX),
            umask: u32::from_str_radix(field("Umask").unwrap_or("0"), 8).ok()?,
            uids: numbers("Uid")?.try_into().ok()?,
            gids: numbers("Gid")?.try_into().ok()?,
            groups: numbers("Groups")?,
            caps: [
                cap("CapInh")?,
                cap("CapPrm")?,
                cap("CapEff")?,
                cap("CapBnd")?,
                cap("CapAmb").unwrap_or(0),
            ],
            no_new_privs: field("NoNewPrivs").is_some_and(|v| v == "1"),
            locked_kib: field("VmLck").and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or(0),
            seccomp: field("Seccomp").and_then(|v| v.parse().ok()).unwrap_or(0),
        })
    }
}

/// The sixteen resource limits, soft and hard, in the order of their numbers. `u64::MAX` is "unlimited".
pub(crate) fn limits(pid: Pid) -> Result<Vec<(u64, u64)>> {
    parse_limits(&read(pid, "limits")?).ok_or_else(|| malformed(pid, "limits", "a limit is missing"))
}

/// Names in the file, by number (RLIMIT_CPU is 0). The file has its own order.
const LIMIT_NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

fn parse_limits(text: &str) -> Option<Vec<(u64, u64)>> {
    let value = |word: &str| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() };
    let limit = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut words = rest.split_ascii_whitespace();
        Some((value(words.next()?)?, value(words.next()?)?))
    };
    LIMIT_NAMES.iter().map(|name| limit(name)).collect()
}

/// A POSIX timer as /proc/PID/timers tells it. The armed time is not in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PosixTimer {
    pub(crate) id: u32,
    pub(crate) signal: u32,
    pub(crate) value: u64,
    /// `SIGEV_*` without `SIGEV_THREAD_ID`.
    pub(crate) notify: u32,
    /// The thread to be signalled, if it is one in particular.
    pub(crate) thread: Option<i32>,
    pub(crate) clock: i32,
}

pub(crate) fn posix_timers(pid: Pid) -> Result<Vec<PosixTimer>> {
    parse_timers(&read(pid, "timers")?).ok_or_else(|| malformed(pid, "timers", "not as documented"))
}

fn parse_timers(text: &str) -> Option<Vec<PosixTimer>> {
    let mut timers = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let id = line.strip_prefix("ID: ")?.parse().ok()?;
        let (signal, value) = lines.next()?.strip_prefix("signal: ")?.split_once('/')?;
        let (notify, target) = lines.next()?.strip_prefix("notify: ")?.split_once('/')?;
        let clock = lines.next()?.strip_prefix("ClockID: ")?.parse().ok()?;
        let thread = target.strip_prefix("tid.").and_then(|tid| tid.parse().ok());
        let notify = match notify {
            "signal" => 0,
            "none" => 1,
            "thread" => 2,
            _ => return None,
        };
        let value = u64::from_str_radix(value.trim_start_matches("0x"), 16).ok()?;
        timers.push(PosixTimer { id, signal: signal.parse().ok()?, value, notify, thread, clock });
    }
    // The kernel lists the newest first; the images have them in the order in which they are to be created.
    timers.sort_by_key(|timer| timer.id);
    Some(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_files_parse() {
        let pid = Pid::this();
        let stat = Stat::read(pid).unwrap();
        assert_eq!(stat.ppid, nix::unistd::getppid().as_raw());
        assert!(stat.start_code < stat.end_code && stat.env_start <= stat.env_end);
        let status = Status::read(pid).unwrap();
        assert_eq!(status.uids[1], nix::unistd::geteuid().as_raw());
        let limits = limits(pid).unwrap();
        let (soft, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(limits[7], (soft, hard));
    }

    #[test]
    fn names_with_parentheses() {
        let mut text = String::from("7 (a) b (c) S 1 2 3 4 5 6");
        for n in 10..=52 {
            text.push_str(&format!(" {n}"));
        }
        let stat = Stat::parse(&text).unwrap();
        assert_eq!((stat.state, stat.ppid, stat.start_code, stat.env_end), ('S', 1, 26, 51));
    }

    #[test]
    fn timers_of_all_kinds() {
        let text = "ID: 0\nsignal: 10/0000000000000000\nnotify: signal/pid.8\nClockID: 1\n\
                    ID: 5\nsignal: 34/00007ffe12345678\nnotify: signal/tid.9\nClockID: -6\n\
                    ID: 6\nsignal: 0/0000000000000000\nnotify: none/pid.8\nClockID: 0\n";
        let timers = parse_timers(text).unwrap();
        assert_eq!(timers.len(), 3);
        assert_eq!(timers[1].thread, Some(9));
        assert_eq!((timers[1].value, timers[1].clock), (0x7ffe_1234_5678, -6));
        assert_eq!(timers[2].notify, 1);
        assert!(parse_timers("nonsense\n").is_none());
    }
}
