//! Where messages go.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use tracing::level_filters::LevelFilter;

use crate::Command;

#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// More messages; repeat it, or give a number from 0 to 4 with -v4
    #[arg(short = 'v', long = "verbosity", global = true, num_args = 0..=1, default_missing_value = "3",
          value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(0..=4))]
    verbosity: Option<u8>,
}

/// Where the messages of a dump or a restore go.
#[derive(Debug, clap::Args)]
pub(crate) struct LogFile {
    /// Write messages to this file instead of standard error; relative to the images directory
    #[arg(short = 'o', long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

/// Sets up messages as CRIU counts them: 0 none, 1 errors, 2 warnings (the default), 3 what is done, 4 everything.
pub(crate) fn install(args: &LogArgs, command: &Command) -> anyhow::Result<()> {
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
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

fn log_file(command: &Command) -> Option<PathBuf> {
    let (dir, log) = match command {
        Command::Dump(args) => (&args.target.images_dir, &args.target.log),
        Command::PreDump(args) => (&args.target.images_dir, &args.target.log),
        Command::Restore(args) => (&args.images_dir, &args.log),
        Command::PageServer(args) => (&args.images_dir, &args.log),
        _ => return None,
    };
    log.log_file.as_ref().map(|name| dir.join(name))
}
