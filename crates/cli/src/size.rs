//! Sizes as CRIU takes them.

/// A number of bytes, with K, M or G behind it for powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    const UNITS: [([char; 2], u32); 3] = [(['k', 'K'], 10), (['m', 'M'], 20), (['g', 'G'], 30)];
    let with_unit =
        UNITS.iter().find_map(|(unit, shift)| text.strip_suffix(*unit).map(|number| (number, *shift)));
    let (number, shift) = with_unit.unwrap_or((text, 0));
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "not a number of bytes, which may end with K, M or G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units() {
        for (text, bytes) in [("0", 0), ("8M", 8 << 20), ("3k", 3072), ("2G", 2 << 30), ("4096", 4096)] {
            assert_eq!(parse(text), Ok(bytes));
        }
        for wrong in ["", "K", "-1", "8MM", "8 M", "1.5G", "99999999999G"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
