//! Telling who started us that it is done: a pid file, and a byte to a descriptor.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rewake_pageserver::inherited;

#[derive(Debug, clap::Args)]
pub(crate) struct ReadyArgs {
    /// Write the process id to this file; relative to the working directory
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Write a zero byte to this descriptor, which was inherited, when all is ready
    #[arg(long, value_name = "FD")]
    status_fd: Option<RawFd>,
}

/// Who is to be told.
#[derive(Debug)]
pub(crate) struct Ready {
    pidfile: Option<PidFile>,
    status: Option<OwnedFd>,
}

/// Open before anything happens: that it cannot be written is told while nothing has changed.
#[derive(Debug)]
struct PidFile {
    path: PathBuf,
    file: File,
    /// It was not there before, and nothing is in it yet.
    ours: bool,
}

impl ReadyArgs {
    /// Takes the descriptor: to be called before anything else is opened. Names begin in `work_dir`.
    pub(crate) fn take(&self, work_dir: &Path) -> anyhow::Result<Ready> {
        let status = self.status_fd.map(inherited).transpose().context("--status-fd")?;
        let pidfile = self.pidfile.as_ref().map(|name| PidFile::open(work_dir.join(name))).transpose()?;
        Ok(Ready { pidfile, status })
    }
}

impl PidFile {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let mut options = File::options();
        let (file, ours) = match options.write(true).create_new(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                (options.create_new(false).open(&path), false)
            }
            made => (made, true),
        };
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, ours })
    }
}

impl Ready {
    pub(crate) fn tell(mut self, pid: u32) -> anyhow::Result<()> {
        if let Some(pidfile) = &mut self.pidfile {
            pidfile.ours = false;
            let written = pidfile.file.set_len(0).and_then(|()| write!(pidfile.file, "{pid}"));
            written.with_context(|| format!("cannot write {}", pidfile.path.display()))?;
        }
        if let Some(status) = self.status.take() {
            File::from(status).write_all(&[0]).context("--status-fd")?;
        }
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.ours {
            // Nobody is left to tell.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_that_was_not_there_goes_with_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let args = ReadyArgs { pidfile: Some("pid".into()), status_fd: None };
        let path = dir.path().join("pid");
        drop(args.take(dir.path()).unwrap());
        assert!(!path.exists());
        args.take(dir.path()).unwrap().tell(1234).unwrap();
        drop(args.take(dir.path()).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1234", "one that was there stays as it is");
        args.take(dir.path()).unwrap().tell(7).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7");
        assert!(args.take(&dir.path().join("nowhere")).is_err());
    }
}
