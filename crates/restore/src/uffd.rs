//! userfaultfd(2): filling memory of another process without a page fault or a zeroed page in between.
#![expect(unsafe_code, reason = "ioctls")]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

const API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
const REGISTER_MODE_MISSING: u64 = 1;

/// Memory of another process, to be filled. Closing it leaves no trace.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl Uffd {
    /// Agrees with the kernel on the interface. `fd` was made by the process whose memory it is.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        // struct uffdio_api: api, features, ioctls.
        let mut args = [API, 0, 0];
        // SAFETY: the pointer is to three writable words, which is struct uffdio_api.
        Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, args.as_mut_ptr()) })?;
        Ok(Self(fd))
    }

    /// Makes a range of anonymous memory known.
    pub(crate) fn register(&self, start: u64, len: u64) -> Result<(), Errno> {
        // struct uffdio_register: start, len, mode, ioctls.
        let mut args = [start, len, REGISTER_MODE_MISSING, 0];
        // SAFETY: the pointer is to four writable words, which is struct uffdio_register.
        Errno::result(unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_REGISTER, args.as_mut_ptr()) })
            .map(drop)
    }

    /// Puts whole pages into place.
    pub(crate) fn copy(&self, to: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let from = rest.as_ptr().expose_provenance() as u64;
            // struct uffdio_copy: dst, src, len, mode, copy.
            let mut args = [to + done as u64, from, rest.len() as u64, 0, 0];
            // SAFETY: the pointer is to five writable words, which is struct uffdio_copy; the source is the slice.
            let ret = unsafe { libc::ioctl(self.0.as_raw_fd(), UFFDIO_COPY, args.as_mut_ptr()) };
            let [.., copied] = args;
            match Errno::result(ret) {
                Ok(_) => return Ok(()),
                // Part of it was done: go on behind that.
                Err(Errno::EAGAIN) if copied.cast_signed() > 0 => {
                    done += usize::try_from(copied).unwrap_or(usize::MAX);
                }
                Err(Errno::EAGAIN) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
