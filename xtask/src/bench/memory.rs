//! `cargo xtask bench memory`: memory copied while a process runs, beside CRIU as far as it can do that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::Value;

use super::measure::{start, warm};
use crate::codegen;
use crate::peer::Peer;

const GIB: u64 = 1 << 30;
/// Bytes a second that the processes write to their memory.
const WRITES: &str = "50000000";
/// MiB of memory the dumper may take, and milliseconds the process may stand.
const MOST_MEMORY: f64 = 32.0;
const MOST_FROZEN: f64 = 4.0;
const MOST_FROZEN_MAPPINGS: f64 = 40.0;
/// How many times faster than CRIU a full capture is to be, with one thread and two; and how much longer it may stand than
/// a snapshot takes.
const GOALS: [(usize, f64); 2] = [(1, 1.2), (2, 1.8)];
const SNAPSHOT_GOAL: f64 = 10.0;

/// What a run of rewake cost it.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    peak_kib: u64,
    descriptors: usize,
}

struct Bench<'a> {
    rewake: &'a Path,
    load: &'a Path,
    peer: Option<&'a Peer>,
    rounds: usize,
}

pub(super) fn run(
    rewake: &Path,
    load: &Path,
    peer: Option<&Peer>,
    rounds: usize,
    tmpfs: &Path,
    cases: &[String],
) -> Result<()> {
    let bench = Bench { rewake, load, peer, rounds };
    let disk = codegen::root().join("target");
    let wanted = |name: &str| cases.is_empty() || cases.iter().any(|case| case == name);
    if wanted("rounds") {
        println!("rounds while it runs: milliseconds the process stands in each, the dump last");
        let gib = GIB.to_string();
        bench.rounds("1 GiB, 50 MB/s", &["--memory", &gib, "--writes", WRITES], MOST_FROZEN, tmpfs)?;
        bench.rounds("10,000 mappings", &["--mappings", "10000"], MOST_FROZEN_MAPPINGS, tmpfs)?;
    }
    if wanted("capture") {
        println!("\na full capture of 1 GiB, and a snapshot: milliseconds, medians of {rounds}");
        bench.capture("tmpfs", tmpfs)?;
        bench.capture("disk", &disk)?;
    }
    if wanted("sizes") {
        println!("\nthe dump after pre-dumps (auto) of processes that write 50 MB/s");
        println!("{:>8} {:>7} {:>10} {:>10} {:>10}", "size", "rounds", "pages", "frozen ms", "MiB peak");
        for gib in [1, 2, 4, 8] {
            bench.size(gib, &disk)?;
        }
    }
    Ok(())
}

impl Bench<'_> {
    fn rounds(&self, name: &str, load: &[&str], most: f64, dir: &Path) -> Result<()> {
        let mut frozen: Vec<Vec<f64>> = Vec::new();
        let mut cost = Cost::default();
        let (mut by_peer, mut refused) = (Vec::new(), None);
        for _ in 0..self.rounds {
            let process = Process::start(self.load, load, dir)?;
            let (reports, of_this) = self.own(&process, &["dump", "-R", "--pre-dumps", "3"])?;
            let reports = reports.as_array().context("a report of each round")?;
            for (round, report) in reports.iter().enumerate() {
                if frozen.len() <= round {
                    frozen.push(Vec::new());
                }
                if let Some(of_round) = frozen.get_mut(round) {
                    of_round.push(ms(report, "frozen")?);
                }
            }
            cost.peak_kib = cost.peak_kib.max(of_this.peak_kib);
            cost.descriptors = cost.descriptors.max(of_this.descriptors);
            match self.by_peer(&process, &["pre-dump", "--pre-dump-mode", "read"]) {
                Ok(Some(stats)) => by_peer.push(micros(&stats, "frozen_time")?),
                Ok(None) => {}
                // Without soft-dirty bits it aborts, with the process in its hands.
                Err(error) => refused = Some(error),
            }
        }
        let frozen: Vec<f64> = frozen.into_iter().map(median).collect();
        let worst = frozen.iter().rev().skip(1).copied().fold(0.0, f64::max);
        let all: Vec<String> = frozen.iter().map(|ms| format!("{ms:.2}")).collect();
        println!(
            "  {name:16} {}: {}",
            all.join("  "),
            verdict(worst <= most, format!("rounds at most {most}"))
        );
        if let Some(error) = refused {
            let text = error.to_string();
            let bug = text.lines().find(|line| line.contains("BUG")).unwrap_or_default();
            println!("  {:16} CRIU cannot: {bug}", "");
        }
        if !by_peer.is_empty() {
            println!("  {:16} CRIU, its first round only: {:.1}", "", median(by_peer));
        }
        let mib = mib(cost.peak_kib);
        let met = verdict(mib <= MOST_MEMORY, format!("at most {MOST_MEMORY}"));
        println!("  {:16} peak of rewake {mib:.1} MiB: {met}; {} descriptors", "", cost.descriptors);
        Ok(())
    }

    fn capture(&self, name: &str, dir: &Path) -> Result<()> {
        let gib = GIB.to_string();
        let mut ours = [Vec::new(), Vec::new()];
        let (mut theirs, mut theirs_frozen, mut snapshot) = (Vec::new(), Vec::new(), Vec::new());
        let mut differing = 0;
        for round in 0..self.rounds {
            // One that writes nothing: what is captured is the same each time.
            let process = Process::start(self.load, &["--memory", &gib], dir)?;
            // Whoever comes first finds the machine as it was left before: each in turn.
            for turn in 0..3 {
                warm(self.load, GIB, process.dir.path())?;
                match ((turn + round) % 3, ours.as_mut_slice()) {
                    (0, [times, _]) | (1, [_, times]) => {
                        let threads = if (turn + round) % 3 == 0 { "1" } else { "2" };
                        let (report, _) = self.own(&process, &["dump", "-R", "--threads", threads])?;
                        times.push(ms(&report, "choosing")? + ms(&report, "copying")?);
                    }
                    _ => {
                        if let Some(stats) = self.by_peer(&process, &["dump", "-R"])? {
                            theirs.push(micros(&stats, "memdump_time")?);
                            theirs_frozen.push(micros(&stats, "frozen_time")?);
                        }
                    }
                }
            }
            let (report, _) = self.own_kept(&process, &["dump", "-R", "--snapshot"])?;
            snapshot.push(ms(&report, "frozen")?);
            // What the dump of the process itself finds changed, compared byte by byte.
            let (report, _) = self.own(&process, &["dump", "-R", "--prev-images-dir", "../kept"])?;
            differing = number(&report, "pages")?.max(differing);
            fs::remove_dir_all(process.dir.path().join("kept"))?;
        }
        let [theirs, theirs_frozen] = [theirs, theirs_frozen].map(median);
        for ((threads, goal), times) in GOALS.iter().zip(ours) {
            let (mine, ratio) = (median(times.clone()), theirs / median(times));
            let met = verdict(ratio >= *goal, format!("at least {goal}"));
            println!(
                "  {name:6} {threads} thread(s) {mine:7.1}, CRIU's memdump {theirs:7.1}: {ratio:.2} times as fast, {met}"
            );
        }
        let snapshot = median(snapshot);
        let ratio = theirs_frozen / snapshot;
        let met = verdict(ratio >= SNAPSHOT_GOAL, format!("at least {SNAPSHOT_GOAL}"));
        println!(
            "  {name:6} snapshot frozen {snapshot:.1}, CRIU {theirs_frozen:.1}: {ratio:.1} times shorter, {met}; {differing} pages of it differ from a dump"
        );
        Ok(())
    }

    fn size(&self, gib: u64, dir: &Path) -> Result<()> {
        let process =
            Process::start(self.load, &["--memory", &(gib * GIB).to_string(), "--writes", WRITES], dir)?;
        let (reports, cost) = self.own(&process, &["dump", "-R", "--pre-dumps", "auto"])?;
        let reports = reports.as_array().context("a report of each round")?;
        let last = reports.last().context("a report of the dump")?;
        println!(
            "{gib:>4} GiB {:>7} {:>10} {:>10.2} {:>10.1}",
            reports.len() - 1,
            number(last, "pages")?,
            ms(last, "frozen")?,
            mib(cost.peak_kib)
        );
        Ok(())
    }

    /// A run of rewake whose images are thrown away: its report, and what it took.
    fn own(&self, process: &Process, args: &[&str]) -> Result<(Value, Cost)> {
        let done = self.own_in("images", process, args)?;
        fs::remove_dir_all(process.dir.path().join("images"))?;
        Ok(done)
    }

    fn own_kept(&self, process: &Process, args: &[&str]) -> Result<(Value, Cost)> {
        self.own_in("kept", process, args)
    }

    fn own_in(&self, images: &str, process: &Process, args: &[&str]) -> Result<(Value, Cost)> {
        let said = process.dir.path().join("said");
        let mut command = Command::new(self.rewake);
        command
            .args(args)
            .args(["--json", "-t", &process.pid.to_string(), "-D"])
            .arg(process.dir.path().join(images));
        command.stdin(Stdio::null()).stdout(fs::File::create(&said)?);
        let mut child = command.spawn()?;
        let mut cost = Cost::default();
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            cost.peak_kib = cost.peak_kib.max(peak_kib(&proc).unwrap_or(0));
            cost.descriptors = cost.descriptors.max(fs::read_dir(proc.join("fd")).map_or(0, Iterator::count));
            // Peaks are looked for: nothing tells when one has come.
            std::thread::sleep(Duration::from_millis(2));
        };
        ensure!(status.success(), "rewake {args:?}: {status}");
        Ok((serde_json::from_str(&fs::read_to_string(&said)?)?, cost))
    }

    /// A run of CRIU: its statistics. `None` without one.
    fn by_peer(&self, process: &Process, args: &[&str]) -> Result<Option<Value>> {
        let Some(peer) = self.peer else { return Ok(None) };
        let images = process.dir.path().join("theirs");
        fs::create_dir(&images)?;
        let mut command = peer.criu();
        command.args(args).args(["-t", &process.pid.to_string(), "-D"]).arg(&images);
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "CRIU {args:?}: {}", said.trim());
        let mut decode = Command::new(self.rewake);
        let stats = decode.args(["crit", "decode", "-i"]).arg(images.join("stats-dump")).output()?;
        let stats: Value = serde_json::from_slice(&stats.stdout)?;
        fs::remove_dir_all(&images)?;
        Ok(stats.pointer("/entries/0/dump").cloned())
    }
}

/// A process to be dumped, with a directory for that. Killed at the end.
struct Process {
    pid: Pid,
    dir: tempfile::TempDir,
}

impl Process {
    fn start(load: &Path, args: &[&str], dir: &Path) -> Result<Self> {
        let dir = tempfile::tempdir_in(dir)?;
        Ok(Self { pid: start(load, args, dir.path())?, dir })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is a child of ours, so the pid is its own until it is waited for.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

fn peak_kib(proc: &Path) -> Option<u64> {
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn number(report: &Value, name: &str) -> Result<u64> {
    report.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {report}"))
}

/// A time of a report of ours.
fn ms(report: &Value, name: &str) -> Result<f64> {
    let part = |part: &str| report.pointer(&format!("/{name}/{part}")).and_then(Value::as_f64);
    let (secs, nanos) = part("secs").zip(part("nanos")).with_context(|| format!("no {name} in {report}"))?;
    Ok(secs * 1e3 + nanos / 1e6)
}

/// A time of CRIU's statistics, in milliseconds.
fn micros(stats: &Value, name: &str) -> Result<f64> {
    let micros = stats.get(name).and_then(Value::as_f64);
    Ok(micros.with_context(|| format!("no {name} in {stats}"))? / 1e3)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn verdict(met: bool, goal: String) -> String {
    format!("goal {goal}: {}", if met { "met" } else { "MISSED" })
}
