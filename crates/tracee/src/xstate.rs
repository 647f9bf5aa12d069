//! Where the parts of the extended state lie in the XSAVE area, as the processor says.

use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::OnceLock;

/// A part of the extended state; the value is its bit in `xstate_bv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum XstatePart {
    /// Upper halves of the 16 ymm registers.
    Ymm = 2,
    /// MPX bound registers.
    BndRegs = 3,
    /// MPX configuration and status.
    BndCsr = 4,
    /// The eight AVX-512 mask registers.
    Opmask = 5,
    /// Upper halves of zmm0 to zmm15.
    ZmmUpper = 6,
    /// zmm16 to zmm31.
    Zmm16 = 7,
    /// Protection key rights.
    Pkru = 9,
}

impl XstatePart {
    /// Every part this module knows.
    pub const ALL: [Self; 7] =
        [Self::Ymm, Self::BndRegs, Self::BndCsr, Self::Opmask, Self::ZmmUpper, Self::Zmm16, Self::Pkru];

    /// Its bit in `xstate_bv`.
    #[must_use]
    pub fn bit(self) -> u64 {
        1 << (self as u32)
    }

    /// Its bytes in the area, `None` if this processor does not have it. CPUID leaf 0xd.
    #[must_use]
    pub fn range(self) -> Option<Range<usize>> {
        // The answer never changes, and in a virtual machine each question costs tens of microseconds.
        static RANGES: [OnceLock<Option<Range<usize>>>; 10] = [const { OnceLock::new() }; 10];
        RANGES.get(self as usize)?.get_or_init(|| self.ask()).clone()
    }

    fn ask(self) -> Option<Range<usize>> {
        let leaf = __cpuid_count(0xd, self as u32);
        let (size, offset) = (usize::try_from(leaf.eax).ok()?, usize::try_from(leaf.ebx).ok()?);
        (size > 0).then(|| offset..offset + size)
    }
}

/// Where `xstate_bv` lies: the word that says which parts are not in their initial state.
pub const XSTATE_BV: Range<usize> = 512..520;
/// Size of the area without any part: the legacy area of FXSAVE and the header.
pub const XSTATE_MIN: usize = 576;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap() {
        let mut ranges: Vec<_> = XstatePart::ALL.into_iter().filter_map(XstatePart::range).collect();
        ranges.sort_by_key(|r| r.start);
        assert!(ranges.first().is_none_or(|r| r.start >= XSTATE_MIN));
        assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start), "{ranges:?}");
    }
}
