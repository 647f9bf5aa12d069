//! What several targets need.

use std::path::Path;
use std::sync::OnceLock;

/// A directory in memory, made when it is first asked for.
#[derive(Debug)]
pub struct Scratch(OnceLock<tempfile::TempDir>);

impl Scratch {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        let make = || {
            let shared = Path::new("/dev/shm");
            if shared.is_dir() {
                // Also for what the library unpacks.
                tempfile::env::override_temp_dir(shared).unwrap();
            }
            tempfile::tempdir().unwrap()
        };
        self.0.get_or_init(make).path()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Two pieces of what the fuzzer gives: the first two bytes say how long the first one is.
#[must_use]
pub fn pieces(data: &[u8]) -> [&[u8]; 2] {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return [data, &[]] };
    let (first, second) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    [first, second]
}
