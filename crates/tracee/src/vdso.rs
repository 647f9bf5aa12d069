//! A `syscall` instruction the task has anyway.

use std::ops::Range;

use nix::unistd::Pid;

use crate::arch::SYSCALL;
use crate::error::{Result, TraceeError};
use crate::mem::TaskMem;

/// Address of a `syscall` instruction in the vdso.
pub(crate) fn find_syscall(pid: Pid, mem: &TaskMem) -> Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    let maps = maps.map_err(TraceeError::proc(pid, "read", "maps"))?;
    let (start, end) = vdso_range(&maps).ok_or(TraceeError::NoVdso { pid })?;
    find_syscall_in(pid, mem, start..end)
}

/// As [`find_syscall`], of a process whose vdso is at `vdso`.
pub(crate) fn find_syscall_in(pid: Pid, mem: &TaskMem, vdso: Range<u64>) -> Result<u64> {
    let len = vdso.end.checked_sub(vdso.start).and_then(|len| usize::try_from(len).ok());
    let mut code = vec![0; len.ok_or(TraceeError::NoVdso { pid })?];
    mem.read(vdso.start, &mut code)?;
    find_instruction(&code).map(|at| vdso.start + at).ok_or(TraceeError::NoVdso { pid })
}

fn vdso_range(maps: &str) -> Option<(u64, u64)> {
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, rest) = line.split_once('-')?;
    let (end, _) = rest.split_once(' ')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Offset of a `syscall` instruction in code. Any two such bytes do, wherever an instruction may have begun.
#[must_use]
pub fn find_instruction(code: &[u8]) -> Option<u64> {
    code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL).map(|at| at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_the_vdso() {
        let maps =
            "7f00-7f10 r--p 00000000 00:00 0  [vvar]\n7ffe1000-7ffe3000 r-xp 00000000 00:00 0  [vdso]\n";
        assert_eq!(vdso_range(maps), Some((0x7ffe_1000, 0x7ffe_3000)));
        assert_eq!(vdso_range("7f00-7f10 r--p 00000000 00:00 0 /x\n"), None);
    }

    #[test]
    fn instruction_anywhere() {
        assert_eq!(find_instruction(&[0x90, 0x0f, 0x0f, 0x05, 0xc3]), Some(2));
        assert_eq!(find_instruction(&[0x0f]), None);
    }
}
