//! `rewake page-server`

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use rewake_dump::Progress;
use rewake_images::Checkpoint;
use rewake_pageserver::{Connection, Incoming, Lender, PageServerError, accept, receive};
use serde::Serialize;

use crate::peer::PeerArgs;
use crate::progress::Watcher;
use crate::ready::{Ready, ReadyArgs};

/// Take in memory that a dump on another host sends, or send it from a checkpoint; serves one peer
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the memory goes, or the checkpoint it comes from
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub(crate) images_dir: PathBuf,
    /// Where an earlier page server put the memory of the pre-dump before; relative to the images directory
    #[arg(long, value_name = "DIR")]
    prev_images_dir: Option<PathBuf>,
    /// Free the room of pages in earlier generations that what comes makes useless
    #[arg(long, requires = "prev_images_dir")]
    auto_dedup: bool,
    #[command(flatten)]
    peer: PeerArgs,
    /// Send memory from the checkpoint to whoever asks for it
    #[arg(long, conflicts_with = "prev_images_dir")]
    lazy_pages: bool,
    /// Go on in the background as soon as others can connect
    #[arg(short = 'd', long, conflicts_with_all = ["ps_socket", "status_fd"])]
    daemon: bool,
    #[command(flatten)]
    ready: ReadyArgs,
    /// How a daemon starts itself: others connect to its standard input
    #[arg(long, hide = true)]
    listening: bool,
    /// Report in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) log: crate::log::LogFile,
    #[command(flatten)]
    criu: crate::criu_args::OtherCriuArgs,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let ready = args.ready.take(args.log.work_dir(&args.images_dir))?;
    let given = args.peer.socket()?;
    // Before anybody connects, so that a directory of no use is told now.
    let watcher = Watcher::new("memory", args.json);
    let role = Role::new(args, &watcher)?;
    if let Some(stream) = given {
        ready.tell(std::process::id())?;
        drop(watcher);
        return role.serve(args, &mut *args.peer.answer(stream)?, out);
    }
    let listener = if args.listening {
        nix::unistd::setsid()?;
        TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        let listener = args.peer.listen()?;
        writeln!(std::io::stderr(), "rewake: listening on {}", listener.local_addr()?)?;
        if args.daemon {
            drop(role);
            return daemon(ready, listener);
        }
        ready.tell(std::process::id())?;
        listener
    };
    let stream = accept(&listener)?;
    // One peer is all: others are to be told so at once.
    drop(listener);
    // A signal that asks this program to end cuts the connection, so that nothing half received is left. Before there is
    // one, it has its usual effect.
    watcher.cut_on_signal(stream.try_clone()?)?;
    // The bar is gone when the role is.
    drop(watcher);
    role.serve(args, &mut *args.peer.answer(stream)?, out)
}

/// Starts this program once more, in the background.
fn daemon(ready: Ready, listener: TcpListener) -> anyhow::Result<u8> {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--listening");
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().context("cannot go to the background")?;
    ready.tell(child.id())?;
    Ok(crate::DONE)
}

/// What is done for the peer.
#[derive(Debug)]
enum Role {
    Keep(Box<Incoming>),
    Lend(Lender),
}

impl Role {
    fn new(args: &Args, watcher: &Arc<Watcher>) -> anyhow::Result<Self> {
        if args.lazy_pages {
            Checkpoint::open(&args.images_dir)?;
            return Ok(Self::Lend(Lender::new(&args.images_dir)));
        }
        let incoming = Incoming::create(&args.images_dir, args.prev_images_dir.as_deref())?;
        let incoming = if args.auto_dedup { incoming.deduplicating() } else { incoming };
        Ok(Self::Keep(Box::new(incoming.watched(Arc::clone(watcher) as Arc<dyn Progress>))))
    }

    fn serve(self, args: &Args, connection: &mut dyn Connection, out: &mut impl Write) -> anyhow::Result<u8> {
        match self {
            Self::Lend(mut lender) => {
                lender.serve(connection)?;
                let report = lender.report();
                show(args, &report, &format!("sent {} pages", report.pages), out)
            }
            Self::Keep(mut incoming) => {
                receive(connection, &mut *incoming).map_err(|error| match error {
                    error @ PageServerError::Unanswered { .. } => anyhow::Error::new(error),
                    error => anyhow::Error::new(error).context("nothing was kept"),
                })?;
                let report = incoming.report();
                // The bar is gone before anything else is said.
                drop(incoming);
                let line = format!(
                    "received memory of {} objects: {} pages, {} as before",
                    report.objects, report.pages, report.parent_pages
                );
                show(args, &report, &line, out)
            }
        }
    }
}

fn show(args: &Args, report: &impl Serialize, line: &str, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        writeln!(out, "{line}")?;
    }
    Ok(crate::DONE)
}
