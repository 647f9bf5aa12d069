//! The `rewake` command.
#![forbid(unsafe_code)]

mod check;
mod core;
mod crit;
mod crit_compress;
mod crit_tool;
mod crit_x;
mod criu_args;
mod dedup;
mod demo;
mod diff;
mod dump;
mod every;
mod files;
mod inspect;
mod log;
mod memory;
mod page_server;
mod peer;
mod pre_dump;
mod progress;
mod ready;
mod recode;
mod restore;
mod size;
mod source;
mod stamp;
mod target;
mod validate;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Checkpoint and restore running Linux processes, in CRIU's image format.
#[derive(Debug, Parser)]
#[command(name = "rewake", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    log: log::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dump(dump::Args),
    PreDump(pre_dump::Args),
    Restore(restore::Args),
    Check(check::Args),
    Crit(crit_tool::Args),
    Inspect(inspect::Args),
    Memory(memory::Args),
    Core(core::Args),
    Validate(validate::Args),
    Diff(diff::Args),
    Recode(recode::Args),
    Verify(verify::Args),
    Stamp(stamp::Args),
    Dedup(dedup::Args),
    PageServer(page_server::Args),
    Demo(demo::Args),
}

/// Done, as asked.
const DONE: u8 = 0;
/// What was watched is not there any more.
const ENDED: u8 = 1;
/// It failed, and changed nothing.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    if crit_tool::is_wanted() {
        return crit_tool::main();
    }
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    let mut logged = false;
    let outcome = log::install(&cli.log, &cli.command).and_then(|to_file| {
        logged = to_file;
        run(&cli.command, &mut out)
    });
    match outcome.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::from(DONE),
        Err(error) => {
            // Who asked for a log looks there.
            if logged {
                tracing::error!("{error:#}");
            }
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "rewake: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: &Command, out: &mut impl Write) -> anyhow::Result<u8> {
    match command {
        Command::Dump(args) => dump::run(args, out),
        Command::PreDump(args) => pre_dump::run(args, out),
        Command::Restore(args) => restore::run(args, out),
        Command::Check(args) => check::run(args, out),
        Command::Crit(args) => crit_tool::run(args, out),
        Command::Inspect(args) => inspect::run(args, out),
        Command::Memory(args) => memory::run(args, out),
        Command::Core(args) => core::run(args, out),
        Command::Validate(args) => validate::run(args, out),
        Command::Diff(args) => diff::run(args, out),
        Command::Recode(args) => recode::run(args, out),
        Command::Verify(args) => verify::run(args, out),
        Command::Stamp(args) => stamp::run(args, out),
        Command::Dedup(args) => dedup::run(args, out),
        Command::PageServer(args) => page_server::run(args, out),
        Command::Demo(args) => demo::run(args, out),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// No two options of a command share a name, and so on.
    #[test]
    fn commands_are_sound() {
        super::Cli::command().debug_assert();
    }
}
