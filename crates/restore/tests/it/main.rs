//! Real processes, dumped, killed and woken up again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod bad;
mod cancel;
mod chain;
mod compressed;
mod midway;
mod periodic;
mod programs;
mod refused;

use std::path::Path;
use std::time::Duration;

use rewake_dump::{After, DumpError, DumpOptions, dump};
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{Scenario, Workload, kernel_test, scenarios};

const PATIENCE: Duration = Duration::from_secs(60);

/// Dumps a workload, which kills it, and restores it.
fn through(workload: Workload, images: &Path) -> Result<Workload, String> {
    let mut options = DumpOptions::new(workload.pid(), images);
    options.file_locks = true;
    dump(&options).map_err(|e| format!("dump: {}", chain(&e)))?;
    workload.wait_end(PATIENCE).unwrap();
    restore(&RestoreOptions::new(images)).map_err(|e| format!("restore: {}", chain(&e)))?;
    Ok(Workload::adopt(workload.pid(), workload.dir()).unwrap())
}

/// What the workload says of its state.
fn verdict(workload: &Workload) -> String {
    workload.trigger().unwrap();
    workload.wait_result(PATIENCE).unwrap_or_else(|error| format!("FAIL {error}"))
}

fn there_and_back(scenario: &Scenario, dir: &Path) -> Result<String, String> {
    let workload = scenario.start(dir).map_err(|e| format!("start: {}", chain(&e)))?;
    let workload = through(workload, &dir.join("images"))?;
    scenario.verdict(&workload).map_err(|e| chain(&e))
}

/// Dumps a workload, which goes on.
fn looked_at(scenario: &Scenario, dir: &Path) -> Result<String, String> {
    let workload = scenario.start(dir).map_err(|e| format!("start: {}", chain(&e)))?;
    let mut options = DumpOptions::new(workload.pid(), dir.join("images"));
    options.after = After::LeaveRunning;
    options.file_locks = true;
    dump(&options).map_err(|e| format!("dump: {}", chain(&e)))?;
    scenario.verdict(&workload).map_err(|e| chain(&e))
}

/// Takes every scenario one way and reports those that did not survive.
fn every_scenario(way: fn(&Scenario, &Path) -> Result<String, String>) {
    let mut failures = Vec::new();
    for scenario in scenarios().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        match way(&scenario, dir.path()) {
            Ok(verdict) if verdict == "PASS" => {}
            Ok(other) | Err(other) => failures.push(format!("{}: {other}", scenario.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

kernel_test! {
    fn every_scenario_survives() {
        every_scenario(there_and_back);
    }

    fn every_scenario_survives_being_looked_at() {
        every_scenario(looked_at);
    }
}

kernel_test! {
    fn twice_in_a_row() {
        let dir = tempfile::tempdir().unwrap();
        let mut workload = Workload::spawn("minimal", dir.path()).unwrap();
        for round in 0..3 {
            workload = through(workload, &dir.path().join(format!("images-{round}"))).unwrap();
        }
        assert_eq!(verdict(&workload), "PASS");
    }
}

kernel_test! {
    fn a_stopped_process_comes_back_stopped() {
        use nix::sys::signal::{Signal, kill};
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        kill(workload.pid(), Signal::SIGSTOP).unwrap();
        wait_state(workload.pid(), 'T');
        let workload = through(workload, &dir.path().join("images")).unwrap();
        wait_state(workload.pid(), 'T');
        kill(workload.pid(), Signal::SIGCONT).unwrap();
        assert_eq!(verdict(&workload), "PASS");
    }
}

fn wait_state(pid: nix::unistd::Pid, state: char) {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        if rest.starts_with(state) {
            return;
        }
        std::thread::yield_now();
    }
}

kernel_test! {
    fn a_pid_in_use_is_told_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let images = dir.path().join("images");
        let mut options = DumpOptions::new(workload.pid(), &images);
        options.after = After::LeaveRunning;
        dump(&options).unwrap();
        let error = restore(&RestoreOptions::new(&images)).unwrap_err();
        assert_eq!(error.to_string(), format!("pid {} is in use", workload.pid()));
        assert!(matches!(dump(&options), Err(DumpError::Image(rewake_images::ImageError::Exists { .. }))));
        assert_eq!(verdict(&workload), "PASS");
    }
}
