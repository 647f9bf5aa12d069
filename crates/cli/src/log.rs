//! Where messages go.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tracing::level_filters::LevelFilter;

use crate::Command;

#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// More messages; repeat it, or give a number from 0 to 4 with -v4
    #[arg(short = 'v', long = "verbosity", global = true, num_args = 0..=1, default_missing_value = "3",
          value_name = "LEVEL", value_parser = parse_level)]
    verbosity: Option<u8>,
}

/// Scripts for CRIU also have `-verbosity=4`, which is -v with the value `erbosity=4`.
fn parse_level(text: &str) -> Result<u8, String> {
    let number = text.strip_prefix("erbosity=").unwrap_or(text).parse().ok();
    number.filter(|level| *level <= 4).ok_or_else(|| "not a number from 0 to 4".to_owned())
}

/// Where the messages of a dump or a restore go.
#[derive(Debug, clap::Args)]
pub(crate) struct LogFile {
    /// Write messages to this file instead of standard error; relative to the working directory
    #[arg(short = 'o', long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Where names of log and pid files begin [default: the images directory]
    #[arg(short = 'W', long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

impl LogFile {
    pub(crate) fn work_dir<'a>(&'a self, images_dir: &'a Path) -> &'a Path {
        self.work_dir.as_deref().unwrap_or(images_dir)
    }
}

/// Sets up messages as CRIU counts them: 0 none, 1 errors, 2 warnings (the default), 3 what is done, 4 everything.
/// Gives whether they go to a file.
pub(crate) fn install(args: &LogArgs, command: &Command) -> anyhow::Result<bool> {
    let level = match args.verbosity.unwrap_or(2) {
        0 => LevelFilter::OFF,
        1 => LevelFilter::ERROR,
        2 => LevelFilter::WARN,
        3 => LevelFilter::INFO,
        _ => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    match log_file(command) {
        Some(path) => {
            let file =
                File::create(&path).with_context(|| format!("cannot create log {}", path.display()))?;
            builder.with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
            Ok(true)
        }
        None => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.without_time().with_ansi(colour).with_writer(std::io::stderr).init();
            Ok(false)
        }
    }
}

fn log_file(command: &Command) -> Option<PathBuf> {
    let (dir, log) = match command {
        Command::Dump(args) => (&args.target.images_dir, &args.target.log),
        Command::PreDump(args) => (&args.target.images_dir, &args.target.log),
        Command::Restore(args) => (&args.images_dir, &args.log),
        Command::PageServer(args) => (&args.images_dir, &args.log),
        Command::Dedup(args) => (&args.images_dir, &args.log),
        _ => return None,
    };
    log.log_file.as_ref().map(|name| log.work_dir(dir).join(name))
}
