//! `rewake dump`

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use rewake_dump::{After, DumpReport, Rounds};

use crate::every::EveryArgs;
use crate::files::FileArgs;
use crate::target::{TargetArgs, frozen, memory_line, pages};

/// Write a running process to a checkpoint
///
/// With --prev-images-dir, what did not change since that is left to it: pages are compared while the process runs and its
/// writes are tracked, so that it stands only for those it writes meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Let the process go on afterwards
    #[arg(short = 'R', long, conflicts_with = "leave_stopped")]
    leave_running: bool,
    /// Let the process go on as soon as a copy of it holds its memory, which is then written at leisure
    #[arg(long, requires = "leave_running")]
    snapshot: bool,
    /// Leave the process stopped afterwards (SIGSTOP)
    #[arg(short = 's', long)]
    leave_stopped: bool,
    /// First copy memory in so many rounds while the process runs, or in as many as pay
    #[arg(long, value_name = "N|auto", value_parser = parse_rounds, conflicts_with = "page_server")]
    pre_dumps: Option<PreDumps>,
    /// With --pre-dumps auto: how long the process may stand still, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10, requires = "pre_dumps")]
    max_freeze: u64,
    /// Find out what changed by comparing pages only: slower, but tracking writes can be noticed by programs that move
    /// memory of several mappings at once
    #[arg(long)]
    compare_pages: bool,
    #[command(flatten)]
    every: EveryArgs,
    #[command(flatten)]
    files: FileArgs,
    /// Bytes of files that may be hashed, while the process still runs
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = crate::size::parse)]
    hash_bytes: u64,
    /// Seconds that may go into that
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    hash_seconds: u64,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut options = args.target.options()?;
    options.after = match (args.leave_running, args.leave_stopped) {
        (true, _) => After::LeaveRunning,
        (_, true) => After::LeaveStopped,
        _ => After::Kill,
    };
    options.files.policy = args.files.policy()?;
    options.files.cache = args.files.cache();
    options.files.hash_bytes = args.hash_bytes;
    options.files.hash_time = Duration::from_secs(args.hash_seconds);
    options.snapshot = args.snapshot;
    options.compare_pages = args.compare_pages;
    if let Some(code) = args.every.run(&args.target, &options, out)? {
        return Ok(code);
    }
    let rounds = args.pre_dumps.map(|rounds| match rounds {
        PreDumps::Fixed(count) => Rounds::Fixed(count),
        PreDumps::Auto => Rounds::Auto { max_freeze: Duration::from_millis(args.max_freeze) },
    });
    let Some(rounds) = rounds else {
        let report = rewake_dump::dump(&options);
        // The bar is gone before anything else is said.
        drop(options);
        return show(args, &report?, out);
    };
    let reports = rewake_dump::dump_in_rounds(&options, rounds);
    drop(options);
    let mut reports = reports?;
    if args.target.json {
        args.target.show_json(&reports, out)?;
        return Ok(crate::DONE);
    }
    let last = reports.pop().context("a dump has a report")?;
    for (round, report) in (1..).zip(&reports) {
        writeln!(out, "round {round}: {}", memory_line(report))?;
    }
    show(args, &last, out)
}

#[derive(Debug, Clone, Copy)]
enum PreDumps {
    Fixed(usize),
    Auto,
}

fn parse_rounds(text: &str) -> Result<PreDumps, String> {
    match text {
        "auto" => Ok(PreDumps::Auto),
        _ => text.parse().map(PreDumps::Fixed).map_err(|_| "neither a number nor auto".to_owned()),
    }
}

fn show(args: &Args, report: &DumpReport, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.target.json {
        args.target.show_json(report, out)?;
    } else {
        writeln!(
            out,
            "dumped pid {}: {} threads, {} mappings, {} descriptors, {}; {}",
            args.target.pid,
            report.threads,
            report.mappings,
            report.descriptors,
            pages(report),
            frozen(report),
        )?;
    }
    Ok(crate::DONE)
}
