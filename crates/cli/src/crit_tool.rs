//! The two ways to `crit`: as a subcommand, and the binary under that name, which has the exit statuses of CRIU's tool so
//! that a symbolic link can take its place in scripts.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::crit;

/// Look at CRIU images and change them: JSON both ways
#[derive(Debug, Parser)]
#[command(name = "crit", version)]
struct Tool {
    #[command(flatten)]
    args: crit::Args,
}

/// Look at images and change them: JSON both ways, as CRIU's crit prints it
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What crit takes; `rewake crit --help` tells
    // Parsed apart, for options mean other things there: -o is the output, not the log.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// As a subcommand.
pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let args = std::iter::once(OsStr::new("rewake crit")).chain(args.args.iter().map(OsString::as_os_str));
    match Tool::try_parse_from(args) {
        Ok(tool) => crit::run(&tool.args, out),
        Err(error) => {
            error.print()?;
            Ok(if error.use_stderr() { crate::FAILED } else { crate::DONE })
        }
    }
}

/// It failed, or there was nothing to do.
const FAILED: u8 = 1;
/// Arguments that make no sense.
const USAGE: u8 = 2;

/// Whether the binary was started as `crit`.
pub(crate) fn is_wanted() -> bool {
    let name = std::env::args_os().next();
    name.as_deref().and_then(|name| Path::new(name).file_name()) == Some(OsStr::new("crit"))
}

/// All of the program, then.
pub(crate) fn main() -> ExitCode {
    let tool = match Tool::try_parse() {
        Ok(tool) => tool,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = error.print();
            return ExitCode::from(match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => crate::DONE,
                ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => FAILED,
                _ => USAGE,
            });
        }
    };
    let mut out = std::io::stdout().lock();
    let done = crit::run(&tool.args, &mut out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) if crate::is_broken_pipe(&error) => ExitCode::from(crate::DONE),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "crit: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
