//! What is particular to x86-64: registers, the system call convention, the batch runner.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// General registers in the order of the kernel's `struct user_regs_struct` (regset `NT_PRSTATUS`).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = assert!(size_of::<Regs>() == 27 * 8);

/// Length of the `syscall` instruction.
pub(crate) const SYSCALL_LEN: u64 = 2;
/// The `syscall` instruction.
pub(crate) const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Runs the table from rbx to r12, 64 bytes an entry `{nr, args[6], ret}`, and traps. Uses no stack.
pub(crate) const RUNNER: [u8; 43] = [
    0x48, 0x8b, 0x03, // mov rax,[rbx]
    0x48, 0x8b, 0x7b, 0x08, // mov rdi,[rbx+8]
    0x48, 0x8b, 0x73, 0x10, // mov rsi,[rbx+16]
    0x48, 0x8b, 0x53, 0x18, // mov rdx,[rbx+24]
    0x4c, 0x8b, 0x53, 0x20, // mov r10,[rbx+32]
    0x4c, 0x8b, 0x43, 0x28, // mov r8,[rbx+40]
    0x4c, 0x8b, 0x4b, 0x30, // mov r9,[rbx+48]
    0x0f, 0x05, // syscall
    0x48, 0x89, 0x43, 0x38, // mov [rbx+56],rax
    0x48, 0x83, 0xc3, 0x40, // add rbx,64
    0x4c, 0x39, 0xe3, // cmp rbx,r12
    0x75, 0xd6, // jne 0
    0xcc, // int3
];

/// Where the runner has its `syscall` instruction.
pub(crate) const RUNNER_SYSCALL: u64 = 0x1b;

/// Not in a system call: the kernel's restart logic must not touch the registers.
pub(crate) const NO_SYSCALL: u64 = u64::MAX;

/// 64-bit user code segment.
pub const USER_CS_64: u64 = 0x33;

impl Regs {
    /// These registers, about to execute the `syscall` instruction at `ip`.
    pub(crate) fn for_syscall(mut self, ip: u64, nr: i64, args: [u64; 6]) -> Self {
        let [di, si, dx, r10, r8, r9] = args;
        self.ax = nr.cast_unsigned();
        (self.di, self.si, self.dx, self.r10, self.r8, self.r9) = (di, si, dx, r10, r8, r9);
        self.ip = ip;
        self.orig_ax = NO_SYSCALL;
        self
    }

    /// These registers, about to run the table `start..end` with the runner at `ip`.
    pub(crate) fn for_runner(mut self, ip: u64, start: u64, end: u64) -> Self {
        (self.bx, self.r12) = (start, end);
        self.ip = ip;
        self.orig_ax = NO_SYSCALL;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_has_its_instruction_there() {
        let at = usize::try_from(RUNNER_SYSCALL).unwrap();
        assert_eq!(RUNNER[at..at + SYSCALL.len()], SYSCALL);
    }
}
