//! `cargo xtask interop chains`: memory in several generations, made by one tool and restored by the other.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_testkit::{Workload, in_pid_namespace};

use super::case::{finish, finish_peer};
use super::known;
use crate::peer::Peer;

/// How a chain is made. Those of rewake are restored by CRIU, and the other way round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Chain {
    /// Two pre-dumps, then a dump, each in a run of its own.
    PreDumps,
    /// The same, with the room of pages freed that nothing needs any more.
    Deduped,
    /// All rounds in one run.
    Rounds,
    /// Dumps that leave the process running, each the parent of the next.
    Dumps,
    /// The youngest of checkpoints that are made again and again.
    Every,
    /// A dump of rewake with one of CRIU as its parent.
    OnPeer,
    /// Pre-dumps and a dump of CRIU.
    ByPeer,
}

use Chain::{ByPeer, Deduped, Dumps, Every, OnPeer, PreDumps, Rounds};

const ALL: [Chain; 7] = [PreDumps, Deduped, Rounds, Dumps, Every, OnPeer, ByPeer];

/// Private memory that never stands still, shared memory, and a program that only waits.
const SCENARIOS: [&str; 4] = ["churn", "memfd", "shared-anonymous", "minimal"];

/// How long anything may take. Only a hang is ever that slow.
const LIMIT: Duration = Duration::from_secs(60);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}

/// Runs all chains, each in its own pid namespace.
pub(super) fn run(rewake: &Path) -> Result<()> {
    println!("\nchains of generations");
    let mut failed = 0;
    for chain in ALL {
        print!("{chain:10}");
        let mut reasons = Vec::new();
        for scenario in SCENARIOS {
            let dir = tempfile::tempdir()?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["interop", "chain-case", &chain.to_string(), scenario]).arg(rewake).arg(dir.path());
            command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
            in_pid_namespace(&mut command);
            let output = command.output().context("making a pid namespace")?;
            let word = match (output.status.success(), known::chain(chain == ByPeer)) {
                (true, _) => "ok",
                (false, Some(reason)) => {
                    reasons.push(format!("known   {reason}"));
                    "known"
                }
                (false, None) => {
                    failed += 1;
                    reasons.push(format!(
                        "FAILED  {scenario}: {}",
                        String::from_utf8_lossy(&output.stderr).trim()
                    ));
                    "FAILED"
                }
            };
            print!("  {scenario} {word}");
        }
        println!();
        reasons.dedup();
        reasons.iter().for_each(|reason| println!("  {reason}"));
    }
    ensure!(failed == 0, "{failed} chains failed");
    Ok(())
}

/// One chain, in this process, which must be in its own pid namespace.
pub(super) fn case(chain: &str, scenario: &str, rewake: &Path, dir: &Path) -> Result<()> {
    let Some(chain) = ALL.into_iter().find(|known| known.to_string() == chain) else {
        bail!("no chain is called {chain}")
    };
    let (work, images) = (dir.join("work"), dir.join("images"));
    fs::create_dir(&work)?;
    fs::create_dir(&images)?;
    let workload = Workload::spawn(scenario, &work)?;
    let stage = Stage { rewake, images, pid: workload.pid() };
    let youngest = stage.make(chain)?;
    match chain {
        Dumps | Every => workload.signal(Signal::SIGKILL)?,
        _ => {}
    }
    workload.wait_end(LIMIT)?;
    let mut restore = if chain == ByPeer { Command::new(rewake) } else { Peer::open()?.criu() };
    restore.args(["restore", "--restore-detached", "--images-dir"]).arg(&youngest);
    if chain == ByPeer {
        finish(&mut restore, "rewake restore")?;
    } else {
        finish_peer(&mut restore, "restore", dir)?;
    }
    let restored = Workload::adopt(workload.pid(), &work).context("after the restore")?;
    restored.trigger()?;
    let verdict = restored.wait_result(LIMIT)?;
    ensure!(verdict == "PASS", "{verdict}");
    Ok(())
}

struct Stage<'a> {
    rewake: &'a Path,
    images: PathBuf,
    pid: Pid,
}

impl Stage<'_> {
    /// Makes it; gives the directory of the youngest generation.
    fn make(&self, chain: Chain) -> Result<PathBuf> {
        match chain {
            PreDumps | Deduped => {
                let more: &[&str] = if chain == Deduped { &["--auto-dedup"] } else { &[] };
                self.own("pre-dump", 1, &[])?;
                self.own("pre-dump", 2, more)?;
                self.own("dump", 3, more)
            }
            Rounds => self.own("dump", 1, &["--pre-dumps", "2"]),
            Dumps => {
                let more = ["--leave-running", "--track-mem"];
                self.own("dump", 1, &more)?;
                self.own("dump", 2, &more)?;
                self.own("dump", 3, &more)
            }
            Every => self.every(),
            OnPeer => {
                self.peer("dump", 1, &["--leave-running"])?;
                self.own("dump", 2, &[])
            }
            ByPeer => {
                self.peer("pre-dump", 1, &["--track-mem"])?;
                self.peer("pre-dump", 2, &["--track-mem"])?;
                self.peer("dump", 3, &["--track-mem"])
            }
        }
    }

    /// Has rewake make generation `n`.
    fn own(&self, verb: &str, n: usize, more: &[&str]) -> Result<PathBuf> {
        let dir = self.images.join(n.to_string());
        let mut command = Command::new(self.rewake);
        self.arguments(&mut command, verb, n, &dir);
        if n == 1 {
            // Nothing can be freed yet.
            command.args(more.iter().filter(|arg| **arg != "--auto-dedup"));
        } else {
            command.args(more);
        }
        finish(&mut command, &format!("rewake {verb} {n}"))?;
        Ok(dir)
    }

    /// Has the peer make generation `n`.
    fn peer(&self, verb: &str, n: usize, more: &[&str]) -> Result<PathBuf> {
        let dir = self.images.join(n.to_string());
        fs::create_dir(&dir)?;
        let mut command = Peer::open()?.criu();
        self.arguments(&mut command, verb, n, &dir);
        finish_peer(command.args(more), verb, &self.images)?;
        Ok(dir)
    }

    fn arguments(&self, command: &mut Command, verb: &str, n: usize, dir: &Path) {
        command.args([verb, "--tree", &self.pid.to_string(), "--images-dir"]).arg(dir);
        if n > 1 {
            command.args(["--prev-images-dir", &format!("../{}", n - 1)]);
        }
    }

    /// Lets checkpoints be made until there are a few.
    fn every(&self) -> Result<PathBuf> {
        let latest = self.images.join("latest");
        let mut command = Command::new(self.rewake);
        command.args(["dump", "--leave-running", "--every", "0.01", "--keep", "2"]);
        command.args(["--tree", &self.pid.to_string(), "--images-dir"]).arg(&self.images);
        let mut run =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("starting rewake")?;
        let enough = wait_for(&latest, 5, &mut run);
        kill(Pid::from_raw(i32::try_from(run.id())?), Signal::SIGTERM)?;
        let status = run.wait()?;
        enough?;
        ensure!(status.success(), "rewake dump --every: {status}");
        Ok(latest)
    }
}

/// Waits until the link leads to that number.
fn wait_for(latest: &Path, number: u64, run: &mut Child) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let now = || fs::read_link(latest).ok()?.to_str()?.parse::<u64>().ok();
    while now().is_none_or(|now| now < number) {
        if let Some(status) = run.try_wait()? {
            bail!("it ended early: {status}");
        }
        ensure!(Instant::now() < deadline, "there is no checkpoint {number}");
        std::thread::yield_now();
    }
    Ok(())
}
