//! The images, apart from memory.

use std::num::NonZeroUsize;
use std::thread;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use rewake_images::proto::{
    CoreEntry, DumpStatsEntry, InventoryEntry, Lsmtype, PluginsEntry, PstreeEntry, SeccompEntry, StatsEntry,
    TaskKobjIdsEntry, TimensEntry, Timespec,
};
use rewake_images::{CheckpointWriter, ImageWriter, Kind, Layout};

use crate::error::Result;
use crate::objects::FileTable;
use crate::options::{DumpOptions, DumpReport};
use crate::survey::Task;

/// Ids of the kernel objects of the dumper itself; the task shares its namespaces.
fn root_ids() -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: 1,
        files_id: 1,
        fs_id: 1,
        sighand_id: 1,
        pid_ns_id: Some(1),
        net_ns_id: Some(2),
        ipc_ns_id: Some(3),
        uts_ns_id: Some(4),
        time_ns_id: Some(5),
        mnt_ns_id: Some(6),
        user_ns_id: Some(7),
        cgroup_ns_id: Some(8),
    }
}

fn task_ids() -> TaskKobjIdsEntry {
    TaskKobjIdsEntry { vm_id: 2, files_id: 2, fs_id: 2, sighand_id: 2, ..root_ids() }
}

/// Writes what was surveyed.
pub(crate) fn images(writer: &CheckpointWriter, task: &Task, files: &FileTable) -> Result<()> {
    let number = |id: i32| u64::from(id.unsigned_abs());
    let pid = Some(number(task.pid.as_raw()));
    let pstree = PstreeEntry {
        pid: task.pid.as_raw().unsigned_abs(),
        ppid: 0,
        pgid: task.stat.pgid.unsigned_abs(),
        sid: task.stat.sid.unsigned_abs(),
        threads: task.cores.iter().map(|(tid, _)| tid.as_raw().unsigned_abs()).collect(),
    };
    writer.write(Kind::Pstree, None, &pstree)?;
    cores(writer, &task.cores)?;
    let ids = task_ids();
    writer.write(Kind::Mm, pid, &task.mm)?;
    writer.write(Kind::Fs, pid, &task.fs)?;
    writer.write(Kind::Ids, pid, &ids)?;
    writer.write_all(Kind::Fdinfo, Some(ids.files_id.into()), &task.fdinfo)?;
    writer.write_all(Kind::Files, None, &files.entries)?;
    writer.write_all(Kind::RemapFpath, None, &files.remaps)?;
    writer.write_all(Kind::Filelocks, None, &files.locks.entries)?;
    let inodes: Vec<_> = files.shared.iter().map(|object| object.inode.clone()).collect();
    writer.write_all(Kind::Memfd, None, &inodes)?;
    for kind in [Kind::PipesData, Kind::FifoData] {
        pipes(writer, files, kind)?;
    }
    for ghost in &files.ghosts {
        ghost.write(writer)?;
    }
    writer.write(Kind::Seccomp, None, &SeccompEntry::default())?;
    writer.write(Kind::Timens, Some(0), &clocks())?;
    Ok(())
}

/// One image for each thread, written by several of ours if they are many.
fn cores(writer: &CheckpointWriter, cores: &[(Pid, CoreEntry)]) -> Result<()> {
    const WORTH_THREADS: usize = 64;
    let write = |cores: &[(Pid, CoreEntry)]| -> Result<()> {
        cores.iter().try_for_each(|(tid, core)| {
            let number = u64::from(tid.as_raw().unsigned_abs());
            Ok(writer.write(Kind::Core, Some(number), core)?)
        })
    };
    if cores.len() < WORTH_THREADS {
        return write(cores);
    }
    // Asking takes a look at control groups.
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        let shares = cores.chunks(cores.len().div_ceil(threads));
        let writing: Vec<_> = shares.map(|share| scope.spawn(move || write(share))).collect();
        let written = writing.into_iter().map(|share| share.join().expect("writing does not panic"));
        written.fold(Ok(()), Result::and)
    })
}

/// The image of our own, which is complete when memory was looked at.
pub(crate) fn task_extra(writer: &CheckpointWriter, task: &Task) -> Result<()> {
    let pid = u64::from(task.pid.as_raw().unsigned_abs());
    Ok(writer.write(Kind::TaskExtra, Some(pid), &task.extra)?)
}

fn pipes(writer: &CheckpointWriter, files: &FileTable, kind: Kind) -> Result<()> {
    let mut image = None;
    for pipe in files.pipes.values().filter(|pipe| pipe.kind == kind) {
        if image.is_none() {
            image = Some(writer.image(kind, None)?);
        }
        if let Some(image) = &mut image {
            image.push_with(&pipe.entry, &pipe.bytes)?;
        }
    }
    image.map_or(Ok(()), |image| Ok(image.finish()?))
}

/// Writes what `reg_file_entry` has no place for. It is brought to disk with everything else.
pub(crate) fn own_cookies(writer: &CheckpointWriter, own: &rewake_filecheck::OwnCookies) -> Result<()> {
    if own.is_empty() {
        return Ok(());
    }
    let path = writer.staging_dir().join(rewake_filecheck::own::FILE_NAME);
    std::fs::write(&path, own.to_text())
        .map_err(|source| rewake_images::ImageError::Io { path, action: "write", source }.into())
}

fn clocks() -> TimensEntry {
    TimensEntry { monotonic: now(ClockId::CLOCK_MONOTONIC), boottime: boottime() }
}

fn boottime() -> Timespec {
    now(ClockId::CLOCK_BOOTTIME)
}

fn now(clock: ClockId) -> Timespec {
    // Neither clock can fail on a kernel that can be dumped on.
    let time = clock_gettime(clock).map_or((0, 0), |t| (t.tv_sec(), t.tv_nsec()));
    Timespec { tv_sec: time.0.unsigned_abs(), tv_nsec: time.1.unsigned_abs() }
}

/// More images than this are brought to disk together with whatever else waits on the file system: by one call each,
/// the core images of a thousand threads take seconds.
const IMAGES_ONE_BY_ONE: usize = 64;

/// Puts the checkpoint in its place.
pub(crate) fn commit(mut writer: CheckpointWriter, task: &Task, options: &DumpOptions) -> Result<()> {
    options.memory_is_complete()?;
    if task.cores.len() > IMAGES_ONE_BY_ONE {
        let staging = std::fs::File::open(writer.staging_dir());
        // Where it does not work, each file is synced.
        if staging.is_ok_and(|dir| nix::unistd::syncfs(dir).is_ok()) {
            writer.synced();
        }
    }
    Ok(writer.commit(&inventory(options))?)
}

/// What the checkpoint says of itself.
fn inventory(options: &DumpOptions) -> InventoryEntry {
    const LAYOUT_V11: u32 = 2;
    const NETWORK_LOCK_SKIP: u32 = 2;
    let inventory = InventoryEntry {
        img_version: LAYOUT_V11,
        fdinfo_per_id: Some(true),
        root_ids: Some(root_ids()),
        ns_per_id: Some(true),
        root_cg_set: Some(1),
        lsmtype: Some(Lsmtype::NoLsm.into()),
        network_lock_method: Some(NETWORK_LOCK_SKIP),
        plugins_entry: Some(PluginsEntry::default()),
        dump_criu_run_id: run_id(),
        dump_uptime: (options.track_mem || options.parent.is_some()).then(uptime_us),
        ..Default::default()
    };
    compressed(inventory, options)
}

fn compressed(mut inventory: InventoryEntry, options: &DumpOptions) -> InventoryEntry {
    if let Some(how) = options.compress {
        how.note(&mut inventory);
    }
    inventory
}

/// What a pre-dump, which is nothing but memory, says of itself.
pub(crate) fn pre_dump_inventory(options: &DumpOptions) -> InventoryEntry {
    let inventory = InventoryEntry { dump_uptime: Some(uptime_us()), ..Default::default() };
    compressed(as_pre_dump(inventory), options)
}

/// What a checkpoint says of itself of which only the memory is left.
pub(crate) fn as_pre_dump(inventory: InventoryEntry) -> InventoryEntry {
    const CRIU_READ: u32 = 2; // criu_pre_dump_mode.VM_READ
    InventoryEntry { img_version: NO_LAYOUT, pre_dump_mode: Some(CRIU_READ), ..inventory }
}

const NO_LAYOUT: u32 = 0;

/// Whether that is all there is.
pub(crate) fn is_pre_dump(inventory: &InventoryEntry) -> bool {
    inventory.img_version == NO_LAYOUT
}

/// Writes `stats-dump` beside the images of a checkpoint that is in its place: only now the times are known. Nothing reads
/// it to restore, so a failure is only told.
pub(crate) fn stats(options: &DumpOptions, report: &DumpReport) {
    let path = options.images_dir.join(Kind::StatsDump.file_name(None));
    let entry = StatsEntry { dump: Some(stats_of(report)), restore: None };
    let written = ImageWriter::create(Kind::StatsDump, Layout::V11, path).and_then(|mut image| {
        image.push(&entry)?;
        image.finish()
    });
    if let Err(error) = written {
        tracing::warn!(%error, "no statistics");
    }
}

/// As CRIU counts: choosing pages is its memdump time, and copying them its memwrite time.
fn stats_of(report: &DumpReport) -> DumpStatsEntry {
    let us = |time: std::time::Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    DumpStatsEntry {
        freezing_time: us(report.freezing),
        frozen_time: us(report.frozen),
        memdump_time: us(report.choosing),
        memwrite_time: us(report.copying),
        pages_scanned: report.pages_scanned - report.shared_pages_scanned,
        pages_skipped_parent: report.parent_pages - report.shared_parent_pages,
        pages_written: report.pages - report.shared_pages,
        pages_lazy: 0,
        shpages_scanned: Some(report.shared_pages_scanned),
        shpages_skipped_parent: Some(report.shared_parent_pages),
        shpages_written: Some(report.shared_pages),
        ..Default::default()
    }
}

/// Microseconds since boot.
fn uptime_us() -> u64 {
    let time = boottime();
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// A random UUID, which tells one run from another.
fn run_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").ok()?;
    Some(text.trim().to_owned())
}
