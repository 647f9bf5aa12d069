//! Memory with a descriptor.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::fd::AsRawFd,
    os::unix::fs::FileExt,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

use crate::{
    stage::{At, Check, Stage, ensure, ensure_eq},
    sys::{
        fd,
        mem::{self, Area, RW},
    },
};

/// Open, mapped shared and privately, sealed, sparse.
pub(crate) fn memfd(stage: &Stage) -> Check {
    let mut file =
        File::from(memfd_create("some name", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    let contents = mem::bytes(8, 5 * 4096 + 10);
    file.write_all(&contents)?;
    file.set_len(100 << 20)?;
    file.seek(SeekFrom::Start(1234))?;
    let shared = Area::map(0, 6, RW, libc::MAP_SHARED, file.as_raw_fd(), 0).at("map shared")?;
    let private = Area::map(0, 6, RW, libc::MAP_PRIVATE, file.as_raw_fd(), 0).at("map private")?;
    private.fill(2, 99);
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
    let only_open = File::from(memfd_create("other", MFdFlags::empty())?);
    only_open.write_all_at(b"abc", 0)?;
    let table = fd::table()?;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;

    stage.freeze()?;

    fd::check_table(&table)?;
    ensure_eq!(std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?, link, "name");
    ensure_eq!(file.metadata()?.len(), 100 << 20, "length");
    let mut read = vec![0; contents.len()];
    file.read_exact_at(&mut read, 0)?;
    ensure!(read == contents, "contents differ");
    private.check(2, 99, "own page of the private mapping")?;
    ensure_eq!(private.read(1, 0), shared.read(1, 0), "page of the private mapping that is still shared");
    shared.write(1, 3, 0xabcd);
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 4096 + 24)?;
    ensure_eq!(u64::from_ne_bytes(word), 0xabcd, "written through the mapping");
    ensure_eq!(
        fcntl(&file, FcntlArg::F_GET_SEALS)?,
        (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW).bits(),
        "seals"
    );
    let shrunk = file.set_len(4096).map_err(|error| error.raw_os_error());
    ensure_eq!(shrunk, Err(Some(Errno::EPERM as i32)), "shrinking");
    let mut read = [0; 3];
    only_open.read_exact_at(&mut read, 0)?;
    ensure_eq!(read, *b"abc", "contents of the other");
    ensure_eq!(only_open.metadata()?.len(), 3, "length of the other");
    Ok(())
}

/// A program in memory, which can be started although its descriptor may write: nobody has opened it for that.
pub(crate) fn memfd_program(stage: &Stage) -> Check {
    let program = std::fs::read("/bin/true")?;
    let file = File::from(memfd_create("program", MFdFlags::empty())?);
    file.write_all_at(&program, 0)?;
    let mapped = Area::map(0, 1, RW, libc::MAP_SHARED, file.as_raw_fd(), 0).at("map it")?;
    let start = || std::process::Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())).status();
    ensure!(start()?.success(), "it cannot be started at all");

    stage.freeze()?;

    ensure!(start()?.success(), "it fails");
    mapped.write(0, 0, 1);
    ensure!(start().is_err(), "the mapping is of another object");
    Ok(())
}
