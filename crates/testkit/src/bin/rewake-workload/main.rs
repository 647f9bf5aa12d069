//! Sets up some kernel state, waits, and proves that the state survived.
//!
//! `rewake-workload SCENARIO --ready FIFO --result FILE`: opens FIFO for writing once the state is there and closes it
//! again, waits for SIGTERM, checks everything, writes `PASS` or `FAIL reason` to FILE and exits with 0 or 1.
#![allow(unsafe_code, reason = "the point is to use the kernel's interfaces as they are")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test program: whatever goes wrong ends it with a message"
)]

mod basic;
mod harness;

use harness::Scenario;

/// Every scenario, by the name of the kernel object it is about.
fn scenarios() -> Vec<Scenario> {
    let groups: [&[Scenario]; 1] = [basic::SCENARIOS];
    groups.concat()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    if name == "--list" {
        for scenario in scenarios() {
            println!("{}{}", scenario.name, if scenario.needs_root { " (root)" } else { "" });
        }
        return;
    }
    let (mut ready, mut result) = (None, None);
    while let Some(option) = args.next() {
        match option.as_str() {
            "--ready" => ready = args.next(),
            "--result" => result = args.next(),
            other => panic!("unknown option {other}"),
        }
    }
    let scenario = scenarios().into_iter().find(|s| s.name == name);
    let scenario = scenario.unwrap_or_else(|| panic!("no scenario {name}; --list names them"));
    harness::run(&scenario, &ready.expect("--ready FIFO"), &result.expect("--result FILE"));
}
