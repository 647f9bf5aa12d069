//! A program with state to lose. Each scenario sets up kernel state of one kind, says that it is ready,
//! waits for SIGTERM, and then proves that everything is as it was.
//!
//! ```text
//! rewake-workload SCENARIO --ready FIFO --result FILE
//! rewake-workload --list
//! ```
#![allow(unsafe_code, reason = "setting up raw kernel state is what this program is for")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "kernel interfaces want one integer type here and another there; all values are this program's own"
)]
#![allow(
    clippy::indexing_slicing,
    reason = "a wrong index is a bug of the scenario and fails it, as it should"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod scenarios;
mod stage;
mod sys;

use std::{path::PathBuf, process::ExitCode};

use stage::{Check, Stage};

/// One kind of state.
struct Scenario {
    name: &'static str,
    needs_root: bool,
    /// Whoever dumps it stops it before.
    stopped: bool,
    run: fn(&Stage) -> Check,
}

const USAGE: &str =
    "usage: rewake-workload SCENARIO --ready FIFO --result FILE\n       rewake-workload --list";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, ready, result) = match words.as_slice() {
        ["--list"] => {
            for scenario in scenarios::ALL {
                let root = if scenario.needs_root { "\troot" } else { "" };
                let stopped = if scenario.stopped { "\tstopped" } else { "" };
                println!("{}{root}{stopped}", scenario.name);
            }
            return ExitCode::SUCCESS;
        }
        [name, "--ready", ready, "--result", result] | [name, "--result", result, "--ready", ready] => {
            (*name, PathBuf::from(*ready), PathBuf::from(*result))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Some(scenario) = scenarios::ALL.iter().find(|scenario| scenario.name == name) else {
        eprintln!("no scenario is called {name}; --list shows them all");
        return ExitCode::from(2);
    };
    let stage = Stage::new(ready, result);
    let outcome =
        sys::signal::block(&[libc::SIGTERM]).map_err(Into::into).and_then(|()| (scenario.run)(&stage));
    if let Err(failure) = &outcome {
        eprintln!("{name}: {failure}");
    }
    match stage.leave_result(&outcome) {
        Ok(()) if outcome.is_ok() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: the result cannot be written: {error}");
            ExitCode::from(3)
        }
    }
}
