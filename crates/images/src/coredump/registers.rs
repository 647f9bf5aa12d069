//! Registers of a thread in the layouts of notes.

use super::elf::Fields;
use crate::proto::{UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry};

/// General registers, in the order of `user_regs_struct`.
pub(super) fn general(r: &UserX86RegsEntry) -> Vec<u8> {
    let order = [
        r.r15, r.r14, r.r13, r.r12, r.bp, r.bx, r.r11, r.r10, r.r9, r.r8, r.ax, r.cx, r.dx, r.si, r.di,
        r.orig_ax, r.ip, r.cs, r.flags, r.sp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ];
    order.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// x87 and SSE registers, as FXSAVE stores them.
pub(super) fn floating(r: &UserX86FpregsEntry) -> Vec<u8> {
    let half = |value: u32| u16::try_from(value & 0xffff).unwrap_or(0);
    let fields = Fields::default().u16(half(r.cwd)).u16(half(r.swd)).u16(half(r.twd)).u16(half(r.fop));
    let fields = fields.u64(r.rip).u64(r.rdp).u32(r.mxcsr).u32(r.mxcsr_mask);
    fields.sized(&words(&r.st_space), 128).sized(&words(&r.xmm_space), 256).zeros(96).0
}

/// Where the enabled parts are told: debuggers look there for XCR0.
const XCR0: usize = 464;
/// Behind the legacy area and the header.
const XSTATE_MIN: usize = 576;

/// All extended registers, as XSAVE stores them. Parts lie where Intel's processors have them, which debuggers tell from the
/// size; the image does not say where the dumping processor had them.
pub(super) fn extended(r: &UserX86FpregsEntry, xsave: &UserX86XsaveEntry) -> Vec<u8> {
    const X87_SSE: u64 = 0b11;
    let parts: [(u64, usize, usize, Vec<u8>); 7] = [
        (2, 576, 256, words(&xsave.ymmh_space)),
        (3, 960, 64, longs(&xsave.bndreg_state)),
        (4, 1024, 64, longs(&xsave.bndcsr_state)),
        (5, 1088, 64, longs(&xsave.opmask_reg)),
        (6, 1152, 512, longs(&xsave.zmm_upper)),
        (7, 1664, 1024, longs(&xsave.hi16_zmm)),
        (9, 2688, 8, words(&xsave.pkru)),
    ];
    let mut area = floating(r);
    area.resize(XSTATE_MIN, 0);
    let mut enabled = X87_SSE;
    for (bit, offset, size, bytes) in &parts {
        if bytes.is_empty() {
            continue;
        }
        enabled |= 1 << bit;
        area.resize(area.len().max(offset + size), 0);
        for (to, from) in area.iter_mut().skip(*offset).take(*size).zip(bytes) {
            *to = *from;
        }
    }
    let mut put = |at: usize, value: u64| {
        for (to, from) in area.iter_mut().skip(at).zip(value.to_le_bytes()) {
            *to = from;
        }
    };
    put(XCR0, enabled);
    put(512, xsave.xstate_bv & enabled);
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_in_their_places() {
        let mut fp = UserX86FpregsEntry { cwd: 0x37f, mxcsr: 0x1f80, ..Default::default() };
        fp.st_space = vec![0xaa; 32];
        fp.xmm_space = vec![0xbb; 64];
        let area = floating(&fp);
        assert_eq!(area.len(), 512);
        assert_eq!((area[0], area[24], area[32], area[160]), (0x7f, 0x80, 0xaa, 0xbb));
        let xsave = UserX86XsaveEntry { xstate_bv: u64::MAX, ymmh_space: vec![7; 64], ..Default::default() };
        let area = extended(&fp, &xsave);
        assert_eq!(area.len(), 832);
        assert_eq!((area[464], area[512], area[576]), (0b111, 0b111, 7));
        let xsave = UserX86XsaveEntry { pkru: vec![5, 0], ..xsave };
        assert_eq!(extended(&fp, &xsave).len(), 2696);
    }
}
