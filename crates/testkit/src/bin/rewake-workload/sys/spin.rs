//! Threads that hold registers full of known values: load, spin, store.
//!
//! One function per generation of vector registers, as C functions: all vector registers are the callee's to use.

use std::{arch::global_asm, sync::atomic::AtomicU32};

// ZMM 0 to 31 and mask registers 1 to 7.
global_asm!(
    r".global rewake_spin_avx512",
    r"rewake_spin_avx512:",
    r"push rbx",
    r"push rbp",
    r"push r12",
    r"push r13",
    r"push r14",
    r"push r15",
    r"sub rsp, 16",
    r"stmxcsr [rsp]",
    r"fnstcw [rsp + 4]",
    r"ldmxcsr [rdx]",
    r"fldcw [rdx + 4]",
    r"fldpi",
    r".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    r"vmovdqu64 zmm\n, [rsi + 64*\n]",
    r".endr",
    r".irp n,1,2,3,4,5,6,7",
    r"kmovw k\n, [rsi + 2048 + 8*\n]",
    r".endr",
    r"mov rbx, [rdi + 0]",
    r"mov rbp, [rdi + 8]",
    r"mov r12, [rdi + 16]",
    r"mov r13, [rdi + 24]",
    r"mov r14, [rdi + 32]",
    r"mov r15, [rdi + 40]",
    r"mov r8, [rdi + 48]",
    r"mov r9, [rdi + 56]",
    r"mov dword ptr [rcx], 1",
    r"2: pause",
    r"cmp dword ptr [rcx], 2",
    r"jne 2b",
    r"mov [rdi + 0], rbx",
    r"mov [rdi + 8], rbp",
    r"mov [rdi + 16], r12",
    r"mov [rdi + 24], r13",
    r"mov [rdi + 32], r14",
    r"mov [rdi + 40], r15",
    r"mov [rdi + 48], r8",
    r"mov [rdi + 56], r9",
    r".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    r"vmovdqu64 [rsi + 64*\n], zmm\n",
    r".endr",
    r".irp n,1,2,3,4,5,6,7",
    r"kmovw [rsi + 2048 + 8*\n], k\n",
    r".endr",
    r"stmxcsr [rdx]",
    r"fnstcw [rdx + 4]",
    r"fstp qword ptr [rdx + 8]",
    r"ldmxcsr [rsp]",
    r"fldcw [rsp + 4]",
    r"vzeroupper",
    r"add rsp, 16",
    r"pop r15",
    r"pop r14",
    r"pop r13",
    r"pop r12",
    r"pop rbp",
    r"pop rbx",
    r"ret",
);

// YMM 0 to 15.
global_asm!(
    r".global rewake_spin_avx",
    r"rewake_spin_avx:",
    r"push rbx",
    r"push rbp",
    r"push r12",
    r"push r13",
    r"push r14",
    r"push r15",
    r"sub rsp, 16",
    r"stmxcsr [rsp]",
    r"fnstcw [rsp + 4]",
    r"ldmxcsr [rdx]",
    r"fldcw [rdx + 4]",
    r"fldpi",
    r".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    r"vmovdqu ymm\n, [rsi + 32*\n]",
    r".endr",
    r"mov rbx, [rdi + 0]",
    r"mov rbp, [rdi + 8]",
    r"mov r12, [rdi + 16]",
    r"mov r13, [rdi + 24]",
    r"mov r14, [rdi + 32]",
    r"mov r15, [rdi + 40]",
    r"mov r8, [rdi + 48]",
    r"mov r9, [rdi + 56]",
    r"mov dword ptr [rcx], 1",
    r"2: pause",
    r"cmp dword ptr [rcx], 2",
    r"jne 2b",
    r"mov [rdi + 0], rbx",
    r"mov [rdi + 8], rbp",
    r"mov [rdi + 16], r12",
    r"mov [rdi + 24], r13",
    r"mov [rdi + 32], r14",
    r"mov [rdi + 40], r15",
    r"mov [rdi + 48], r8",
    r"mov [rdi + 56], r9",
    r".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    r"vmovdqu [rsi + 32*\n], ymm\n",
    r".endr",
    r"stmxcsr [rdx]",
    r"fnstcw [rdx + 4]",
    r"fstp qword ptr [rdx + 8]",
    r"ldmxcsr [rsp]",
    r"fldcw [rsp + 4]",
    r"vzeroupper",
    r"add rsp, 16",
    r"pop r15",
    r"pop r14",
    r"pop r13",
    r"pop r12",
    r"pop rbp",
    r"pop rbx",
    r"ret",
);

// XMM 0 to 15.
global_asm!(
    r".global rewake_spin_sse",
    r"rewake_spin_sse:",
    r"push rbx",
    r"push rbp",
    r"push r12",
    r"push r13",
    r"push r14",
    r"push r15",
    r"sub rsp, 16",
    r"stmxcsr [rsp]",
    r"fnstcw [rsp + 4]",
    r"ldmxcsr [rdx]",
    r"fldcw [rdx + 4]",
    r"fldpi",
    r".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    r"movdqu xmm\n, [rsi + 16*\n]",
    r".endr",
    r"mov rbx, [rdi + 0]",
    r"mov rbp, [rdi + 8]",
    r"mov r12, [rdi + 16]",
    r"mov r13, [rdi + 24]",
    r"mov r14, [rdi + 32]",
    r"mov r15, [rdi + 40]",
    r"mov r8, [rdi + 48]",
    r"mov r9, [rdi + 56]",
    r"mov dword ptr [rcx], 1",
    r"2: pause",
    r"cmp dword ptr [rcx], 2",
    r"jne 2b",
    r"mov [rdi + 0], rbx",
    r"mov [rdi + 8], rbp",
    r"mov [rdi + 16], r12",
    r"mov [rdi + 24], r13",
    r"mov [rdi + 32], r14",
    r"mov [rdi + 40], r15",
    r"mov [rdi + 48], r8",
    r"mov [rdi + 56], r9",
    r".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    r"movdqu [rsi + 16*\n], xmm\n",
    r".endr",
    r"stmxcsr [rdx]",
    r"fnstcw [rdx + 4]",
    r"fstp qword ptr [rdx + 8]",
    r"ldmxcsr [rsp]",
    r"fldcw [rsp + 4]",
    r"add rsp, 16",
    r"pop r15",
    r"pop r14",
    r"pop r13",
    r"pop r12",
    r"pop rbp",
    r"pop rbx",
    r"ret",
);

/// Control words and one value on the x87 stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Controls {
    pub(crate) mxcsr: u32,
    pub(crate) x87: u16,
    pub(crate) top: f64,
}

type Spin = unsafe extern "C" fn(*mut u64, *mut u8, *mut Controls, *mut u32);

unsafe extern "C" {
    fn rewake_spin_avx512(general: *mut u64, vectors: *mut u8, controls: *mut Controls, phase: *mut u32);
    fn rewake_spin_avx(general: *mut u64, vectors: *mut u8, controls: *mut Controls, phase: *mut u32);
    fn rewake_spin_sse(general: *mut u64, vectors: *mut u8, controls: *mut Controls, phase: *mut u32);
}

/// Bytes of vectors that the widest registers take.
pub(crate) const VECTORS: usize = 32 * 64 + 64;

/// Loads the registers, sets the phase to 1, spins until it is 2, and stores the registers back.
pub(crate) fn spin(
    general: &mut [u64; 8],
    vectors: &mut [u8; VECTORS],
    controls: &mut Controls,
    phase: &AtomicU32,
) {
    let widest: Spin = if std::arch::is_x86_feature_detected!("avx512f") {
        rewake_spin_avx512
    } else if std::arch::is_x86_feature_detected!("avx") {
        rewake_spin_avx
    } else {
        rewake_spin_sse
    };
    // SAFETY: the processor has these registers, the buffers are as large as they need, and callee-saved registers
    // and control words come back as they were.
    unsafe { widest(general.as_mut_ptr(), vectors.as_mut_ptr(), controls, phase.as_ptr()) }
}
