//! The options of all commands that write the memory of a running process, and how they report.

use std::io::Write;
use std::path::PathBuf;

use nix::unistd::Pid;
use rewake_dump::{Compression, DumpOptions, DumpReport};
use serde::Serialize;

use crate::crit_compress::BlockArgs;
use crate::peer::PeerArgs;
use crate::progress::Watcher;

#[derive(Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// The process
    #[arg(short = 't', long = "tree", value_name = "PID")]
    pub(crate) pid: i32,
    /// Where the images go
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    /// The checkpoint or pre-dump before this one, which keeps what did not change; relative to the images directory
    #[arg(long, value_name = "DIR")]
    prev_images_dir: Option<PathBuf>,
    /// This one will be the parent of a later one (a pre-dump always can be)
    #[arg(long)]
    track_mem: bool,
    /// Free the room of pages in earlier generations that this one makes useless
    #[arg(long)]
    auto_dedup: bool,
    /// Take along files that were deleted while open, up to this size
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = crate::size::parse)]
    ghost_limit: u64,
    /// Take along locks on files: the restored process takes them again. Only if nobody else changes the files meanwhile
    #[arg(short = 'l', long)]
    file_locks: bool,
    /// Compress pages with LZ4, each for itself unless --compress-region is given. CRIU up to 4.2 cannot restore that
    #[arg(short = 'c', long)]
    compress: bool,
    #[command(flatten)]
    blocks: BlockArgs,
    /// Threads that copy memory [default: one per CPU]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Accepted for CRIU's sake: memory is always read
    #[arg(long, value_enum, default_value = "read")]
    pre_dump_mode: Mode,
    /// Report in JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Send memory to a page server instead of writing it into the images directory
    #[arg(long, conflicts_with_all = ["compress", "compress_region"])]
    page_server: bool,
    #[command(flatten)]
    peer: PeerArgs,
    #[command(flatten)]
    pub(crate) log: crate::log::LogFile,
    /// CRIU has it for all commands; a dump has no new process to name.
    #[arg(long, hide = true, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    // CRIU gives up on a process that does not stop; ours can be ended by a signal then, and lets go of it.
    #[arg(long, hide = true, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    criu: crate::criu_args::CriuArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Read,
    Splice,
}

impl TargetArgs {
    /// Connects to the page server, too, if there is to be one.
    pub(crate) fn options(&self) -> anyhow::Result<DumpOptions> {
        if self.pre_dump_mode == Mode::Splice {
            tracing::info!("memory is read, not spliced: the images are the same");
        }
        let mut options = DumpOptions::new(Pid::from_raw(self.pid), &self.images_dir);
        options.parent.clone_from(&self.prev_images_dir);
        options.ghost_limit = self.ghost_limit;
        options.file_locks = self.file_locks;
        options.track_mem = self.track_mem;
        options.auto_dedup = self.auto_dedup;
        options.compress = self.blocks.region().or(self.compress.then_some(Compression::PerPage));
        options.threads = self.threads.unwrap_or(options.threads);
        let what = if options.parent.is_some() { "changed memory" } else { "memory" };
        let watcher = Watcher::new(what, self.json);
        if self.page_server {
            options.memory_target = Some(self.peer.sender(&watcher)?);
        }
        options.progress = Some(watcher.until_signal()?);
        Ok(options)
    }

    pub(crate) fn show_json(&self, report: &impl Serialize, out: &mut impl Write) -> anyhow::Result<()> {
        Ok(writeln!(out, "{}", serde_json::to_string_pretty(report)?)?)
    }
}

/// What a round of memory copied.
pub(crate) fn memory_line(report: &DumpReport) -> String {
    format!(
        "{}, {} as before, {} lost; {}",
        pages(report),
        report.parent_pages,
        report.lost_pages,
        frozen(report)
    )
}

/// How many pages were written, and what they take if that is not their own size.
pub(crate) fn pages(report: &DumpReport) -> String {
    let plain = report.pages * 4;
    match report.pages_bytes.div_ceil(1024) {
        kib if kib == plain => format!("{} pages", report.pages),
        kib => format!("{} pages ({plain} KiB compressed to {kib} KiB)", report.pages),
    }
}

pub(crate) fn frozen(report: &DumpReport) -> String {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    format!("frozen {:.1} ms of {:.1} ms", ms(report.frozen), ms(report.total))
}
