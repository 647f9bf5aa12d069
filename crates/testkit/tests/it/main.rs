//! Every scenario passes when nothing is done to it.

#![allow(clippy::print_stdout, reason = "skips are said")]

use std::process::Command;

use rewake_testkit::{Workload, workload_binary};

#[test]
fn undisturbed_scenarios_pass() {
    let list = Command::new(workload_binary()).arg("--list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.lines().count() > 0);
    for line in list.lines() {
        let (name, root) = line.split_once(' ').map_or((line, false), |(name, _)| (name, true));
        if root && !nix::unistd::geteuid().is_root() {
            println!("skipped {name}: needs root");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut workload = Workload::spawn(name, dir.path());
        assert_eq!(workload.verdict(), "PASS", "{name}");
    }
}
