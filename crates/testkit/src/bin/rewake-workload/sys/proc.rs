//! What /proc says about this process.

use std::{collections::BTreeMap, fs};

use crate::stage::{At, Check, Failure, ensure_eq};

/// One mapping, as far as it must be the same after a restore.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: String,
    pub(crate) offset: u64,
    /// Device and inode; of memory without a name on disk they may change.
    pub(crate) file: String,
    pub(crate) name: String,
}

/// All mappings, neighbours of the same kind joined: whether the kernel keeps those apart is its own affair.
pub(crate) fn mappings() -> Result<Vec<Mapping>, Failure> {
    let text = fs::read_to_string("/proc/self/maps").at("read maps")?;
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mapping = parse(line).ok_or_else(|| Failure::new(format!("maps line {line:?}")))?;
        match all.last_mut() {
            Some(last) if joined(last, &mapping) => last.end = mapping.end,
            _ => all.push(mapping),
        }
    }
    Ok(all)
}

fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?.to_owned();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut file = format!("{} {}", words.next()?, words.next()?);
    let name = words.collect::<Vec<_>>().join(" ");
    // CRIU brings shared anonymous memory back as a memfd of that name.
    let name = name.replace("/memfd:/dev/zero (deleted)", "/dev/zero (deleted)");
    if ["/dev/zero (deleted)", "/memfd:", "/SYSV"].iter().any(|kind| name.starts_with(kind)) {
        file.clear();
    }
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    Some(Mapping { start, end, permissions, offset, file, name })
}

fn joined(last: &Mapping, next: &Mapping) -> bool {
    let anonymous = last.file == "00:00 0" && last.offset == 0 && next.offset == 0;
    let continued = anonymous || last.offset + (last.end - last.start) == next.offset;
    last.end == next.start
        && last.permissions == next.permissions
        && last.file == next.file
        && last.name == next.name
        && continued
}

/// Checks that the mappings are those of before. The heap and the stack may have grown since.
pub(crate) fn check_mappings(before: &[Mapping]) -> Check {
    let strip = |mappings: &[Mapping]| -> Vec<Mapping> {
        let mut mappings = mappings.to_vec();
        for mapping in &mut mappings {
            match mapping.name.as_str() {
                "[heap]" => mapping.end = 0,
                "[stack]" => mapping.start = 0,
                _ => {}
            }
        }
        mappings
    };
    let (before, now) = (strip(before), strip(&mappings()?));
    for mapping in &before {
        let same_place = now.iter().find(|other| other.start == mapping.start && other.name == mapping.name);
        ensure_eq!(same_place, Some(mapping), "mapping");
    }
    let added: Vec<_> = now.iter().filter(|mapping| !before.contains(mapping)).collect();
    ensure_eq!(added.len(), 0, "additional mappings {added:?}");
    Ok(())
}

/// VmFlags of every mapping by its start, without those that say how pages are tracked and whether they are accounted
/// for (which of memory that was writable once and is not any more depends on its history).
pub(crate) fn vm_flags() -> Result<BTreeMap<u64, String>, Failure> {
    let text = fs::read_to_string("/proc/self/smaps").at("read smaps")?;
    let (mut start, mut all) = (0, BTreeMap::new());
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let kept: Vec<&str> =
                flags.split_ascii_whitespace().filter(|flag| !["sd", "ac"].contains(flag)).collect();
            all.insert(start, kept.join(" "));
        } else if let Some(address) =
            line.split('-').next().and_then(|word| u64::from_str_radix(word, 16).ok())
        {
            start = address;
        }
    }
    Ok(all)
}

/// The value of one line of a `key: value` file.
pub(crate) fn field(path: &str, key: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(path).at(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.map(|value| value.trim().to_owned()).ok_or_else(|| Failure::new(format!("{path} has no {key}")))
}

/// One line of /proc/self/status.
pub(crate) fn status(key: &str) -> Result<String, Failure> {
    field("/proc/self/status", key)
}

/// A file whole, without the newline at its end.
pub(crate) fn text(path: &str) -> Result<String, Failure> {
    Ok(fs::read_to_string(path).at(path)?.trim_end().to_owned())
}

/// Waits until another thread of this process is blocked in the given system call.
pub(crate) fn await_syscall(tid: i32, number: libc::c_long) -> Check {
    let path = format!("/proc/self/task/{tid}/syscall");
    let begin = format!("{number} ");
    while !fs::read_to_string(&path).at(&path)?.starts_with(&begin) {
        std::thread::yield_now();
    }
    Ok(())
}
