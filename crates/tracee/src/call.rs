//! One system call of a table.

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A system call to be run by the task, and then what it returned. An entry of the runner's table as it is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Call {
    /// Its number.
    pub nr: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// What it returned, raw: an error is a small negative number.
    pub ret: i64,
}

const _: () = assert!(size_of::<Call>() == 64);

impl Call {
    /// Call number `nr` with its arguments; the rest are zero.
    ///
    /// # Panics
    /// For more than six arguments.
    #[must_use]
    pub fn new(nr: libc::c_long, given: &[u64]) -> Self {
        let mut args = [0; 6];
        args.get_mut(..given.len()).expect("system calls take six arguments").copy_from_slice(given);
        // What shows up when a call was not run at all.
        Self { nr, args, ret: -i64::from(libc::ENOSYS) }
    }

    /// Its number.
    #[must_use]
    pub fn nr(&self) -> i64 {
        self.nr
    }

    /// What it returned.
    ///
    /// # Errors
    /// The error it returned.
    pub fn result(&self) -> Result<u64, Errno> {
        const MAX_ERRNO: i64 = 4095;
        if (-MAX_ERRNO..0).contains(&self.ret) {
            let errno = i32::try_from(-self.ret).expect("below 4096");
            return Err(Errno::from_raw(errno));
        }
        Ok(self.ret.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_negative_numbers_are_errors() {
        let returned = |ret| Call { ret, ..Call::new(libc::SYS_getpid, &[]) }.result();
        assert_eq!(returned(0), Ok(0));
        assert_eq!(returned(-1), Err(Errno::EPERM));
        assert_eq!(returned(-4095), Err(Errno::from_raw(4095)));
        assert_eq!(returned(-4096), Ok(0xffff_ffff_ffff_f000));
        assert_eq!(Call::new(libc::SYS_close, &[1]).result(), Err(Errno::ENOSYS), "not run");
    }

    #[test]
    fn arguments_that_are_not_given_are_zero() {
        assert_eq!(Call::new(libc::SYS_close, &[7]).args, [7, 0, 0, 0, 0, 0]);
        assert_eq!(Call::new(libc::SYS_getpid, &[]).args, [0; 6]);
    }
}
