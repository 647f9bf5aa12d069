//! `rewake dump`

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;
use rewake_dump::{After, DumpOptions};

use crate::files::FileArgs;

/// Write a running process to a checkpoint
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process
    #[arg(short = 't', long = "tree", value_name = "PID")]
    pid: i32,
    /// Where the checkpoint goes
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    /// Let the process go on afterwards
    #[arg(short = 'R', long, conflicts_with = "leave_stopped")]
    leave_running: bool,
    /// Leave the process stopped afterwards (SIGSTOP)
    #[arg(short = 's', long)]
    leave_stopped: bool,
    /// Accepted for CRIU's sake: a process whose session leader is outside is dumped without it, too
    #[arg(short = 'j', long)]
    shell_job: bool,
    /// Take along files that were deleted while open, up to this size
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    ghost_limit: u64,
    /// The checkpoint or pre-dump before this one, which keeps what did not change; relative to the images directory
    #[arg(long, value_name = "DIR")]
    prev_images_dir: Option<PathBuf>,
    /// This checkpoint will be the parent of a later one
    #[arg(long)]
    track_mem: bool,
    /// Threads that copy memory [default: one per CPU]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    files: FileArgs,
    /// Bytes of files that may be hashed, while the process still runs
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 30)]
    hash_bytes: u64,
    /// Seconds that may go into that
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    hash_seconds: u64,
    /// Report in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) log: crate::log::LogFile,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let mut options = DumpOptions::new(Pid::from_raw(args.pid), &args.images_dir);
    options.after = match (args.leave_running, args.leave_stopped) {
        (true, _) => After::LeaveRunning,
        (_, true) => After::LeaveStopped,
        _ => After::Kill,
    };
    options.ghost_limit = args.ghost_limit;
    options.files.policy = args.files.policy()?;
    options.files.cache = args.files.cache();
    options.files.hash_bytes = args.hash_bytes;
    options.files.hash_time = Duration::from_secs(args.hash_seconds);
    options.parent = args.prev_images_dir.clone();
    options.track_mem = args.track_mem;
    options.threads = args.threads.unwrap_or(options.threads);
    let report = rewake_dump::dump(&options)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        writeln!(
            out,
            "dumped pid {}: {} threads, {} mappings, {} descriptors, {} pages; frozen {:.1} ms of {:.1} ms",
            args.pid,
            report.threads,
            report.mappings,
            report.descriptors,
            report.pages,
            report.frozen.as_secs_f64() * 1e3,
            report.total.as_secs_f64() * 1e3,
        )?;
    }
    Ok(crate::DONE)
}
