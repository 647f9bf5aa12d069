//! Where the workload program is, and what it offers.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use crate::{Scenario, TestkitError};

/// All scenarios, as `rewake-workload --list` tells them.
///
/// # Errors
/// When the program cannot be built or started.
pub fn scenarios() -> Result<Vec<Scenario>, TestkitError> {
    let binary = workload_binary()?;
    let output = run(Command::new(&binary).arg("--list"))?;
    Ok(output
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let traits: Vec<&str> = words.collect();
            let has = |word| traits.contains(&word);
            Some(Scenario { name, needs_root: has("root"), stopped: has("stopped") })
        })
        .collect())
}

/// The workload program, built first if there is none or if its sources are newer.
///
/// It lies in the profile directory of the program that asks (`target/debug` and the like). Cargo builds it
/// by itself only for this crate's own tests, so the tests of other crates come here.
///
/// # Errors
/// When cargo cannot build it.
pub fn workload_binary() -> Result<PathBuf, TestkitError> {
    let exe =
        std::env::current_exe().map_err(|source| file("find", Path::new("current executable"), source))?;
    let mut profile_dir = exe.parent().unwrap_or(Path::new("."));
    if profile_dir.ends_with("deps") || profile_dir.ends_with("examples") {
        profile_dir = profile_dir.parent().unwrap_or(Path::new("."));
    }
    let binary = profile_dir.join("rewake-workload");
    if is_current(&binary) {
        return Ok(binary);
    }
    // Tests run in parallel, each perhaps in its own process: one builds, the others wait and find it done.
    let lock_path = profile_dir.join(".rewake-workload.lock");
    let lock = File::create(&lock_path).map_err(|source| file("create", &lock_path, source))?;
    lock.lock().map_err(|source| file("lock", &lock_path, source))?;
    if !is_current(&binary) {
        build(profile_dir)?;
    }
    Ok(binary)
}

fn build(profile_dir: &Path) -> Result<(), TestkitError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--package", "rewake-testkit", "--bin", "rewake-workload"]);
    command.arg("--target-dir").arg(profile_dir.parent().unwrap_or(profile_dir));
    match profile_dir.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
    }
    run(&mut command).map(drop)
}

fn is_current(binary: &Path) -> bool {
    let Ok(built) = fs::metadata(binary).and_then(|meta| meta.modified()) else { return false };
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    // No sources to compare with (the tests were moved to another machine): take what there is.
    newest(&sources).is_ok_and(|newest| newest <= built) || !sources.exists()
}

fn newest(path: &Path) -> io::Result<SystemTime> {
    let meta = fs::metadata(path)?;
    if !meta.is_dir() {
        return meta.modified();
    }
    let mut found = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(path)? {
        found = found.max(newest(&entry?.path())?);
    }
    Ok(found)
}

fn run(command: &mut Command) -> Result<String, TestkitError> {
    let line = format!("{command:?}");
    let output = command
        .output()
        .map_err(|source| TestkitError::Command { command: line.clone(), said: source.to_string() })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(TestkitError::Command { command: line, said: format!("{}: {said}", output.status) })
    }
}

pub(crate) fn file(action: &'static str, path: &Path, source: io::Error) -> TestkitError {
    TestkitError::File { action, path: path.to_owned(), source }
}
