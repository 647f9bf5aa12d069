//! All cases, each in its own pid namespace, and the table of what came of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result, bail};
use rewake_testkit::{in_pid_namespace, scenarios};

use super::{known, ways::Way};
use crate::{codegen, peer::Peer};

/// What came of a case.
enum Outcome {
    Passed,
    /// Failed for a reason that is known.
    Known(&'static str),
    Failed(String),
}

/// Runs the named scenarios, or all, in the given ways.
pub(crate) fn run(names: &[&str]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("interop runs need root: they stop, kill and restore processes");
    }
    Peer::open()?;
    let begun = Instant::now();
    let rewake = build()?;
    let mut chosen: Vec<String> = scenarios()?.into_iter().map(|scenario| scenario.name).collect();
    if let Some(unknown) = names.iter().find(|name| !chosen.iter().any(|known| known == *name)) {
        bail!("no scenario is called {unknown}; there are: {}", chosen.join(", "));
    }
    chosen.retain(|name| names.is_empty() || names.contains(&name.as_str()));
    let cases: Vec<(&str, Way)> =
        chosen.iter().flat_map(|name| Way::ALL.map(|way| (name.as_str(), way))).collect();
    let outcomes = all(&cases, &rewake)?;
    table(&chosen, &cases, &outcomes);
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let known = count(|outcome| matches!(outcome, Outcome::Known(_)));
    let passed = outcomes.len() - failed - known;
    println!("{known} failed for a known reason; {:.1} s", begun.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} interop cases failed; their files are in {}", folder().display());
    }
    Ok(())
}

/// Builds what is tested, and says where the command is.
pub(super) fn build() -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", "rewake-cli", "--bin", "rewake"])
        .current_dir(codegen::root())
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("rewake does not build");
    }
    // Cargo puts it beside this program.
    Ok(std::env::current_exe()?.with_file_name("rewake"))
}

/// Where the cases keep their files; those of failed ones stay.
fn folder() -> PathBuf {
    codegen::root().join("target/interop")
}

fn all(cases: &[(&str, Way)], rewake: &Path) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Outcome)>> = Mutex::new(Vec::new());
    let folder = folder();
    remove(&folder)?;
    fs::create_dir_all(&folder)?;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((scenario, way)) = cases.get(index) else { break };
                    let outcome = one(scenario, *way, rewake, &folder);
                    if let Ok(mut done) = done.lock() {
                        done.push((index, outcome));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().context("a worker panicked")?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

fn one(scenario: &str, way: Way, rewake: &Path, folder: &Path) -> Outcome {
    let dir = folder.join(format!("{scenario}-{way}"));
    let reason = match namespace(scenario, way, rewake, &dir) {
        Ok(reason) => reason,
        Err(error) => Some(format!("{error:#}")),
    };
    match (reason, known::reason(scenario, way)) {
        (None, _) => {
            // Only the files of failures are worth keeping.
            let _ = fs::remove_dir_all(&dir);
            Outcome::Passed
        }
        (Some(_), Some(known)) => Outcome::Known(known),
        (Some(said), None) => Outcome::Failed(said),
    }
}

/// Runs the case as pid 2 of a new namespace; what it said, if it failed.
fn namespace(scenario: &str, way: Way, rewake: &Path, dir: &Path) -> Result<Option<String>> {
    fs::create_dir(dir)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["interop", "case", scenario, way.name()]).arg(rewake).arg(dir);
    // The reason goes into one line of the table.
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    in_pid_namespace(&mut command);
    let output = command.output().context("making a pid namespace")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = said.trim().trim_start_matches("Error: ").split_whitespace().collect();
    Ok((!output.status.success()).then(|| words.join(" ")))
}

fn table(scenarios: &[String], cases: &[(&str, Way)], outcomes: &[Outcome]) {
    let width = scenarios.iter().map(String::len).max().unwrap_or(0);
    print!("\n{:width$}", "");
    for way in Way::ALL {
        print!("  {way:9}");
    }
    println!();
    for (row, name) in scenarios.iter().enumerate() {
        print!("{name:width$}");
        for outcome in outcomes.iter().skip(row * Way::ALL.len()).take(Way::ALL.len()) {
            let word = match outcome {
                Outcome::Passed => "ok",
                Outcome::Known(_) => "known",
                Outcome::Failed(_) => "FAILED",
            };
            print!("  {word:9}");
        }
        println!();
    }
    println!();
    for ((scenario, way), outcome) in cases.iter().zip(outcomes) {
        match outcome {
            Outcome::Passed => {}
            Outcome::Known(reason) => println!("known   {scenario} {way}: {reason}"),
            Outcome::Failed(said) => println!("FAILED  {scenario} {way}: {said}"),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
