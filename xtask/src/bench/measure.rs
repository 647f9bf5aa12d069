//! One process, dumped and restored by each tool in turn.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::{Pid, mkfifo};

use super::case::Case;
use crate::peer::Peer;

/// Where and with what is measured.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) rewake: &'a Path,
    pub(super) load: &'a Path,
    pub(super) peer: Option<&'a Peer>,
    pub(super) dir: &'a Path,
}

/// What was seen of a case.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) case: &'static Case,
    pub(super) ours: Times,
    pub(super) theirs: Times,
}

/// The runs of one tool.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) dump: Vec<Duration>,
    pub(super) restore: Vec<Duration>,
    /// Largest peaks of resident memory of the tool itself, in KiB: dump, restore.
    pub(super) peak_kib: (i64, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Rewake,
    Criu,
}

impl Stage<'_> {
    pub(super) fn run(&self, case: &'static Case, rounds: usize) -> Result<Row> {
        let mut row = Row { case, ours: Times::default(), theirs: Times::default() };
        for round in 0..rounds {
            for tool in [Tool::Rewake, Tool::Criu] {
                if tool == Tool::Criu && self.peer.is_none() {
                    continue;
                }
                let dir = self.dir.join(format!("{round}-{tool:?}"));
                fs::create_dir(&dir)?;
                let times = if tool == Tool::Rewake { &mut row.ours } else { &mut row.theirs };
                self.once(tool, case, &dir, times)
                    .with_context(|| format!("{} by {tool:?}, round {round}", case.name))?;
                fs::remove_dir_all(&dir)?;
            }
        }
        Ok(row)
    }

    fn once(&self, tool: Tool, case: &Case, dir: &Path, times: &mut Times) -> Result<()> {
        let pid = start(self.load, case.load, dir)?;
        if let Some(bytes) = case.memory() {
            warm(self.load, bytes, dir)?;
        }
        let images = dir.join("images");
        fs::create_dir(&images)?;
        let tree = pid.to_string();
        let images_arg = images.to_str().context("a path of ours is text")?;
        let (dump, peak) = self.timed(tool, &["dump", "-t", &tree, "-D", images_arg])?;
        waitpid(pid, None)?;
        times.dump.push(dump);
        times.peak_kib.0 = times.peak_kib.0.max(peak);
        let (restore, peak) = self.timed(tool, &["restore", "-d", "-D", images_arg])?;
        times.restore.push(restore);
        times.peak_kib.1 = times.peak_kib.1.max(peak);
        let threads = fs::read_dir(format!("/proc/{pid}/task")).context("the restored process")?.count();
        let wanted = case.load.windows(2).find_map(|pair| match pair {
            ["--threads", n] => n.parse().ok(),
            _ => None,
        });
        ensure!(threads == wanted.unwrap_or(1), "restored with {threads} threads");
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None)?;
        Ok(())
    }

    fn timed(&self, tool: Tool, args: &[&str]) -> Result<(Duration, i64)> {
        let mut tool = match (tool, self.peer) {
            (Tool::Rewake, _) => Command::new(self.rewake),
            (Tool::Criu, Some(peer)) => peer.criu(),
            (Tool::Criu, None) => bail!("there is no CRIU"),
        };
        tool.args(args);
        timed(&tool)
    }
}

/// A process of that kind, ready, with the arguments `args`.
pub(super) fn start(load: &Path, args: &[&str], dir: &Path) -> Result<Pid> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let ready = dir.join("ready");
    mkfifo(&ready, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut command = Command::new(load);
    command.arg(&ready).args(args).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    rewake_testkit::detach(&mut command);
    let child = command.spawn().context("starting the process")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    // Without a writer the FIFO would be waited for for ever: should the process end, there is one.
    let instead = ready.clone();
    std::thread::spawn(move || {
        let ended = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        ended.is_ok().then(|| fs::OpenOptions::new().write(true).open(instead))
    });
    let said = fs::read_to_string(&ready)?;
    ensure!(said == "ready", "the process ended before it was ready");
    fs::remove_file(&ready)?;
    Ok(pid)
}

/// Touches somewhat more memory than a process of `bytes`, small pages and huge ones, and gives it back. The host of a virtual machine
/// takes back what is free for seconds, and whoever touches it next waits for the host.
pub(super) fn warm(load: &Path, bytes: u64, dir: &Path) -> Result<()> {
    let most = (bytes + bytes / 4).to_string();
    let pid = start(load, &["--memory", &most, "--huge", &most], dir)?;
    kill(pid, Signal::SIGKILL)?;
    waitpid(pid, None)?;
    Ok(())
}

/// Runs a program; how long it took and its peak of resident memory in KiB.
pub(super) fn timed(program: &Command) -> Result<(Duration, i64)> {
    // A process of its own between us and the tool: its children's peak is the tool's.
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "measure"]).arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().and_then(|line| line.split_once(' '));
    let parsed = last.and_then(|(nanos, peak)| Some((nanos.parse().ok()?, peak.parse().ok()?)));
    let errors = String::from_utf8_lossy(&output.stderr);
    let (nanos, peak) = parsed.with_context(|| format!("{program:?} failed: {text}{errors}"))?;
    Ok((Duration::from_nanos(nanos), peak))
}

/// `bench measure PROGRAM ARGS`: runs it and prints nanoseconds and peak KiB, if it succeeds.
pub(super) fn child(program: &[&str]) -> Result<()> {
    let (name, args) = program.split_first().context("no program")?;
    let begun = Instant::now();
    let status = Command::new(name).args(args).stdout(Stdio::null()).status()?;
    let took = begun.elapsed();
    ensure!(status.success(), "{name}: {status}");
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    println!("{} {peak}", took.as_nanos());
    Ok(())
}
