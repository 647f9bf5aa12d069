//! Starting the unpacked programs through their own dynamic loader, so that they use no library of this system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The file system tree in which the peer's programs lie.
#[derive(Debug)]
pub(crate) struct Peer {
    root: PathBuf,
}

impl Peer {
    /// The peer that `cargo xtask interop setup` unpacked; an error says so if there is none.
    pub(crate) fn open() -> Result<Self> {
        let Some(root) = super::packages::unpacked() else {
            bail!("no CRIU to test against: run `cargo xtask interop setup` first");
        };
        Ok(Self::at(root))
    }

    /// The peer below `root`.
    pub(super) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// `criu`, ready for arguments.
    pub(crate) fn criu(&self) -> Command {
        self.program(&self.root.join("usr/sbin/criu"))
    }

    /// `crit`, ready for arguments.
    pub(crate) fn crit(&self) -> Command {
        let mut command = self.python();
        command.arg(self.root.join("usr/bin/crit"));
        command
    }

    /// The Python that has the peer's modules.
    pub(crate) fn python(&self) -> Command {
        let usr = self.root.join("usr");
        let mut command = self.program(&usr.join("bin/python3"));
        command
            .env("PYTHONHOME", &usr)
            .env("PYTHONPATH", usr.join("lib/python3/dist-packages"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// The library path goes in as an argument, not into the environment: programs that the peer
    /// starts, such as nft and ip, must find the libraries of this system.
    fn program(&self, program: &Path) -> Command {
        let arch = std::env::consts::ARCH;
        let loader = match arch {
            "aarch64" => "usr/lib/ld-linux-aarch64.so.1",
            _ => "usr/lib64/ld-linux-x86-64.so.2",
        };
        let mut command = Command::new(self.root.join(loader));
        command.arg("--library-path").arg(self.root.join(format!("usr/lib/{arch}-linux-gnu"))).arg(program);
        command
    }
}
