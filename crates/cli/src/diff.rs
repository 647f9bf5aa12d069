//! `rewake diff`

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

use rewake_images::archive::Contents;
use rewake_images::explore::{Change, Descriptor, Diff, Explorer, Mapping, PageChanges, TaskDiff, diff};

use crate::source::Source;

/// Show what changed between two checkpoints; exit status 1 if anything did
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The first: a directory, or an archive of a container engine; ARCHIVE::NAME for one of several in it
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The second
    #[arg(value_name = "B")]
    after: PathBuf,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

/// The answer was no: they are not the same.
const NO: u8 = 1;

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let (before, after) =
        (Source::open(&args.before, Contents::Memory)?, Source::open(&args.after, Contents::Memory)?);
    let (a, b) = (Explorer::new(before.checkpoint())?, Explorer::new(after.checkpoint())?);
    let diff = diff(&a, &b)?;
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&diff)?)?;
    } else {
        show(&diff, out)?;
    }
    Ok(if diff.is_empty() { crate::DONE } else { NO })
}

fn show(diff: &Diff, out: &mut impl Write) -> anyhow::Result<()> {
    for task in &diff.tasks {
        writeln!(out, "{}", task.pid)?;
        show_task(task, out)?;
    }
    for (shmid, pages) in &diff.shared {
        writeln!(out, "shared memory {shmid}")?;
        show_pages(pages, out)?;
    }
    Ok(())
}

fn show_task(task: &TaskDiff, out: &mut impl Write) -> anyhow::Result<()> {
    for (what, change) in &task.facts {
        sides(what, change, Clone::clone, out)?;
    }
    for (fd, change) in &task.descriptors {
        sides(&format!("descriptor {fd}"), change, descriptor, out)?;
    }
    for (fd, change) in &task.sockets {
        sides(&format!("socket {fd}"), change, |socket| socket.to_string().trim_start().to_owned(), out)?;
    }
    for change in &task.mappings {
        sides("mapping", change, mapping, out)?;
    }
    show_pages(&task.pages, out)
}

fn sides<T>(
    what: &(impl Display + ?Sized),
    change: &Change<T>,
    text: impl Fn(&T) -> String,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if let Some(before) = &change.before {
        writeln!(out, "  - {what}: {}", text(before))?;
    }
    if let Some(after) = &change.after {
        writeln!(out, "  + {what}: {}", text(after))?;
    }
    Ok(())
}

fn descriptor(descriptor: &Descriptor) -> String {
    match descriptor.pos {
        Some(pos) if pos > 0 => format!("{} at {pos}", descriptor.path),
        _ => descriptor.path.clone(),
    }
}

fn mapping(mapping: &Mapping) -> String {
    let prot = [(1, 'r'), (2, 'w'), (4, 'x')].map(|(bit, c)| if mapping.prot & bit == 0 { '-' } else { c });
    let prot: String = prot.iter().collect();
    format!("{:x}-{:x} {prot} {}", mapping.start, mapping.end, mapping.resource).trim_end().to_owned()
}

fn show_pages(pages: &PageChanges, out: &mut impl Write) -> anyhow::Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    writeln!(out, "  pages: {} changed, {} added, {} removed", pages.changed, pages.added, pages.removed)?;
    for range in &pages.ranges {
        let change = format!("{:?}", range.change).to_lowercase();
        writeln!(out, "    {:x} / {} {change}", range.start, range.pages)?;
    }
    Ok(())
}
