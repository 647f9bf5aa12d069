//! Files that were deleted while open: they come back under a name, are opened, and are deleted again.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, mkfifo};
use rewake_images::proto::GhostFileEntry;

use crate::error::{RestoreError, Result};

/// Creates the file, under its old name if that is free; gives the name it has.
pub(super) fn create(name: &str, entry: &GhostFileEntry, contents: &[u8]) -> Result<PathBuf> {
    const TRIES: u32 = 1000;
    for number in 0..TRIES {
        let path =
            if number == 0 { PathBuf::from(name) } else { PathBuf::from(format!("{name}.ghost-{number}")) };
        match create_at(&path, entry, contents) {
            Err(RestoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            done => return done.map(|()| path),
        }
    }
    Err(RestoreError::file(name, "find a free name beside")(Errno::EEXIST.into()))
}

fn create_at(path: &Path, entry: &GhostFileEntry, contents: &[u8]) -> Result<()> {
    let failed = |action| RestoreError::file(path, action);
    let errno = |action| move |errno: Errno| RestoreError::file(path, action)(errno.into());
    let permissions = entry.mode & 0o7777;
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    match entry.mode & libc::S_IFMT {
        libc::S_IFREG => {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(permissions)
                .open(path)
                .map_err(failed("create"))?;
            file.write_all(contents).map_err(failed("write"))?;
            if let Some(size) = entry.size {
                file.set_len(size).map_err(failed("size"))?;
            }
            fchown(&file, uid, gid).map_err(errno("change the owner of"))?;
            let mode = Mode::from_bits_truncate(permissions);
            nix::sys::stat::fchmod(&file, mode).map_err(errno("change the mode of"))
        }
        libc::S_IFIFO => {
            mkfifo(path, Mode::from_bits_truncate(permissions)).map_err(errno("create"))?;
            nix::unistd::chown(path, uid, gid).map_err(errno("change the owner of"))
        }
        _ => Err(RestoreError::unsupported(
            format!("deleted file {}", path.display()),
            "neither file nor named pipe",
        )),
    }
}
