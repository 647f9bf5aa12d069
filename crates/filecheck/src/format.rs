//! Cookies in `reg_file_entry`, where CRIU finds and checks them too.
//!
//! # Source
//!
//! Fields `size`, `mode`, `build_id`, `checksum`, `checksum_config`, `checksum_parameter` of `reg_file_entry`. What the
//! format has no place for is kept by [`own`](crate::own).

use rewake_images::proto::RegFileEntry;

use crate::build_id::BuildId;
use crate::cookie::{Cookie, compares_size};
use crate::crc::{Crc32c, CrcMode};
use crate::error::Result;

/// Writes the cookie into the entry, whose `flags` decide whether the size belongs there. Fields the cookie has nothing
/// for are cleared.
pub fn store(cookie: &Cookie, entry: &mut RegFileEntry) {
    entry.mode = cookie.mode;
    entry.size = cookie.size.filter(|_| compares_size(entry.flags));
    entry.build_id = cookie.build_id.as_ref().map(BuildId::to_words).unwrap_or_default();
    entry.checksum = cookie.checksum.map(|checksum| checksum.value);
    let config = cookie.checksum.map(|checksum| checksum.mode.to_format());
    entry.checksum_config = config.map(|(config, _)| config);
    entry.checksum_parameter = config.map(|(_, parameter)| parameter);
}

/// Reads the cookie of an entry.
///
/// # Errors
///
/// [`CookieError::ChecksumConfig`](crate::CookieError::ChecksumConfig) when there is a checksum that nobody can
/// calculate again.
pub fn load(entry: &RegFileEntry) -> Result<Cookie> {
    let checksum = match (entry.checksum, entry.checksum_config) {
        (Some(value), Some(config)) => {
            Some(Crc32c { mode: CrcMode::from_format(config, entry.checksum_parameter)?, value })
        }
        _ => None,
    };
    Ok(Cookie {
        size: entry.size,
        mode: entry.mode,
        build_id: BuildId::from_words(&entry.build_id),
        checksum,
        ..Cookie::default()
    })
}
