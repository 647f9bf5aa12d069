//! `cargo xtask interop files`: CRIU and rewake refuse and accept the same changed files, for size and build-id, and
//! rewake refuses more of them by its own means.
//!
//! A process maps libraries with build-ids of several lengths and holds files open in several ways. Either tool dumps
//! it once; then one file after the other is changed, both tools are asked to restore, and the file is put back.

use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_testkit::{detach, in_pid_namespace};

use crate::peer::Peer;

/// Lengths in bytes of the build-ids of the libraries.
const LENGTHS: [usize; 4] = [8, 16, 20, 64];

/// What is done to the files between dump and restore.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    /// Another build of the library with a build-id of this length, one byte of code changed, the same size.
    Rebuilt(usize),
    /// The same, under the old build-id.
    RebuiltSameId,
    /// Zeros instead of the library, the same size.
    Zeros,
    /// One byte more at the end of the library.
    Longer,
    Missing,
    /// A link to an equal file.
    Link,
    Mode,
    /// A file open for reading has grown.
    DataGrown,
    /// A file open for reading and writing has grown.
    StateGrown,
    /// A file open for appending only has grown.
    LogGrown,
}

use Change::{
    DataGrown, Link, LogGrown, Longer, Missing, Mode, Nothing, Rebuilt, RebuiltSameId, StateGrown, Zeros,
};

/// Each change, whether the peer accepts it, and whether rewake does with all it has. That rewake, asked for no more
/// than size and build-id, answers as the peer is the point; the one exception is that no build-id is not the same.
const CASES: [(Change, bool, bool); 14] = [
    (Nothing, true, true),
    (Rebuilt(8), false, false),
    (Rebuilt(16), false, false),
    (Rebuilt(20), false, false),
    (Rebuilt(64), false, false),
    (RebuiltSameId, true, false),
    (Zeros, true, false),
    (Longer, false, false),
    (Missing, false, false),
    (Link, true, true),
    (Mode, false, false),
    (DataGrown, false, false),
    (StateGrown, false, false),
    (LogGrown, true, true),
];

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// Runs both directions, each in its own pid namespace.
pub(super) fn run(rewake: &Path) -> Result<()> {
    for dumper in ["rewake", "criu"] {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["interop", "files-case", dumper]).arg(rewake).arg(dir.path());
        command.stdin(Stdio::null());
        in_pid_namespace(&mut command);
        let status = command.status().context("making a pid namespace")?;
        ensure!(status.success(), "files of a dump by {dumper}: {status}");
    }
    Ok(())
}

/// One direction, in this process, which must be in its own pid namespace.
pub(super) fn case(dumper: &str, rewake: &Path, dir: &Path) -> Result<()> {
    let stage = Stage { dir: dir.to_owned(), images: dir.join("images") };
    let mut child = stage.start()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    fs::create_dir(&stage.images)?;
    let tree = pid.to_string();
    let mut dump = if dumper == "rewake" { Command::new(rewake) } else { Peer::open()?.criu() };
    dump.args(["dump", "-t", &tree, "-D"]).arg(&stage.images);
    ensure!(stage.succeeds(&mut dump)?, "the dump failed: {}", fs::read_to_string(dir.join("tools.log"))?);
    child.wait()?;
    let kept = stage.keep()?;
    println!("\ndumped by {dumper:9} criu      buildid   auto");
    let mut wrong = 0;
    for (change, peer, full) in CASES {
        stage.change(change).with_context(|| change.to_string())?;
        let by_peer = stage.restores(pid, Peer::open()?.criu(), &[])?;
        let by_us = stage.restores(pid, Command::new(rewake), &["--file-validation", "buildid"])?;
        let by_all = stage.restores(pid, Command::new(rewake), &[])?;
        stage.restore_files(&kept)?;
        // Of the peer's dump we know no more than the peer, but we do not take a missing build-id for the same one.
        let full = full || dumper == "criu" && matches!(change, RebuiltSameId);
        let level = peer && !matches!(change, Zeros);
        let right = (by_peer, by_us, by_all) == (peer, level, full);
        wrong += usize::from(!right);
        let word = |accepted| if accepted { "accepts" } else { "refuses" };
        let mark = if right { "" } else { "  <- WRONG" };
        println!("{change:19} {:9} {:9} {}{mark}", word(by_peer), word(by_us), word(by_all));
    }
    ensure!(wrong == 0, "{wrong} answers are not as expected");
    Ok(())
}

struct Stage {
    dir: PathBuf,
    images: PathBuf,
}

impl Stage {
    fn library(&self, length: usize) -> PathBuf {
        self.dir.join(format!("libid{length}.so"))
    }

    fn compile(&self, args: &[&str], out: &Path, source: &str) -> Result<()> {
        let path = self.dir.join("source.c");
        fs::write(&path, source)?;
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).arg(out).arg(&path).args(args).arg("-L").arg(&self.dir);
        ensure!(cc.status().context("starting cc")?.success(), "cc failed");
        Ok(())
    }

    fn build_library(&self, length: usize, value: u8, id: u8) -> Result<()> {
        let id = format!("-Wl,--build-id=0x{}", format!("{id:02x}").repeat(length));
        let source = format!("int answer{length}(void) {{ return {value}; }}\n");
        // The same inode is not written to: it may be mapped.
        let fresh = self.dir.join("fresh.so");
        self.compile(&["-shared", "-fPIC", &id], &fresh, &source)?;
        fs::rename(&fresh, self.library(length))?;
        Ok(())
    }

    /// Builds program and libraries and starts it; it waits for ever with everything mapped and open.
    fn start(&self) -> Result<Child> {
        let mut calls = String::new();
        let mut declared = String::new();
        let mut args = Vec::new();
        for length in LENGTHS {
            self.build_library(length, 1, 0x11)?;
            calls.push_str(&format!(" + answer{length}()"));
            declared.push_str(&format!("int answer{length}(void);\n"));
            args.push(format!("-lid{length}"));
        }
        for name in ["data", "state", "log"] {
            fs::write(self.dir.join(name), "contents")?;
        }
        let source = format!(
            "#include <fcntl.h>\n#include <unistd.h>\n{declared}int main(void) {{\n\
             if (0{calls} != {}) return 1;\n\
             open(\"data\", O_RDONLY); open(\"state\", O_RDWR); open(\"log\", O_WRONLY | O_APPEND);\n\
             close(creat(\"ready\", 0600));\nfor (;;) pause();\n}}\n",
            LENGTHS.len()
        );
        let program = self.dir.join("program");
        let rpath = format!("-Wl,-rpath,{}", self.dir.display());
        let args: Vec<&str> = args.iter().map(String::as_str).chain([rpath.as_str()]).collect();
        self.compile(&args, &program, &source)?;
        let mut command = Command::new(&program);
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        detach(&mut command);
        let mut child = command.spawn().context("starting the program")?;
        while !self.dir.join("ready").exists() {
            if let Some(status) = child.try_wait()? {
                bail!("the program ended: {status}");
            }
            std::thread::yield_now();
        }
        Ok(child)
    }

    fn succeeds(&self, command: &mut Command) -> Result<bool> {
        // A detached process must not hold a pipe of ours open.
        let log = fs::File::options().create(true).append(true).open(self.dir.join("tools.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command.status().with_context(|| format!("starting {command:?}"))?.success())
    }

    /// Whether the tool restores the process, which is killed then.
    fn restores(&self, pid: Pid, mut tool: Command, options: &[&str]) -> Result<bool> {
        tool.args(["restore", "-d"]).args(options).arg("-D").arg(&self.images);
        let accepted = self.succeeds(&mut tool)?;
        if accepted {
            kill(pid, Signal::SIGKILL).context("the restored process")?;
        }
        // It is the child of init, which reaps.
        while kill(pid, None).is_ok() {
            std::thread::yield_now();
        }
        Ok(accepted)
    }

    /// Changes a file.
    fn change(&self, change: Change) -> Result<()> {
        let library = self.library(20);
        match change {
            Nothing => {}
            Rebuilt(length) => self.build_library(length, 2, 0x22)?,
            RebuiltSameId => self.build_library(20, 2, 0x11)?,
            Zeros => {
                let size = fs::metadata(&library)?.len();
                self.replace(&library, &vec![0; usize::try_from(size)?])?;
            }
            Longer => {
                let mut bytes = fs::read(&library)?;
                bytes.push(0);
                self.replace(&library, &bytes)?;
            }
            Missing => fs::remove_file(&library)?,
            Link => {
                fs::rename(&library, self.dir.join("elsewhere.so"))?;
                std::os::unix::fs::symlink("elsewhere.so", &library)?;
            }
            Mode => fs::set_permissions(&library, fs::Permissions::from_mode(0o700))?,
            DataGrown => self.grow("data")?,
            StateGrown => self.grow("state")?,
            LogGrown => self.grow("log")?,
        }
        Ok(())
    }

    /// Another file of the same mode under this name.
    fn replace(&self, path: &Path, contents: &[u8]) -> Result<()> {
        let (fresh, mode) = (self.dir.join("fresh"), fs::metadata(path)?.permissions());
        fs::write(&fresh, contents)?;
        fs::set_permissions(&fresh, mode)?;
        Ok(fs::rename(fresh, path)?)
    }

    fn grow(&self, name: &str) -> Result<()> {
        let mut file = fs::File::options().append(true).open(self.dir.join(name))?;
        Ok(file.write_all(b"more")?)
    }

    /// Everything as at the dump.
    fn restore_files(&self, kept: &Path) -> Result<()> {
        for entry in fs::read_dir(kept)? {
            let (from, name) = {
                let entry = entry?;
                (entry.path(), entry.file_name())
            };
            let to = self.dir.join(name);
            let _ = fs::remove_file(&to);
            fs::copy(from, to)?;
        }
        Ok(())
    }

    /// Copies of all files that are changed.
    fn keep(&self) -> Result<PathBuf> {
        let kept = self.dir.join("kept");
        fs::create_dir(&kept)?;
        let libraries = LENGTHS.map(|length| self.library(length));
        let others = ["data", "state", "log"].map(|name| self.dir.join(name));
        for path in libraries.iter().chain(&others) {
            fs::copy(path, kept.join(path.file_name().context("a file has a name")?))?;
        }
        Ok(kept)
    }
}
