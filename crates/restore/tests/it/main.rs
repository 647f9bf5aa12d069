//! Real processes, dumped, killed and woken up again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod bad;
mod programs;

use std::path::Path;
use std::time::Duration;

use rewake_dump::{After, DumpError, DumpOptions, dump};
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{Workload, kernel_test};

/// Names of all scenarios.
fn scenarios() -> Vec<String> {
    rewake_testkit::scenarios().unwrap().into_iter().map(|scenario| scenario.name).collect()
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Dumps a workload, which kills it, and restores it.
fn through(workload: Workload, images: &Path) -> Result<Workload, String> {
    dump(&DumpOptions::new(workload.pid(), images)).map_err(|e| format!("dump: {}", chain(&e)))?;
    workload.wait_end(PATIENCE).unwrap();
    restore(&RestoreOptions::new(images)).map_err(|e| format!("restore: {}", chain(&e)))?;
    Ok(Workload::adopt(workload.pid(), workload.dir()).unwrap())
}

/// What the workload says of its state.
fn verdict(workload: &Workload) -> String {
    workload.trigger().unwrap();
    workload.wait_result(PATIENCE).unwrap_or_else(|error| format!("FAIL {error}"))
}

fn there_and_back(scenario: &str, dir: &Path) -> Result<String, String> {
    let workload = Workload::spawn(scenario, dir).map_err(|e| format!("start: {e}"))?;
    through(workload, &dir.join("images")).map(|workload| verdict(&workload))
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
        let mut failures = Vec::new();
        for scenario in scenarios() {
            let dir = tempfile::tempdir().unwrap();
            match there_and_back(&scenario, dir.path()) {
                Ok(verdict) if verdict == "PASS" => {}
                Ok(other) | Err(other) => failures.push(format!("{scenario}: {other}")),
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

kernel_test! {
    fn every_scenario_survives_being_looked_at() {
        let mut failures = Vec::new();
        for scenario in scenarios() {
            let dir = tempfile::tempdir().unwrap();
            let workload = match Workload::spawn(&scenario, dir.path()) {
                Ok(workload) => workload,
                Err(error) => {
                    failures.push(format!("{scenario}: start: {error}"));
                    continue;
                }
            };
            let mut options = DumpOptions::new(workload.pid(), dir.path().join("images"));
            options.after = After::LeaveRunning;
            if let Err(error) = dump(&options) {
                failures.push(format!("{scenario}: {}", chain(&error)));
                continue;
            }
            let verdict = verdict(&workload);
            if verdict != "PASS" {
                failures.push(format!("{scenario}: {verdict}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
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
