//! Path patterns: any text parses or is refused, and matching ends.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rewake_filecheck::glob::Glob;

fuzz_target!(|data: (&str, &[u8])| {
    let (pattern, path) = data;
    if let Ok(glob) = pattern.parse::<Glob>() {
        let _ = glob.fits(Path::new(OsStr::from_bytes(path)));
        assert_eq!(glob.to_string(), pattern);
    }
});
