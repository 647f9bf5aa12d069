//! Extended processor state: from the XSAVE area to the image.

use rewake_images::proto::{UserX86CetEntry, UserX86FpregsEntry, UserX86XsaveEntry};
use rewake_tracee::{XSTATE_BV, XSTATE_MIN, XstatePart};

/// Bits of `xstate_bv` the format has a place for: x87 and SSE, and the known parts.
fn known_bits() -> u64 {
    XstatePart::ALL.iter().fold(0b11, |bits, part| bits | part.bit())
}

/// The image of an XSAVE area in the standard layout.
///
/// # Errors
/// What cannot be kept: the bits of parts (AMX tiles and the like) that are in use and have no place in the format.
pub(crate) fn image_of(xstate: &[u8]) -> Result<UserX86FpregsEntry, u64> {
    let area = Area(xstate);
    let mut image = UserX86FpregsEntry {
        cwd: area.u16(0),
        swd: area.u16(2),
        twd: area.u16(4),
        fop: area.u16(6),
        rip: area.u64(8),
        rdp: area.u64(16),
        mxcsr: area.u32(24),
        mxcsr_mask: area.u32(28),
        st_space: area.words(32..160),
        xmm_space: area.words(160..416),
        padding: Vec::new(),
        xsave: None,
    };
    if xstate.len() >= XSTATE_MIN {
        let xstate_bv = area.u64(XSTATE_BV.start);
        if xstate_bv & !known_bits() != 0 {
            return Err(xstate_bv & !known_bits());
        }
        image.xsave = Some(parts(&area, xstate_bv));
    }
    Ok(image)
}

fn parts(area: &Area<'_>, xstate_bv: u64) -> UserX86XsaveEntry {
    let words = |part: XstatePart| part.range().map(|range| area.words(range)).unwrap_or_default();
    let longs = |part: XstatePart| part.range().map(|range| area.longs(range)).unwrap_or_default();
    UserX86XsaveEntry {
        xstate_bv,
        ymmh_space: words(XstatePart::Ymm),
        bndreg_state: longs(XstatePart::BndRegs),
        bndcsr_state: longs(XstatePart::BndCsr),
        opmask_reg: longs(XstatePart::Opmask),
        zmm_upper: longs(XstatePart::ZmmUpper),
        hi16_zmm: longs(XstatePart::Zmm16),
        pkru: words(XstatePart::Pkru),
        cet: Some(UserX86CetEntry { cet: 0, ssp: 0 }),
    }
}

/// Little-endian numbers in an area; zero beyond its end.
struct Area<'a>(&'a [u8]);

impl Area<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.0.get(at..).and_then(|rest| rest.first_chunk());
        found.copied().unwrap_or([0; N])
    }

    fn u16(&self, at: usize) -> u32 {
        u32::from(u16::from_le_bytes(self.bytes(at)))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    fn words(&self, range: std::ops::Range<usize>) -> Vec<u32> {
        range.step_by(4).map(|at| self.u32(at)).collect()
    }

    fn longs(&self, range: std::ops::Range<usize>) -> Vec<u64> {
        range.step_by(8).map(|at| self.u64(at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_parts_in_use_are_refused() {
        let mut area = vec![0; 8192];
        area[0] = 0x7f;
        area[1] = 0x03;
        area[512] = 0b111;
        let image = image_of(&area).unwrap();
        assert_eq!(image.cwd, 0x37f);
        assert_eq!((image.st_space.len(), image.xmm_space.len()), (32, 64));
        area[514] = 0b110; // bits 17 and 18: AMX
        assert_eq!(image_of(&area).unwrap_err(), 0b110 << 16);
    }
}
