//! Locks and leases on files. Dumped only on demand, for nobody keeps others from the files meanwhile.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd},
};

use nix::fcntl::{FcntlArg, fcntl};

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::fd,
};

/// What /proc shows of the locks taken through a descriptor, without their numbers, which mean nothing.
fn locks(file: impl AsFd) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd()))?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("lock:")?.trim().split_once(' '));
    let mut locks: Vec<String> = lines.map(|(_, lock)| lock.trim().to_owned()).collect();
    locks.sort();
    Ok(locks)
}

/// Of a process on ranges, of open files, of open file descriptions, some on one file, some shared by two descriptors; leases.
pub(crate) fn file_locks(stage: &Stage) -> Check {
    let names = ["ranges", "shared", "exclusive", "description", "read-lease", "write-lease"];
    let mut files = Vec::new();
    for name in names {
        std::fs::write(stage.path(name), "some text to be locked")?;
        files.push(File::options().read(true).write(name != "read-lease").open(stage.path(name))?);
    }
    let range = |kind: i32, start, len| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    fcntl(&files[0], FcntlArg::F_SETLK(&range(libc::F_WRLCK, 3, 4))).at("F_SETLK")?;
    fcntl(&files[0], FcntlArg::F_SETLK(&range(libc::F_RDLCK, 100, 0))).at("F_SETLK")?;
    for (file, how) in [(&files[1], libc::LOCK_SH), (&files[2], libc::LOCK_EX)] {
        // SAFETY: takes two numbers.
        nix::errno::Errno::result(unsafe { libc::flock(file.as_raw_fd(), how) }).at("flock")?;
    }
    fcntl(&files[3], FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, 1, 2))).at("F_OFD_SETLK")?;
    for (file, kind) in [(&files[4], libc::F_RDLCK), (&files[5], libc::F_WRLCK)] {
        // SAFETY: takes three numbers.
        let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        nix::errno::Errno::result(set).at("F_SETLEASE")?;
    }
    files.push(files[2].try_clone()?);
    // An open file of its own, which would otherwise take away the locks of the first when it is closed.
    files.push(File::open(stage.path("ranges"))?);
    let look = || files.iter().map(locks).collect::<Result<Vec<_>, _>>();
    let before = look()?;
    ensure_eq!(before.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1, 1, 1, 1, 0], "locks before");
    let table = fd::table()?;

    stage.freeze()?;

    fd::check_table(&table)?;
    ensure_eq!(look()?, before, "locks");
    let again = File::open(stage.path("exclusive"))?;
    // SAFETY: takes two numbers.
    let taken = unsafe { libc::flock(again.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) };
    ensure!(taken != 0, "the exclusive lock keeps nobody away");
    Ok(())
}
