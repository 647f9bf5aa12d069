//! `rewake inspect`

use std::io::Write;
use std::path::PathBuf;

use rewake_images::archive::{Container, Contents};
use rewake_images::explore::{Details, InspectedProcess, Inspection, TaskState, inspect};
use serde::Serialize;
use termtree::Tree;

use crate::source::Source;

/// Show what is in a checkpoint: processes, memory, sockets, mounts, sizes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A directory, or an archive of a container engine; ARCHIVE::NAME for one of several in it
    #[arg(value_name = "DIR|ARCHIVE")]
    path: PathBuf,
    /// The environment of the processes, too
    #[arg(long)]
    environment: bool,
    /// What the descriptors of the processes are, too
    #[arg(long)]
    files: bool,
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Where in the archive, if it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container>,
    #[serde(flatten)]
    inspection: Inspection,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    let sources = Source::open_all(&args.path, Contents::Arguments)?;
    let several = sources.len() > 1;
    let details = Details { environment: args.environment, files: args.files };
    let mut reports = Vec::new();
    for source in &sources {
        let archive = source.archive();
        reports.push(Report {
            place: archive.filter(|_| several).map(|archive| archive.place().display().to_string()),
            container_image: archive.and_then(|archive| archive.image().map(str::to_owned)),
            container: archive.and_then(|archive| archive.container().cloned()),
            inspection: inspect(source.checkpoint(), details)?,
        });
    }
    if args.json {
        let json = match reports.as_slice() {
            [report] => serde_json::to_string_pretty(report)?,
            reports => serde_json::to_string_pretty(reports)?,
        };
        writeln!(out, "{json}")?;
        return Ok(crate::DONE);
    }
    for report in &reports {
        let name = report.place.as_ref().map_or_else(
            || args.path.display().to_string(),
            |place| format!("{}: {place}", args.path.display()),
        );
        write!(out, "{}", tree(name, report))?;
    }
    Ok(crate::DONE)
}

fn tree(name: String, report: &Report) -> Tree<String> {
    let inspection = &report.inspection;
    let mut root = Tree::new(name);
    root.extend(report.container_image.as_ref().map(|image| Tree::new(format!("in the image {image}"))));
    root.extend(report.container.as_ref().map(of_container));
    root.extend(of_dump(inspection));
    let mut processes = Tree::new("processes".to_owned());
    processes.extend(inspection.processes.iter().map(of_process));
    root.push(processes);
    if !inspection.sockets.is_empty() {
        let mut sockets = Tree::new("sockets".to_owned());
        for task in &inspection.sockets {
            let lines = task.sockets.iter().map(|socket| socket.to_string().trim_start().to_owned());
            sockets.push(Tree::new(format!("of {}", task.pid)).with_leaves(lines));
        }
        root.push(sockets);
    }
    if !inspection.system_v.is_empty() {
        let lines = inspection.system_v.iter().map(ToString::to_string);
        root.push(Tree::new("System V objects".to_owned()).with_leaves(lines));
    }
    for (namespace, mounts) in &inspection.mounts {
        let lines = mounts.iter().map(|mount| {
            let external = if mount.external { " (external)" } else { "" };
            format!("{} {} {}{external}", mount.mountpoint, mount.fstype, mount.source)
        });
        root.push(Tree::new(format!("mounts of namespace {namespace}")).with_leaves(lines));
    }
    root
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn bytes(count: u64) -> String {
    rewake_images::explore::size(count)
}

fn of_container(container: &Container) -> Tree<String> {
    let runtime = if container.runtime.is_empty() { "unknown" } else { &container.runtime };
    let mut lines = vec![
        format!("engine {}, runtime {}", container.engine, runtime),
        format!("image {}", container.image),
        format!("id {}", container.id),
        format!("created {}", container.created),
    ];
    lines.extend(container.checkpointed.as_ref().map(|time| format!("checkpointed {time}")));
    if let Some(pod) = &container.pod {
        lines.push(format!("pod {pod} in {}", container.namespace.as_deref().unwrap_or("no namespace")));
    }
    for interface in &container.interfaces {
        let words = [&interface.network, &interface.name, &interface.addresses.join(", "), &interface.mac];
        let words: Vec<&str> = words.into_iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
        lines.push(format!("network {}", words.join(" ")));
    }
    lines.extend(container.root_fs_diff_size.map(|size| format!("changes to its files {}", bytes(size))));
    if !container.deleted_files.is_empty() {
        lines.push(format!("{} of its image's files removed", container.deleted_files.len()));
    }
    lines.push(format!("checkpoint {}", bytes(container.checkpoint_size)));
    let mut tree = Tree::new(format!("container {}", container.name)).with_leaves(lines);
    if !container.mounts.is_empty() {
        let lines = container.mounts.iter().map(|m| format!("{} {} {}", m.destination, m.kind, m.source));
        tree.push(Tree::new("mounts".to_owned()).with_leaves(lines));
    }
    if !container.annotations.is_empty() {
        let lines =
            container.annotations.iter().map(|(key, value)| format!("{key}: {}", value.escape_debug()));
        tree.push(Tree::new("annotations".to_owned()).with_leaves(lines));
    }
    tree
}

fn of_dump(inspection: &Inspection) -> Vec<Tree<String>> {
    let Inspection { dump, host, sizes, statistics, .. } = inspection;
    let mut lines = vec![match (dump.pre_dump, dump.image_version) {
        (true, _) => "a pre-dump: memory alone".to_owned(),
        (_, 1) => "layout v1.0".to_owned(),
        (_, 3) => "layout v1.2, pages compressed".to_owned(),
        _ => "layout v1.1".to_owned(),
    }];
    if dump.has_parent {
        lines.push("on top of another checkpoint".into());
    }
    lines.extend(dump.run_id.as_ref().map(|id| format!("run {id}")));
    if !dump.namespaces.is_empty() {
        lines.push(format!("namespaces of its own: {}", dump.namespaces.join(", ")));
    }
    if !dump.plugins.is_empty() {
        lines.push(format!("needs plugins {}", dump.plugins.join(", ")));
    }
    lines.extend(dump.security_module.map(|name| format!("labels of {name}")));
    lines.extend(host.nodename.as_ref().map(|name| format!("host name {name}")));
    lines.extend(host.cpu.as_ref().map(|cpu| format!("processor {cpu}")));
    let size = format!(
        "{}: {} pages, {} other contents, {} images",
        bytes(sizes.total),
        bytes(sizes.pages),
        bytes(sizes.contents),
        sizes.images
    );
    let mut trees =
        vec![Tree::new("checkpoint".to_owned()).with_leaves(lines), Tree::new(format!("size {size}"))];
    trees.extend(statistics.map(|s| {
        Tree::new(format!(
            "dump: freezing {} µs, frozen {} µs, memory {} µs and {} µs to write; pages: {} scanned, {} written, {} in the parent",
            s.freezing_time,
            s.frozen_time,
            s.memdump_time,
            s.memwrite_time,
            s.pages_scanned,
            s.pages_written,
            s.pages_skipped_parent
        ))
    }));
    trees
}

fn of_process(process: &InspectedProcess) -> Tree<String> {
    let state = match process.state {
        TaskState::Alive => "",
        TaskState::Stopped => " (stopped)",
        TaskState::Zombie => " (zombie)",
        TaskState::Unknown => " (state unknown)",
    };
    let mut tree = Tree::new(format!("{} {}{state}", process.pid, process.comm)).with_multiline(true);
    if process.state != TaskState::Zombie {
        if let Some(arguments) = &process.arguments {
            tree.push(Tree::new(arguments.join(" ").escape_debug().to_string()));
        }
        let memory = &process.memory;
        let mut line = format!("{} dumped of {} mapped", bytes(memory.dumped), bytes(memory.mapped));
        for (size, what) in [
            (memory.in_parent, "in the parent"),
            (memory.shared, "shared"),
            (memory.kept_back, "at the page server"),
        ] {
            if size > 0 {
                line.push_str(&format!(", {} {what}", bytes(size)));
            }
        }
        let (threads, descriptors, sockets) = (process.threads.len(), process.descriptors, process.sockets);
        tree.push(Tree::new(format!(
            "{}, {}, {}; {line}",
            counted(threads, "thread"),
            counted(descriptors, "descriptor"),
            counted(sockets, "socket")
        )));
        let files =
            process.files.iter().flatten().map(|file| format!("{}: {}", file.fd, file.what.escape_debug()));
        tree.extend(files.map(Tree::new));
        tree.extend(process.environment.iter().flatten().map(|e| Tree::new(e.escape_debug().to_string())));
    }
    tree.extend(process.children.iter().map(of_process));
    tree
}
