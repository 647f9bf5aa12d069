//! `rewake dump --every`: how it ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_testkit::kernel_test;

/// Kills and reaps it at the end of a test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleeper() -> Running {
    let mut command = Command::new("sleep");
    command.arg("1000").stdout(Stdio::null()).stderr(Stdio::null());
    rewake_testkit::detach(&mut command);
    Running::start(&mut command)
}

fn checkpoints(of: &Running, dir: &Path, said: &Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
    command.args([
        "dump",
        "-R",
        "--every",
        "0.02",
        "--keep",
        "2",
        "--json",
        "-t",
        &of.pid().to_string(),
        "-D",
    ]);
    Running::start(command.arg(dir).stdout(fs::File::create(said).unwrap()))
}

/// Waits until the link leads to a checkpoint of at least this number.
fn wait_latest(dir: &Path, number: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let latest = || fs::read_link(dir.join("latest")).ok()?.to_str()?.parse::<u64>().ok();
    while latest().is_none_or(|latest| latest < number) {
        assert!(Instant::now() < deadline, "no checkpoint {number}");
        std::thread::yield_now();
    }
}

kernel_test! {
    fn a_signal_ends_it_well_and_the_end_of_the_process_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (series, said) = (dir.path().join("series"), dir.path().join("said"));
        let mut sleeping = sleeper();
        let mut run = checkpoints(&sleeping, &series, &said);
        wait_latest(&series, 3);
        kill(run.pid(), Signal::SIGTERM).unwrap();
        assert_eq!(run.0.wait().unwrap().code(), Some(0));
        assert!(sleeping.0.try_wait().unwrap().is_none(), "it goes on");
        let text = fs::read_to_string(&said).unwrap();
        assert!(text.lines().count() >= 3 && text.lines().all(|line| line.contains("\"parent_pages\"")), "{text}");

        let more = fs::read_link(series.join("latest")).unwrap().to_str().unwrap().parse::<u64>().unwrap() + 2;
        let mut run = checkpoints(&sleeping, &series, &said);
        wait_latest(&series, more);
        sleeping.0.kill().unwrap();
        sleeping.0.wait().unwrap();
        assert_eq!(run.0.wait().unwrap().code(), Some(1));
        let latest = fs::canonicalize(series.join("latest")).unwrap();
        assert!(is_whole(&latest));
    }
}

/// Whether our own checks find nothing wrong with it.
fn is_whole(dir: &Path) -> bool {
    Command::new(env!("CARGO_BIN_EXE_rewake")).args(["validate"]).arg(dir).status().unwrap().success()
}
