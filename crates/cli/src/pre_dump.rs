//! `rewake pre-dump`

use std::io::Write;
use std::path::PathBuf;

use nix::unistd::Pid;
use rewake_dump::DumpOptions;

/// Copy the memory of a process while it runs, so that its dump has less to copy
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process
    #[arg(short = 't', long = "tree", value_name = "PID")]
    pid: i32,
    /// Where the memory goes
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    /// The pre-dump before this one, which keeps what did not change; relative to the images directory
    #[arg(long, value_name = "DIR")]
    prev_images_dir: Option<PathBuf>,
    /// Accepted for CRIU's sake: a pre-dump is always there to be a parent
    #[arg(long)]
    track_mem: bool,
    /// Free the room of pages in earlier generations that this one makes useless
    #[arg(long, requires = "prev_images_dir")]
    auto_dedup: bool,
    /// Accepted for CRIU's sake: memory is always read
    #[arg(long, value_enum, default_value = "read")]
    pre_dump_mode: Mode,
    /// Threads that copy memory [default: one per CPU]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Report in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) log: crate::log::LogFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Read,
    Splice,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.pre_dump_mode == Mode::Splice {
        tracing::warn!(
            "memory is read, not spliced: the images are the same, and the process is not stopped for it"
        );
    }
    let mut options = DumpOptions::new(Pid::from_raw(args.pid), &args.images_dir);
    options.parent = args.prev_images_dir.clone();
    options.auto_dedup = args.auto_dedup;
    options.threads = args.threads.unwrap_or(options.threads);
    let report = rewake_dump::pre_dump(&options)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(
            out,
            "pre-dumped pid {}: {} pages, {} as before, {} lost; frozen {:.1} ms of {:.1} ms",
            args.pid,
            report.pages,
            report.parent_pages,
            report.lost_pages,
            report.frozen.as_secs_f64() * 1e3,
            report.total.as_secs_f64() * 1e3,
        )?;
    }
    Ok(crate::DONE)
}
