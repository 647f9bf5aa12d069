//! Reading `/proc/PID/smaps` and `/proc/PID/maps`.

use std::ffi::OsString;
use std::fs::File;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::ahead::read_ahead;
use crate::area::{Area, AreaKind};
use crate::error::{CaptureError, is_gone};
use crate::vmflags::{Prot, VmFlags};

/// The mappings of `pid` with their flags, ascending, from `/proc/PID/smaps`.
///
/// The kernel walks every populated page for this, about 14 ms per GiB: read it before the task is frozen and compare
/// with [`maps`] afterwards. The list of a running task may be torn between two of its system calls.
///
/// # Errors
/// [`CaptureError::Died`], [`CaptureError::NoMemory`] for kernel threads and zombies, [`CaptureError::Proc`] without
/// permission.
pub fn areas(pid: Pid) -> Result<Vec<Area>, CaptureError> {
    read_list(pid, "smaps")
}

/// The mappings of `pid` without their flags, ascending, from `/proc/PID/maps`: under a microsecond per area.
///
/// # Errors
/// As [`areas`].
pub fn maps(pid: Pid) -> Result<Vec<Area>, CaptureError> {
    read_list(pid, "maps")
}

fn read_list(pid: Pid, name: &str) -> Result<Vec<Area>, CaptureError> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(source) => return Err(CaptureError::proc(pid, path, source)),
    };
    let areas = read_ahead(file, |text| AreaReader::new(text).collect::<Result<Vec<_>, _>>());
    match areas {
        Ok(areas) if areas.is_empty() => Err(CaptureError::NoMemory { pid }),
        Err(CaptureError::MapsRead { source, .. }) if is_gone(&source) => Err(CaptureError::Died { pid }),
        other => other,
    }
}

/// Reads mappings one by one, from smaps or maps, holding no more than one in memory.
#[derive(Debug)]
pub struct AreaReader<R> {
    input: R,
    line: Vec<u8>,
    line_number: u64,
    /// The area whose attribute lines are being read.
    pending: Option<Pending>,
    ended: bool,
}

impl<R: BufRead> AreaReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self { input, line: Vec::with_capacity(256), line_number: 0, pending: None, ended: false }
    }

    /// Reads lines until an area is complete. `None` at the end.
    fn read_area(&mut self) -> Result<Option<Area>, CaptureError> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let read = self.input.read_until(b'\n', &mut self.line);
            let read = read.map_err(|source| CaptureError::MapsRead { line: self.line_number, source })?;
            if read == 0 {
                return Ok(self.pending.take().map(Pending::finish));
            }
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            // Headers start with an address, attributes with a capital letter.
            if line.first().is_some_and(u8::is_ascii_uppercase) {
                let Some(pending) = self.pending.as_mut() else {
                    return Err(self.malformed("an attribute before the first mapping"));
                };
                if let Err(problem) = pending.attribute(line) {
                    return Err(self.malformed(problem));
                }
                continue;
            }
            let next = match header(line) {
                Ok(next) => next,
                Err(problem) => return Err(self.malformed(problem)),
            };
            if let Some(done) = self.pending.replace(next) {
                return Ok(Some(done.finish()));
            }
        }
    }

    fn malformed(&self, problem: &'static str) -> CaptureError {
        CaptureError::Malformed { line: self.line_number, problem }
    }
}

impl<R: BufRead> Iterator for AreaReader<R> {
    type Item = Result<Area, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read_area().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// An area whose kind is still open, because the flags come last.
#[derive(Debug)]
struct Pending {
    area: Area,
    kind_by_name: Option<AreaKind>,
}

impl Pending {
    fn attribute(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            self.area.vm_flags = VmFlags::parse(flags);
        } else if let Some(key) = line.strip_prefix(b"ProtectionKey:") {
            self.area.protection_key =
                decimal(key.trim_ascii()).ok_or("the protection key is not a number")?;
        }
        Ok(())
    }

    fn finish(self) -> Area {
        let mut area = self.area;
        area.kind = self.kind_by_name.unwrap_or_else(|| area.kind_by_file());
        area
    }
}

/// Parses `START-END PERMS OFFSET MAJ:MIN INODE   NAME`.
fn header(line: &[u8]) -> Result<Pending, &'static str> {
    let mut rest = line;
    let (start, end) = split_at_byte(word(&mut rest), b'-').ok_or("no address range")?;
    let start = hex(start).ok_or("the start address is not a number")?;
    let end = hex(end).ok_or("the end address is not a number")?;
    if start >= end {
        return Err("the range is empty");
    }
    let (prot, shared) = permissions(word(&mut rest)).ok_or("the permissions are unknown")?;
    let offset = hex(word(&mut rest)).ok_or("the file offset is not a number")?;
    let (major, minor) = split_at_byte(word(&mut rest), b':').ok_or("no device number")?;
    let major = hex(major).and_then(|n| u32::try_from(n).ok()).ok_or("the major number is not a number")?;
    let minor = hex(minor).and_then(|n| u32::try_from(n).ok()).ok_or("the minor number is not a number")?;
    let inode = decimal(word(&mut rest)).ok_or("the inode is not a number")?;
    let name = rest.trim_ascii_start();

    let mut area = Area {
        start,
        end,
        prot,
        shared,
        offset,
        dev: (major, minor),
        inode,
        path: None,
        deleted: false,
        anon_name: None,
        vm_flags: VmFlags::empty(),
        protection_key: 0,
        kind: AreaKind::AnonPrivate,
    };
    let mut kind_by_name = None;
    if name.starts_with(b"[") {
        kind_by_name = special_kind(name);
        area.anon_name = given_name(name);
    } else if !name.is_empty() {
        let (name, deleted) = name.strip_suffix(b" (deleted)").map_or((name, false), |name| (name, true));
        area.path = Some(PathBuf::from(OsString::from_vec(unescape(name))));
        area.deleted = deleted;
    }
    Ok(Pending { area, kind_by_name })
}

/// The kind that a bracketed name stands for; `None` for names that programs give.
fn special_kind(name: &[u8]) -> Option<AreaKind> {
    Some(match name {
        b"[heap]" => AreaKind::Heap,
        b"[stack]" => AreaKind::Stack,
        b"[vdso]" => AreaKind::Vdso,
        b"[vsyscall]" => AreaKind::Vsyscall,
        _ if name.starts_with(b"[vvar") => AreaKind::Vvar, // also [vvar_vclock], Linux 6.13
        _ if name.starts_with(b"[anon:") => AreaKind::AnonPrivate,
        _ if name.starts_with(b"[anon_shmem:") => AreaKind::AnonShared,
        _ => AreaKind::Special,
    })
}

fn given_name(name: &[u8]) -> Option<Vec<u8>> {
    let inner = name.strip_suffix(b"]")?;
    let given = inner.strip_prefix(b"[anon:").or_else(|| inner.strip_prefix(b"[anon_shmem:"))?;
    Some(given.to_vec())
}

/// Takes the next word off `rest`, with one space behind it. Empty at the end.
fn word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (word, behind) = split_at_byte(rest, b' ').unwrap_or((rest, b""));
    *rest = behind;
    word
}

fn split_at_byte(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let found = text.iter().position(|&byte| byte == at)?;
    let (before, behind) = text.split_at_checked(found)?;
    Some((before, behind.get(1..)?))
}

fn permissions(text: &[u8]) -> Option<(Prot, bool)> {
    let &[r, w, x, s] = text else { return None };
    let mut prot = Prot::empty();
    for (byte, letter, flag) in [(r, b'r', Prot::READ), (w, b'w', Prot::WRITE), (x, b'x', Prot::EXEC)] {
        if byte == letter {
            prot |= flag;
        } else if byte != b'-' {
            return None;
        }
    }
    match s {
        b'p' => Some((prot, false)),
        b's' => Some((prot, true)),
        _ => None,
    }
}

fn hex(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some((sum << 4) | u64::from(digit))
    })
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None; // no sign
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// Puts newlines back: the only character the kernel escapes here.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = behind;
        } else {
            out.push(first);
            rest = behind;
        }
    }
    out
}

#[cfg(test)]
#[path = "smaps_tests.rs"]
mod tests;
