//! What a person wants to see of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::explorer::{Explorer, Task, TaskState};
use super::ps::Process;
use super::sockets::TaskSockets;
use super::sysv::IpcObject;
use crate::error::{ImageError, Result};
use crate::kind::{Kind, Payload};
use crate::pagemap::{flags_of, pages_of, pe};
use crate::proto::{self, Fstype};
use crate::{Checkpoint, PAGE_SIZE};

/// Everything worth showing of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// How it was made.
    pub dump: DumpFacts,
    /// The machine it was made on.
    pub host: HostFacts,
    /// The processes without a parent in the checkpoint: one, in what dumpers write. Empty for a pre-dump.
    pub processes: Vec<InspectedProcess>,
    /// Sockets of the processes.
    pub sockets: Vec<TaskSockets>,
    /// System V objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub system_v: Vec<IpcObject>,
    /// Mounts of each mount namespace in the checkpoint, by its number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mounts: BTreeMap<u64, Vec<Mount>>,
    /// Bytes on disk.
    pub sizes: Sizes,
    /// What the dumper measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Statistics>,
}

/// How a checkpoint was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DumpFacts {
    /// 1 for layout v1.0, 2 for v1.1, 3 for v1.2 (compressed pages), 0 for a pre-dump.
    pub image_version: u32,
    /// Memory alone, for a later dump to build on.
    pub pre_dump: bool,
    /// Whether it needs the checkpoint before it.
    pub has_parent: bool,
    /// Unique name of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Plugins that took part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
    /// Security module the labels belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_module: Option<&'static str>,
    /// Whether TCP connections come back closed.
    pub tcp_close: bool,
    /// Namespaces that the first process does not share with the dumper.
    pub namespaces: Vec<&'static str>,
}

/// The machine a checkpoint was made on, as far as the images tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// Host name in the checkpoint's UTS namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodename: Option<String>,
    /// Model of its processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Microseconds from boot to the dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_us: Option<u64>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InspectedProcess {
    /// Process id.
    pub pid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// Name of its first thread.
    pub comm: String,
    /// State when it was dumped.
    pub state: TaskState,
    /// User it runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Path of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Its arguments, `None` if they are not in the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Vec<String>>,
    /// Its environment, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<String>>,
    /// Its threads' ids and names.
    pub threads: BTreeMap<u32, String>,
    /// Its memory.
    pub memory: MemoryFacts,
    /// Number of descriptors.
    pub descriptors: usize,
    /// What each of them is, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<OpenFile>>,
    /// Number of them that are sockets.
    pub sockets: usize,
    /// Its children.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<InspectedProcess>,
}

/// A descriptor of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// Its number.
    pub fd: u32,
    /// What is open: a path, `pipe[ID]`, a socket, or kind and id.
    pub what: String,
}

/// What [`inspect`] tells beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Details {
    /// The environment of the processes.
    pub environment: bool,
    /// What each descriptor is.
    pub files: bool,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryFacts {
    /// Number of mappings.
    pub mappings: usize,
    /// What is mapped.
    pub mapped: u64,
    /// Pages in this checkpoint.
    pub dumped: u64,
    /// Pages that an ancestor holds.
    pub in_parent: u64,
    /// Pages that a page server holds.
    pub kept_back: u64,
    /// Shared memory it maps: what is in the images of it.
    pub shared: u64,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where.
    pub mountpoint: String,
    /// Type of its file system.
    pub fstype: String,
    /// What is mounted.
    pub source: String,
    /// Which directory of it.
    pub root: String,
    /// Whether it comes from outside, and so has to be there at restore.
    pub external: bool,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Of everything in the directory.
    pub total: u64,
    /// Of pages.
    pub pages: u64,
    /// Of contents besides: queues, unlinked files, file systems.
    pub contents: u64,
    /// Number of images.
    pub images: usize,
}

/// What the dumper measured: times in microseconds, numbers of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names of the image's fields")]
pub struct Statistics {
    pub freezing_time: u32,
    pub frozen_time: u32,
    pub memdump_time: u32,
    pub memwrite_time: u32,
    pub pages_scanned: u64,
    pub pages_skipped_parent: u64,
    pub pages_written: u64,
    pub pages_lazy: u64,
}

/// Looks at everything worth showing, and at the details asked for.
///
/// # Errors
/// Any error of reading images, but for pages that are missing.
pub fn inspect(checkpoint: &Checkpoint, details: Details) -> Result<Inspection> {
    let explorer = checkpoint.exists(Kind::Files, None).then(|| Explorer::new(checkpoint)).transpose()?;
    let inventory = checkpoint.inventory();
    let mut mounts = BTreeMap::new();
    let mut nodename = None;
    for (kind, number, _) in checkpoint.images()? {
        if let (Kind::Mountpoints, Some(number)) = (kind, number) {
            let entries = checkpoint.read_all::<proto::MntEntry>(kind, Some(number))?;
            mounts.insert(number, entries.into_iter().map(mount).collect());
        }
        if kind == Kind::Utsns {
            nodename = Some(checkpoint.read::<proto::UtsnsEntry>(kind, number)?.nodename);
        }
    }
    let cpu: Option<proto::CpuinfoEntry> = checkpoint.read_opt(Kind::Cpuinfo, None)?;
    let cpu = cpu.and_then(|cpu| cpu.x86_entry.into_iter().find_map(|cpu| cpu.model_id));
    let (processes, sockets, namespaces, system_v) = match &explorer {
        None => (Vec::new(), Vec::new(), Vec::new(), Vec::new()),
        Some(explorer) => {
            let roots = explorer.ps()?.0;
            let roots =
                roots.into_iter().map(|root| explorer.inspected(root, details)).collect::<Result<_>>()?;
            (roots, explorer.sockets()?.0, explorer.namespaces()?, explorer.ipc_objects()?)
        }
    };
    Ok(Inspection {
        dump: DumpFacts {
            image_version: inventory.img_version,
            pre_dump: checkpoint.is_pre_dump(),
            has_parent: checkpoint.dir().join(crate::pagemap::PARENT_LINK).symlink_metadata().is_ok(),
            run_id: inventory.dump_criu_run_id.clone(),
            plugins: inventory.plugins_entry.as_ref().map(|p| p.plugins.clone()).unwrap_or_default(),
            security_module: match inventory.lsmtype {
                Some(1) => Some("selinux"),
                Some(2) => Some("apparmor"),
                _ => None,
            },
            tcp_close: inventory.tcp_close(),
            namespaces,
        },
        host: HostFacts { nodename, cpu, uptime_us: inventory.dump_uptime },
        processes,
        sockets,
        system_v,
        mounts,
        sizes: sizes(checkpoint)?,
        statistics: statistics(checkpoint)?,
    })
}

fn mount(entry: proto::MntEntry) -> Mount {
    let named = i32::try_from(entry.fstype).ok().and_then(|n| Fstype::try_from(n).ok());
    let fstype = match (&entry.fsname, named) {
        (Some(name), _) => name.clone(),
        (None, Some(fstype)) => fstype.as_str_name().to_ascii_lowercase(),
        (None, None) => entry.fstype.to_string(),
    };
    let external = entry.ext_key.is_some() || entry.ext_mount();
    Mount { mountpoint: entry.mountpoint, fstype, source: entry.source, root: entry.root, external }
}

fn sizes(checkpoint: &Checkpoint) -> Result<Sizes> {
    let list = || ImageError::io(checkpoint.dir(), "list");
    let mut sizes = Sizes::default();
    for entry in std::fs::read_dir(checkpoint.dir()).map_err(list())? {
        let entry = entry.map_err(list())?;
        let meta = entry.metadata().map_err(ImageError::io(entry.path(), "stat"))?;
        if !meta.is_file() {
            continue;
        }
        sizes.total += meta.len();
        let Some((kind, _)) = entry.file_name().to_str().and_then(Kind::from_file_name) else { continue };
        sizes.images += 1;
        match kind {
            Kind::Pages => sizes.pages += meta.len(),
            Kind::TmpfsDev | Kind::TmpfsOld => sizes.contents += meta.len(),
            _ if kind.info().payload != Payload::None => sizes.contents += meta.len(),
            _ => {}
        }
    }
    Ok(sizes)
}

fn statistics(checkpoint: &Checkpoint) -> Result<Option<Statistics>> {
    let entry: Option<proto::StatsEntry> = checkpoint.read_opt(Kind::StatsDump, None)?;
    Ok(entry.and_then(|entry| entry.dump).map(|dump| Statistics {
        freezing_time: dump.freezing_time,
        frozen_time: dump.frozen_time,
        memdump_time: dump.memdump_time,
        memwrite_time: dump.memwrite_time,
        pages_scanned: dump.pages_scanned,
        pages_skipped_parent: dump.pages_skipped_parent,
        pages_written: dump.pages_written,
        pages_lazy: dump.pages_lazy,
    }))
}

impl Explorer<'_> {
    /// Namespaces that the first process does not share with the dumper.
    fn namespaces(&self) -> Result<Vec<&'static str>> {
        let Some(root) = self.tasks.first().filter(|task| task.state().has_resources()) else {
            return Ok(Vec::new());
        };
        let ids = self.ids(root)?;
        let Some(outside) = &self.checkpoint.inventory().root_ids else { return Ok(Vec::new()) };
        let pairs = [
            ("pid", ids.pid_ns_id, outside.pid_ns_id),
            ("net", ids.net_ns_id, outside.net_ns_id),
            ("ipc", ids.ipc_ns_id, outside.ipc_ns_id),
            ("uts", ids.uts_ns_id, outside.uts_ns_id),
            ("mnt", ids.mnt_ns_id, outside.mnt_ns_id),
            ("user", ids.user_ns_id, outside.user_ns_id),
            ("cgroup", ids.cgroup_ns_id, outside.cgroup_ns_id),
            ("time", ids.time_ns_id, outside.time_ns_id),
        ];
        let own = pairs.into_iter().filter(|(_, inside, outside)| inside.is_some() && inside != outside);
        Ok(own.map(|(name, ..)| name).collect())
    }

    /// The tree is no deeper than [`Self::ps`] lets it be.
    fn inspected(&self, process: Process, details: Details) -> Result<InspectedProcess> {
        let task = self.task(process.pid)?;
        let mut threads = BTreeMap::new();
        // Of a zombie's threads nothing is left; CRIU writes any number there.
        let alive = task.state().has_resources();
        for tid in task.entry.threads.iter().filter(|tid| alive || **tid == process.pid) {
            let core =
                if *tid == process.pid { task.core.clone() } else { self.checkpoint.core((*tid).into())? };
            let own = core.thread_core.as_ref().and_then(|core| core.comm.clone());
            threads.insert(*tid, own.unwrap_or_else(|| process.comm.clone()));
        }
        let descriptors = self.descriptors(task)?;
        let sockets = descriptors.iter().filter_map(|fd| self.files.get(fd.id));
        let sockets =
            sockets.filter(|f| f.isk.is_some() || f.usk.is_some() || f.psk.is_some() || f.nlsk.is_some());
        let mm = self.mm(task)?;
        let fs: Option<proto::FsEntry> = match task.state().has_resources() {
            true => self.checkpoint.read_opt(Kind::Fs, task.number())?,
            false => None,
        };
        let creds = task.core.thread_core.as_ref().and_then(|core| core.creds.as_ref());
        let path = |id: u32| self.files.path(id).map(str::to_owned);
        let children = process.children.into_iter().map(|child| self.inspected(child, details));
        Ok(InspectedProcess {
            pid: process.pid,
            pgid: process.pgid,
            sid: process.sid,
            comm: process.comm,
            state: process.state,
            uid: creds.map(|creds| creds.uid),
            exe: mm.as_ref().and_then(|mm| path(mm.exe_file_id)),
            cwd: fs.and_then(|fs| path(fs.cwd_id)),
            arguments: self.arguments(task)?,
            threads,
            memory: mm.as_ref().map(|mm| self.memory_facts(task, mm)).transpose()?.unwrap_or_default(),
            descriptors: descriptors.len(),
            files: details.files.then(|| {
                let what = |fd: &proto::FdinfoEntry| self.files.describe(fd.r#type, fd.id);
                descriptors.iter().map(|fd| OpenFile { fd: fd.fd, what: what(fd) }).collect()
            }),
            sockets: sockets.count(),
            children: children.collect::<Result<_>>()?,
            environment: if details.environment { self.environment(task)? } else { None },
        })
    }

    fn memory_facts(&self, task: &Task, mm: &proto::MmEntry) -> Result<MemoryFacts> {
        let mapped = mm.vmas.iter().map(|vma| vma.end.saturating_sub(vma.start));
        let mut facts = MemoryFacts {
            mappings: mm.vmas.len(),
            mapped: mapped.fold(0, u64::saturating_add),
            ..MemoryFacts::default()
        };
        self.count(Kind::Pagemap, task.entry.pid.into(), |flags, bytes| {
            let sum = match flags {
                _ if flags & pe::PRESENT != 0 => &mut facts.dumped,
                _ if flags & pe::PARENT != 0 => &mut facts.in_parent,
                _ => &mut facts.kept_back,
            };
            *sum = sum.saturating_add(bytes);
        })?;
        let objects: BTreeSet<u64> = mm.vmas.iter().filter_map(|vma| self.files.shared_object(vma)).collect();
        for shmid in objects {
            self.count(Kind::PagemapShmem, shmid, |_, bytes| {
                facts.shared = facts.shared.saturating_add(bytes)
            })?;
        }
        Ok(facts)
    }

    /// Calls `each` with the flags and the size of every entry of a pagemap.
    fn count(&self, kind: Kind, number: u64, mut each: impl FnMut(u32, u64)) -> Result<()> {
        let Some(mut reader) = self.checkpoint.entries(kind, Some(number))? else { return Ok(()) };
        reader.next_message::<proto::PagemapHead>()?;
        while let Some((entry, _)) = reader.next_message::<proto::PagemapEntry>()? {
            each(flags_of(&entry), pages_of(&entry).saturating_mul(PAGE_SIZE));
        }
        Ok(())
    }
}
