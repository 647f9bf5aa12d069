//! Extended processor state: from the image to the XSAVE area.

use rewake_images::proto::UserX86FpregsEntry;
use rewake_tracee::{XSTATE_BV, XSTATE_MIN, XstatePart};
use zerocopy::IntoBytes;

/// The XSAVE area of an image, laid out for this processor. `own` is any area of this processor: its length and the words
/// only the kernel knows are taken from it.
///
/// # Errors
/// What the image holds and this processor lacks.
pub(crate) fn area_of(image: &UserX86FpregsEntry, own: &[u8]) -> Result<Vec<u8>, String> {
    let mut area = own.to_vec();
    let mut put = |at: usize, bytes: &[u8]| -> Result<(), String> {
        let place = at.checked_add(bytes.len()).and_then(|end| area.get_mut(at..end));
        let place = place.ok_or("its extended state is longer than this processor's")?;
        place.copy_from_slice(bytes);
        Ok(())
    };
    let short = |word: u32| word.to_le_bytes();
    put(0, short(image.cwd).get(..2).unwrap_or_default())?;
    put(2, short(image.swd).get(..2).unwrap_or_default())?;
    put(4, short(image.twd).get(..2).unwrap_or_default())?;
    put(6, short(image.fop).get(..2).unwrap_or_default())?;
    put(8, image.rip.as_bytes())?;
    put(16, image.rdp.as_bytes())?;
    put(24, image.mxcsr.as_bytes())?;
    put(32, sized(&image.st_space, 32, "st_space")?)?;
    put(160, sized(&image.xmm_space, 64, "xmm_space")?)?;
    let Some(xsave) = &image.xsave else {
        const LEGACY: u64 = 0b11;
        return if own.len() >= XSTATE_MIN {
            put(XSTATE_BV.start, LEGACY.as_bytes()).map(|()| area)
        } else {
            Ok(area)
        };
    };
    let parts: [(XstatePart, &[u8]); 7] = [
        (XstatePart::Ymm, xsave.ymmh_space.as_bytes()),
        (XstatePart::BndRegs, xsave.bndreg_state.as_bytes()),
        (XstatePart::BndCsr, xsave.bndcsr_state.as_bytes()),
        (XstatePart::Opmask, xsave.opmask_reg.as_bytes()),
        (XstatePart::ZmmUpper, xsave.zmm_upper.as_bytes()),
        (XstatePart::Zmm16, xsave.hi16_zmm.as_bytes()),
        (XstatePart::Pkru, xsave.pkru.as_bytes()),
    ];
    let mut known = 0b11;
    for (part, bytes) in parts {
        let Some(range) = part.range() else { continue };
        known |= part.bit();
        let len = bytes.len().min(range.len());
        put(range.start, bytes.get(..len).unwrap_or_default())?;
    }
    let lacking = xsave.xstate_bv & !known;
    if lacking != 0 {
        return Err(format!("it uses processor state this machine lacks (parts {lacking:#x})"));
    }
    put(XSTATE_BV.start, xsave.xstate_bv.as_bytes())?;
    Ok(area)
}

fn sized<'a>(words: &'a [u32], len: usize, name: &str) -> Result<&'a [u8], String> {
    if words.len() == len { Ok(words.as_bytes()) } else { Err(format!("{} words of {name}", words.len())) }
}
