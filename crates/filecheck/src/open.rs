//! Opening files to look at them, without ever blocking, following a rename, or leaving the given root.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};

use crate::error::{CookieError, Result};

/// What the kernel says of a file without reading it. Two equal values around a read mean that nobody wrote between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileState {
    /// Device number, as the kernel gives it to user space.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Last change of contents: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Last change of contents or attributes: seconds and nanoseconds.
    pub ctime: (i64, i64),
}

impl FileState {
    /// Asks the kernel about an open file.
    ///
    /// # Errors
    ///
    /// [`CookieError::Read`] when `fstat` fails.
    pub fn of(file: &File) -> Result<Self> {
        let metadata =
            file.metadata().map_err(|source| CookieError::Read { what: "file attributes", source })?;
        Ok(Self::from(&metadata))
    }

    /// Asks the kernel what `path` leads to now, symbolic links followed.
    ///
    /// # Errors
    ///
    /// [`CookieError::Read`] when `stat` fails.
    pub fn at(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path)
            .map_err(|source| CookieError::Read { what: "file attributes", source })?;
        Ok(Self::from(&metadata))
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode & nix::libc::S_IFMT == nix::libc::S_IFREG
    }
}

impl From<&Metadata> for FileState {
    fn from(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl From<&FileStat> for FileState {
    fn from(stat: &FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.unsigned_abs(),
            mode: stat.st_mode,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The name of a file type, for messages.
pub(crate) fn type_name(mode: u32) -> &'static str {
    use nix::libc;
    match mode & libc::S_IFMT {
        libc::S_IFREG => "regular file",
        libc::S_IFDIR => "directory",
        libc::S_IFIFO => "fifo",
        libc::S_IFSOCK => "socket",
        libc::S_IFCHR => "character device",
        libc::S_IFBLK => "block device",
        libc::S_IFLNK => "symbolic link",
        _ => "unknown type",
    }
}

/// A file held by a descriptor, so that its identity is settled. Mostly an `O_PATH` one: nothing has been opened then in
/// the sense of its driver.
#[derive(Debug)]
pub struct Held {
    handle: File,
    state: FileState,
    links: u64,
    shown: PathBuf,
}

impl Held {
    /// Takes hold of what `path` names now. Final symbolic links are followed, which makes `/proc/PID/fd/N` and
    /// `/proc/PID/map_files/…` work even for files that have no name any more.
    ///
    /// # Errors
    ///
    /// [`CookieError::Open`].
    pub fn at(path: &Path) -> Result<Self> {
        let flags = (OFlag::O_PATH | OFlag::O_CLOEXEC).bits();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        Self::finish(opened, path)
    }

    /// Takes hold of what `path` names inside `root`: neither `..` nor symbolic links, absolute ones included, lead out
    /// of it.
    ///
    /// # Errors
    ///
    /// [`CookieError::Open`].
    pub fn inside(root: &File, path: &Path) -> Result<Self> {
        Self::opened_inside(root, path, OFlag::O_PATH)
    }

    /// The same by opening it with these flags, to be kept open: for what is known to be a regular file, since opening
    /// anything else can block or have effects.
    pub(crate) fn opened_inside(root: &File, path: &Path, flags: OFlag) -> Result<Self> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path_or_dot = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // EAGAIN: a rename somewhere raced with walking `..`; the kernel asks to be called again.
        let opened = (0..16)
            .map(|_| openat2(root, path_or_dot, how))
            .find(|result| !matches!(result, Err(nix::errno::Errno::EAGAIN)))
            .unwrap_or(Err(nix::errno::Errno::EAGAIN));
        Self::finish(opened.map(File::from).map_err(io::Error::from), path)
    }

    fn finish(opened: io::Result<File>, path: &Path) -> Result<Self> {
        let fail = |source| CookieError::Open { path: path.to_owned(), source };
        let handle = opened.map_err(fail)?;
        let stat = fstat(&handle).map_err(|errno| fail(errno.into()))?;
        Ok(Self { handle, state: FileState::from(&stat), links: stat.st_nlink, shown: path.to_owned() })
    }

    /// How many names it has; none if it was deleted.
    pub fn links(&self) -> u64 {
        self.links
    }

    /// What the kernel says of it.
    pub fn state(&self) -> FileState {
        self.state
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        type_name(self.state.mode)
    }

    /// Goes there, if that can be.
    pub(crate) fn seek(&self, position: i64) -> bool {
        lseek(&self.handle, position, Whence::SeekSet).is_ok()
    }

    pub(crate) fn into_handle(self) -> File {
        self.handle
    }

    /// Opens the contents of a regular file for reading, the very inode that is held.
    ///
    /// # Errors
    ///
    /// [`CookieError::NotRegular`] for anything else, which is never opened: opening a FIFO or a device can block or
    /// have effects. [`CookieError::Open`] without permission.
    pub fn contents(&self) -> Result<File> {
        if !self.state.is_regular() {
            return Err(CookieError::NotRegular { kind: self.kind() });
        }
        reopen(&self.handle).map_err(|source| CookieError::Open { path: self.shown.clone(), source })
    }
}

/// Opens the same inode again through /proc, read-only and without moving its access time where that is allowed.
fn reopen(handle: &File) -> io::Result<File> {
    let name = descriptor_path(handle);
    let quiet = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let open = |flags: OFlag| OpenOptions::new().read(true).custom_flags(flags.bits()).open(&name);
    match open(quiet | OFlag::O_NOATIME) {
        // Only owners and the privileged may leave the access time alone.
        Err(e) if e.raw_os_error() == Some(nix::libc::EPERM) => open(quiet),
        result => result,
    }
}

/// A path that leads to an open file whatever has become of its name.
pub(crate) fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A directory to look files up in, see [`Held::inside`].
///
/// # Errors
///
/// [`CookieError::Open`].
pub fn open_root(root: &Path) -> Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(root, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| CookieError::Open { path: root.to_owned(), source: errno.into() })
}
