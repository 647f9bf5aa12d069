//! `rewake restore`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rewake_filecheck::{Report, Severity};
use rewake_images::Checkpoint;
use rewake_restore::{RestoreError, RestoreOptions, RestoreReport};

use crate::files::{FileArgs, exit_status};
use crate::peer::PeerArgs;
use crate::progress::Watcher;
use crate::ready::ReadyArgs;

/// Wake a process up again from a checkpoint
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    /// Come back as soon as the process runs, instead of waiting for its end
    #[arg(short = 'd', long)]
    restore_detached: bool,
    /// Leave the process stopped (SIGSTOP)
    #[arg(short = 's', long)]
    leave_stopped: bool,
    #[command(flatten)]
    ready: ReadyArgs,
    /// Once the process runs, free the room of all its pages in the checkpoint, which cannot be restored again then
    #[arg(long)]
    auto_dedup: bool,
    /// Only say, in JSON, what would be done
    #[arg(long)]
    plan: bool,
    /// Threads that copy memory [default: one per CPU]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    files: FileArgs,
    /// Let files pass whose permission bits are others
    #[arg(long)]
    skip_file_rwx_check: bool,
    /// Report in JSON
    #[arg(long)]
    json: bool,
    /// Fetch memory that the dumper kept (criu dump --lazy-pages) from there, all of it before the process runs
    #[arg(long)]
    page_server: bool,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    pub(crate) log: crate::log::LogFile,
    #[command(flatten)]
    criu: crate::criu_args::OtherCriuArgs,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.plan {
        let checkpoint = Checkpoint::open(&args.images_dir)?;
        let plan = rewake_restore::plan(&checkpoint, &rewake_restore::own_mappings()?)?;
        writeln!(out, "{}", serde_json::to_string_pretty(&plan)?)?;
        return Ok(crate::DONE);
    }
    let ready = args.ready.take(args.log.work_dir(&args.images_dir))?;
    let mut options = RestoreOptions::new(&args.images_dir);
    options.leave_stopped = args.leave_stopped;
    options.threads = args.threads.unwrap_or(options.threads);
    options.policy = args.files.policy()?;
    options.policy.any_mode = args.skip_file_rwx_check;
    options.hash_cache = args.files.cache();
    options.progress = Some(Watcher::new("memory", args.json));
    if args.page_server {
        options.memory_source = Some(Arc::new(args.peer.fetcher()?));
    }
    let restored = rewake_restore::restore(&options);
    // Whoever has the memory may forget it, as there is a process again, and must not otherwise.
    if let (Ok(_), Some(source)) = (&restored, &options.memory_source)
        && let Err(error) = source.close()
    {
        tracing::warn!("the page server was not told that it is done: {error}");
    }
    // The bar is gone before anything else is said.
    options.progress = None;
    let report = match restored {
        Err(RestoreError::Files { report }) => return differ(args, &report, out),
        done => done?,
    };
    for finding in report.files.findings.iter().filter(|finding| finding.severity == Severity::Warning) {
        tracing::warn!("{}: {}", finding.path.display(), finding.what);
    }
    // The process runs: what cannot be said of it is no reason to call it failed.
    if let Err(error) = ready.tell(report.pid) {
        tracing::warn!("{error:#}");
    }
    if args.auto_dedup
        && let Err(error) = rewake_memdump::spend(&args.images_dir)
    {
        tracing::warn!(%error, "the room of the checkpoint is not freed");
    }
    show(args, &report, out)?;
    if args.restore_detached {
        return Ok(crate::DONE);
    }
    out.flush()?;
    wait(&report)
}

/// The process was not restored, as its files are not, or not known to be, those of the dump.
fn differ(args: &Args, report: &Report, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        writeln!(
            std::io::stderr(),
            "rewake: not restored, files are not known to be those of the dump:\n{report}"
        )?;
    }
    Ok(exit_status(report.verdict()))
}

fn show(args: &Args, report: &RestoreReport, out: &mut impl Write) -> anyhow::Result<()> {
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "restored pid {}: {} threads, {} mappings, {} descriptors, {} pages in {:.1} ms",
        report.pid,
        report.threads,
        report.mappings,
        report.descriptors,
        report.pages,
        report.total.as_secs_f64() * 1e3,
    )?;
    Ok(())
}

/// Ends as the process ends.
fn wait(report: &RestoreReport) -> anyhow::Result<u8> {
    let pid = Pid::from_raw(i32::try_from(report.pid)?);
    match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => Ok(u8::try_from(code & 0xff)?),
        WaitStatus::Signaled(_, signal, _) => Ok(128 + u8::try_from(signal as i32)?),
        _ => Ok(crate::FAILED),
    }
}
