//! Locks and leases on files. fcntl_locking(2), flock(2), F_SETLEASE(2const).

use std::path::PathBuf;

use nix::errno::Errno;
use rewake_images::proto::FileLockEntry;
use rewake_tracee::{Call, Remote};
use zerocopy::IntoBytes;

use crate::error::{RestoreError, Result};
use crate::plan::Plan;

/// `file_lock_entry.flag`
const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const OFD: u32 = 4;
const LEASE: u32 = 8;
/// `file_lock_entry.type`, as in `struct flock`.
const READ: u32 = 0;
const WRITE: u32 = 1;

/// Has the process take the locks it held. All descriptors but its own must be closed: to close one that leads to the same file
/// takes away all locks of fcntl(2) that the process has on it.
///
/// # Errors
/// [`RestoreError::Locked`] if somebody else has taken one meanwhile.
pub(crate) fn take(remote: &mut Remote<'_>, plan: &Plan) -> Result<()> {
    const LEN: usize = 32;
    let at_once = usize::try_from(remote.data_len()).expect("256 KiB") / LEN;
    for locks in plan.task.locks.chunks(at_once) {
        let mut data = Vec::with_capacity(locks.len() * LEN);
        let mut calls = Vec::with_capacity(locks.len());
        for lock in locks {
            let at = remote.data() + data.len() as u64;
            calls.push(call(lock, at).ok_or_else(|| {
                RestoreError::unsupported(format!("a lock on descriptor {}", lock.fd), "its kind is unknown")
            })?);
            // struct flock: type and whence (SEEK_SET), start, length, process.
            data.extend(
                [u64::from(lock.r#type), lock.start.cast_unsigned(), lock.len.cast_unsigned(), 0].as_bytes(),
            );
        }
        remote.write(remote.data(), &data).map_err(RestoreError::tracee(plan.pid))?;
        remote.batch(&mut calls).map_err(RestoreError::tracee(plan.pid))?;
        for (lock, call) in locks.iter().zip(&calls) {
            call.result().map_err(|source| match source {
                Errno::EAGAIN | Errno::EACCES => RestoreError::Locked { path: path(plan, lock) },
                source => {
                    let object = format!("the lock on {}", path(plan, lock).display());
                    RestoreError::Remote { pid: plan.pid, call: "fcntl", object, source }
                }
            })?;
        }
    }
    Ok(())
}

/// The call that takes a lock, which is described at `at`.
fn call(lock: &FileLockEntry, at: u64) -> Option<Call> {
    let number = |n: i32| u64::from(n.unsigned_abs());
    let fd = number(lock.fd);
    Some(match (lock.flag, lock.r#type) {
        (POSIX, READ | WRITE) => Call::new(libc::SYS_fcntl, &[fd, number(libc::F_SETLK), at]),
        (OFD, READ | WRITE) => Call::new(libc::SYS_fcntl, &[fd, number(libc::F_OFD_SETLK), at]),
        (FLOCK, READ) => Call::new(libc::SYS_flock, &[fd, number(libc::LOCK_SH | libc::LOCK_NB)]),
        (FLOCK, WRITE) => Call::new(libc::SYS_flock, &[fd, number(libc::LOCK_EX | libc::LOCK_NB)]),
        (LEASE, kind @ (READ | WRITE)) => {
            Call::new(libc::SYS_fcntl, &[fd, number(libc::F_SETLEASE), kind.into()])
        }
        _ => return None,
    })
}

/// The file, by the descriptor through which it is locked.
fn path(plan: &Plan, lock: &FileLockEntry) -> PathBuf {
    let fd = plan.descriptors.iter().find(|fd| fd.fd.cast_signed() == lock.fd);
    let reg = fd.and_then(|fd| plan.task.files.get(&fd.file)).and_then(|file| file.reg.as_ref());
    reg.map_or_else(|| format!("descriptor {}", lock.fd).into(), |reg| PathBuf::from(&reg.name))
}
