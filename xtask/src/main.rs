//! Development tasks: `cargo xtask <task>`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool talks to its terminal")]

mod bench;
mod ci;
mod codegen;
mod interop;
mod peer;
mod soak;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["codegen"] => codegen::run(false),
        ["codegen", "--check"] => codegen::run(true),
        ["ci"] => ci::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["soak", seconds] => soak::run(seconds),
        ["interop", rest @ ..] => interop::run(rest),
        _ => bail!(
            "usage: cargo xtask <task>

  codegen [--check]             write the Rust of proto/, or fail if it is stale
  ci                            all checks: format, generated code, lints, features, documentation
{}
{}
{}",
            soak::USAGE,
            bench::USAGE,
            interop::USAGE
        ),
    }
}
