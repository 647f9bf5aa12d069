//! Every scenario, set up and asked at once.

use std::time::Duration;

use rewake_testkit::{TestkitError, Workload, scenarios};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
#[expect(clippy::print_stderr, reason = "what a test prints is its report")]
fn every_scenario_passes_when_nothing_happens() {
    let root = nix::unistd::geteuid().is_root();
    let mut failures = Vec::new();
    for scenario in scenarios().unwrap() {
        if scenario.needs_root && !root {
            eprintln!("skipped {}: needs root", scenario.name);
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let result = scenario.start(dir.path()).and_then(|workload| scenario.verdict(&workload));
        match result {
            Ok(result) if result == "PASS" => {}
            other => failures.push(format!("{}: {other:?}", scenario.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_list_names_scenarios_once() {
    let scenarios = scenarios().unwrap();
    for name in ["minimal", "threads"] {
        assert_eq!(scenarios.iter().filter(|scenario| scenario.name == name).count(), 1, "{name}");
    }
}

#[test]
fn a_workload_that_never_gets_ready_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let error = Workload::spawn("no-such-scenario", dir.path()).unwrap_err();
    assert!(
        matches!(&error, TestkitError::EndedEarly { said, .. } if said.contains("no scenario")),
        "{error:?}"
    );
}

#[test]
fn a_killed_workload_leaves_no_result() {
    let dir = tempfile::tempdir().unwrap();
    let workload = Workload::spawn("minimal", dir.path()).unwrap();
    workload.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    let error = workload.wait_result(LIMIT).unwrap_err();
    assert!(matches!(error, TestkitError::NoResult { .. }), "{error:?}");
}
