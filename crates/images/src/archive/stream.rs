//! The bytes of an archive, decompressed, and the archives inside.

use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::{Component, Path, PathBuf};

use crate::error::{ImageError, Result};

/// An archive in a layer of an image in an archive; nothing nests deeper.
const DEEPEST: usize = 3;

/// Enough to tell a tar file: its magic stands at byte 257.
const HEAD: usize = 512;

/// A file in an archive.
pub(super) struct Member<'m> {
    /// The archives it is in, outermost first, as paths in each other; empty in the outermost.
    pub(super) inside: &'m Path,
    /// Its path, of names alone.
    pub(super) parts: &'m [&'m str],
    pub(super) size: u64,
    pub(super) data: &'m mut dyn Read,
}

type Each<'e> = dyn FnMut(Member<'_>) -> Result<()> + 'e;

/// Calls `each` with every regular file of the archive at `path`, or below the directory.
pub(super) fn each_file(path: &Path, each: &mut Each<'_>) -> Result<()> {
    if path.is_dir() {
        return below(path, &mut Vec::new(), path, each);
    }
    let file = File::open(path).map_err(ImageError::io(path, "open"))?;
    let mut file = BufReader::with_capacity(256 << 10, file);
    members(path, Path::new(""), &mut file, 0, each)
}

fn below(dir: &Path, above: &mut Vec<String>, top: &Path, each: &mut Each<'_>) -> Result<()> {
    let list = || ImageError::io(dir, "list");
    let mut entries =
        std::fs::read_dir(dir).map_err(list())?.collect::<io::Result<Vec<_>>>().map_err(list())?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().map_err(ImageError::io(entry.path(), "stat"))?);
        let Ok(name) = entry.file_name().into_string() else { continue };
        above.push(name);
        if kind.is_dir() && above.len() <= DEEPEST {
            below(&path, above, top, each)?;
        } else if kind.is_file() {
            let file = File::open(&path).map_err(ImageError::io(&path, "open"))?;
            let size = file.metadata().map_err(ImageError::io(&path, "stat"))?.len();
            let parts: Vec<&str> = above.iter().map(String::as_str).collect();
            member(top, Path::new(""), &parts, size, &mut BufReader::new(file), 0, each)?;
        }
        above.pop();
    }
    Ok(())
}

/// The members of a tar file, decompressed as its first bytes ask.
fn members(
    archive: &Path,
    inside: &Path,
    data: &mut dyn Read,
    depth: usize,
    each: &mut Each<'_>,
) -> Result<()> {
    let read = || ImageError::io(archive, "read as a tar archive");
    let mut tar = tar::Archive::new(decompressed(archive, data)?);
    for entry in tar.entries().map_err(read())? {
        let mut entry = entry.map_err(read())?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(read())?.into_owned();
        // `./checkpoint/x` is `checkpoint/x`; anything above is no part of a checkpoint.
        let parts: Option<Vec<&str>> = path
            .components()
            .filter(|part| *part != Component::CurDir)
            .map(|part| if let Component::Normal(name) = part { name.to_str() } else { None })
            .collect();
        let Some(parts) = parts else { continue };
        let size = entry.size();
        member(archive, inside, &parts, size, &mut entry, depth, each)?;
    }
    Ok(())
}

fn member(
    archive: &Path,
    inside: &Path,
    parts: &[&str],
    size: u64,
    data: &mut dyn Read,
    depth: usize,
    each: &mut Each<'_>,
) -> Result<()> {
    if depth < DEEPEST && may_be_archive(parts) {
        let mut head = Vec::new();
        (&mut *data).take(HEAD as u64).read_to_end(&mut head).map_err(ImageError::io(archive, "read"))?;
        let is_archive = is_archive(&head);
        let mut whole = Cursor::new(head).chain(data);
        if is_archive {
            let inside: PathBuf = std::iter::once(inside).chain(parts.iter().map(Path::new)).collect();
            return members(archive, &inside, &mut whole, depth + 1, each);
        }
        return each(Member { inside, parts, size, data: &mut whole });
    }
    each(Member { inside, parts, size, data })
}

/// A layer of an image, or what an engine exported, put into one as it is.
fn may_be_archive(parts: &[&str]) -> bool {
    match parts {
        [.., super::metadata::ROOT_FS_DIFF] => false,
        ["blobs", _, _] => true,
        [.., name] => [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end)),
        [] => false,
    }
}

fn is_archive(head: &[u8]) -> bool {
    matches!(head, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..])
        || head.get(257..262).is_some_and(|magic| magic == b"ustar")
}

fn decompressed<'d>(archive: &Path, data: &'d mut dyn Read) -> Result<Box<dyn Read + 'd>> {
    let io = |action| ImageError::io(archive, action);
    let mut magic = Vec::new();
    (&mut *data).take(4).read_to_end(&mut magic).map_err(io("read"))?;
    let kind = magic.first_chunk::<4>().copied().unwrap_or_default();
    let data: Chain<_, _> = Cursor::new(magic).chain(data);
    Ok(match kind {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(data)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(data);
            Box::new(decoder.map_err(|error| io("decompress")(io::Error::other(error)))?)
        }
        _ => Box::new(data),
    })
}
