//! The bytes of an archive, decompressed.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{ImageError, Result};

/// Opens the archive at `path`, and decompresses it as its first bytes ask.
pub(super) fn open(path: &Path) -> Result<tar::Archive<Box<dyn Read>>> {
    let io = |action| ImageError::io(path, action);
    let mut file = File::open(path).map_err(io("open"))?;
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic).map_err(io("read"))?;
    file.seek(SeekFrom::Start(0)).map_err(io("seek"))?;
    let file = BufReader::with_capacity(256 << 10, file);
    let input: Box<dyn Read> = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(file);
            Box::new(decoder.map_err(|error| io("decompress")(std::io::Error::other(error)))?)
        }
        _ => Box::new(file),
    };
    Ok(tar::Archive::new(input))
}
