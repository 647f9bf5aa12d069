//! The table of image kinds: file name, magic, message, number of entries, payload. Adding a kind is one line.

/// The word before the magic, which tells apart the two layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Head {
    /// No head word in any layout: `inventory.img`, which must open before the layout is known.
    None,
    /// [`HEAD_COMMON`] in layout v1.1.
    Common,
    /// [`HEAD_SERVICE`] in layout v1.1: statistics and caches of the tool itself.
    Service,
    /// Neither head nor magic nor entries: the first byte is payload.
    Raw,
}

/// Head word of ordinary images in layout v1.1.
pub const HEAD_COMMON: u32 = 0x5456_4319;
/// Head word of service images in layout v1.1.
pub const HEAD_SERVICE: u32 = 0x5510_5940;

/// How many entries an image of a kind holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Count {
    /// Exactly one.
    Single,
    /// Any number.
    Array,
    /// One of a first message, then any number of another.
    HeadArray,
    /// No entries: bytes.
    Raw,
}

/// What follows an entry of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payload {
    /// Nothing.
    None,
    /// `pipe_data_entry.bytes` bytes.
    PipeBytes,
    /// `sk_packet_entry.length` bytes.
    PacketBytes,
    /// `tcp_stream_entry.inq_len`, then `outq_len` bytes.
    TcpQueues,
    /// `bpfmap_data_entry.keys_bytes`, then `values_bytes` bytes.
    BpfMap,
    /// `ipc_shm_entry.size` rounded up to 4, unless `in_pagemaps`.
    IpcShm,
    /// `ipc_msg_entry.qnum` framed `ipc_msg`, each with `msize` bytes rounded up to 8.
    IpcMessages,
    /// `ipc_sem_entry.nsems` u16, rounded up to 8 bytes.
    IpcSemaphores,
    /// After the first entry: framed chunks with `len` bytes each, or the contents up to end of file.
    Ghost,
}

/// What the number in a file name is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Number {
    /// The name has none.
    None,
    /// Decimal.
    Decimal,
    /// Lower case hexadecimal without a prefix.
    Hex,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// The kind this row is about.
    pub kind: Kind,
    /// File name before the number.
    pub prefix: &'static str,
    /// How the number is written.
    pub number: Number,
    /// File name after the number.
    pub suffix: &'static str,
    /// Name of the magic, empty for raw images.
    pub magic_name: &'static str,
    /// The magic, 0 for raw images.
    pub magic: u32,
    /// The word before the magic.
    pub head: Head,
    /// Message of the entries (of the first one, for [`Count::HeadArray`]); empty for raw images.
    pub entry: &'static str,
    /// Message of the entries after the first, for [`Count::HeadArray`].
    pub rest: Option<&'static str>,
    /// Number of entries.
    pub count: Count,
    /// What follows an entry.
    pub payload: Payload,
    /// Only read, never written by current dumpers.
    pub legacy: bool,
}

macro_rules! kinds {
    ($($kind:ident: $prefix:literal, $number:expr, $suffix:literal, $magic_name:literal, $magic:literal,
       $head:ident, $entry:literal, $rest:expr, $count:ident, $payload:ident, $legacy:literal;)*) => {
        /// A kind of image file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("`", $prefix, "…", $suffix, "`")] $kind,)*
        }

        /// Every kind, in the order of [`Kind`].
        pub const KINDS: &[KindInfo] = &[$(KindInfo {
            kind: Kind::$kind, prefix: $prefix, number: $number, suffix: $suffix, magic_name: $magic_name,
            magic: $magic, head: Head::$head, entry: $entry, rest: $rest, count: Count::$count,
            payload: Payload::$payload, legacy: $legacy,
        },)*];
    };
}

kinds! {
Inventory: "inventory.img", Number::None, "", "INVENTORY", 0x5831_3116, None, "inventory_entry", None, Single, None, false;
Pstree: "pstree.img", Number::None, "", "PSTREE", 0x5027_3030, Common, "pstree_entry", None, Array, None, false;
Core: "core-", Number::Decimal, ".img", "CORE", 0x5505_3847, Common, "core_entry", None, Single, None, false;
Ids: "ids-", Number::Decimal, ".img", "IDS", 0x5443_2030, Common, "task_kobj_ids_entry", None, Single, None, false;
Mm: "mm-", Number::Decimal, ".img", "MM", 0x5749_2820, Common, "mm_entry", None, Single, None, false;
Fs: "fs-", Number::Decimal, ".img", "FS", 0x5140_3912, Common, "fs_entry", None, Single, None, false;
Creds: "creds-", Number::Decimal, ".img", "CREDS", 0x5402_3547, Common, "creds_entry", None, Single, None, true;
Fdinfo: "fdinfo-", Number::Decimal, ".img", "FDINFO", 0x5621_3732, Common, "fdinfo_entry", None, Array, None, false;
Files: "files.img", Number::None, "", "FILES", 0x5630_3138, Common, "file_entry", None, Array, None, false;
Pagemap: "pagemap-", Number::Decimal, ".img", "PAGEMAP", 0x5608_4025, Common, "pagemap_head", Some("pagemap_entry"), HeadArray, None, false;
PagemapShmem: "pagemap-shmem-", Number::Decimal, ".img", "PAGEMAP", 0x5608_4025, Common, "pagemap_head", Some("pagemap_entry"), HeadArray, None, false;
Pages: "pages-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
PipesData: "pipes-data.img", Number::None, "", "PIPES_DATA", 0x5645_3709, Common, "pipe_data_entry", None, Array, PipeBytes, false;
FifoData: "fifo-data.img", Number::None, "", "FIFO_DATA", 0x5933_3054, Common, "pipe_data_entry", None, Array, PipeBytes, false;
SkQueues: "sk-queues.img", Number::None, "", "SK_QUEUES", 0x5626_4026, Common, "sk_packet_entry", None, Array, PacketBytes, false;
TcpStream: "tcp-stream-", Number::Hex, ".img", "TCP_STREAM", 0x5146_5506, Common, "tcp_stream_entry", None, Single, TcpQueues, false;
TtyInfo: "tty-info.img", Number::None, "", "TTY_INFO", 0x5945_3036, Common, "tty_info_entry", None, Array, None, false;
TtyData: "tty-data.img", Number::None, "", "TTY_DATA", 0x5941_3026, Common, "tty_data_entry", None, Array, None, false;
RemapFpath: "remap-fpath.img", Number::None, "", "REMAP_FPATH", 0x5913_3954, Common, "remap_file_path_entry", None, Array, None, false;
GhostFile: "ghost-file-", Number::Hex, ".img", "GHOST_FILE", 0x5258_3605, Common, "ghost_file_entry", Some("ghost_chunk_entry"), HeadArray, Ghost, false;
Memfd: "memfd.img", Number::None, "", "MEMFD_INODE", 0x4845_3499, Common, "memfd_inode_entry", None, Array, None, false;
Filelocks: "filelocks.img", Number::None, "", "FILE_LOCKS", 0x5432_3616, Common, "file_lock_entry", None, Array, None, false;
Cgroup: "cgroup.img", Number::None, "", "CGROUP", 0x5938_3330, Common, "cgroup_entry", None, Single, None, false;
Seccomp: "seccomp.img", Number::None, "", "SECCOMP", 0x6441_3049, Common, "seccomp_entry", None, Single, None, false;
Apparmor: "apparmor.img", Number::None, "", "APPARMOR", 0x5942_3047, Common, "apparmor_entry", None, Single, None, false;
BpfmapData: "bpfmap-data.img", Number::None, "", "BPFMAP_DATA", 0x6432_4033, Common, "bpfmap_data_entry", None, Array, BpfMap, false;
BpfmapFile: "bpfmap-file.img", Number::None, "", "BPFMAP_FILE", 0x5750_6142, Common, "bpfmap_file_entry", None, Array, None, true;
Utsns: "utsns-", Number::Decimal, ".img", "UTSNS", 0x5447_3203, Common, "utsns_entry", None, Single, None, false;
Timens: "timens-", Number::Decimal, ".img", "TIMENS", 0x4311_4433, Common, "timens_entry", None, Single, None, false;
Pidns: "pidns-", Number::Decimal, ".img", "PIDNS", 0x6115_7326, Common, "pidns_entry", None, Single, None, false;
Userns: "userns-", Number::Decimal, ".img", "USERNS", 0x5547_4906, Common, "userns_entry", None, Single, None, false;
Mountpoints: "mountpoints-", Number::Decimal, ".img", "MNTS", 0x5556_3928, Common, "mnt_entry", None, Array, None, false;
IpcnsVar: "ipcns-var-", Number::Decimal, ".img", "IPC_VAR", 0x5311_5007, Common, "ipc_var_entry", None, Single, None, false;
IpcnsShm: "ipcns-shm-", Number::Decimal, ".img", "IPCNS_SHM", 0x4628_3044, Common, "ipc_shm_entry", None, Array, IpcShm, false;
IpcnsMsg: "ipcns-msg-", Number::Decimal, ".img", "IPCNS_MSG", 0x5545_3737, Common, "ipc_msg_entry", None, Array, IpcMessages, false;
IpcnsSem: "ipcns-sem-", Number::Decimal, ".img", "IPCNS_SEM", 0x5957_3019, Common, "ipc_sem_entry", None, Array, IpcSemaphores, false;
Netdev: "netdev-", Number::Decimal, ".img", "NETDEV", 0x5737_3951, Common, "net_device_entry", None, Array, None, false;
Netns: "netns-", Number::Decimal, ".img", "NETNS", 0x5593_3752, Common, "netns_entry", None, Single, None, false;
Ifaddr: "ifaddr-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
Route: "route-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
Route6: "route6-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
Rule: "rule-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
Iptables: "iptables-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
Ip6tables: "ip6tables-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
Nftables: "nftables-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
NetnsCt: "netns-ct-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
NetnsExp: "netns-exp-", Number::Decimal, ".img", "", 0, Raw, "", None, Raw, None, false;
TmpfsDev: "tmpfs-dev-", Number::Decimal, ".tar.gz.img", "", 0, Raw, "", None, Raw, None, false;
TmpfsOld: "tmpfs-", Number::Decimal, ".tar.gz.img", "", 0, Raw, "", None, Raw, None, true;
Autofs: "autofs-", Number::Decimal, ".img", "AUTOFS", 0x4935_3943, Common, "autofs_entry", None, Single, None, false;
BinfmtMisc: "binfmt-misc.img", Number::None, "", "BINFMT_MISC", 0x6734_3323, Common, "binfmt_misc_entry", None, Array, None, false;
BinfmtMiscOld: "binfmt-misc-", Number::Decimal, ".img", "BINFMT_MISC", 0x6734_3323, Common, "binfmt_misc_entry", None, Array, None, true;
Cpuinfo: "cpuinfo.img", Number::None, "", "CPUINFO", 0x6140_4013, Common, "cpuinfo_entry", None, Single, None, false;
StatsDump: "stats-dump", Number::None, "", "STATS", 0x5709_3306, Service, "stats_entry", None, Single, None, false;
StatsRestore: "stats-restore", Number::None, "", "STATS", 0x5709_3306, Service, "stats_entry", None, Single, None, false;
IrmapCache: "irmap-cache", Number::None, "", "IRMAP_CACHE", 0x5700_4059, Service, "irmap_cache_entry", None, Array, None, false;
Vmas: "vmas-", Number::Decimal, ".img", "VMAS", 0x5412_3737, Common, "vma_entry", None, Array, None, true;
Sigacts: "sigacts-", Number::Decimal, ".img", "SIGACT", 0x5534_4201, Common, "sa_entry", None, Array, None, true;
Itimers: "itimers-", Number::Decimal, ".img", "ITIMERS", 0x5746_4056, Common, "itimer_entry", None, Array, None, true;
PosixTimers: "posix-timers-", Number::Decimal, ".img", "POSIX_TIMERS", 0x5260_3957, Common, "posix_timer_entry", None, Array, None, true;
Rlimit: "rlimit-", Number::Decimal, ".img", "RLIMIT", 0x5711_3925, Common, "rlimit_entry", None, Array, None, true;
SignalS: "signal-s-", Number::Decimal, ".img", "SIGNAL", 0x5925_5647, Common, "siginfo_entry", None, Array, None, true;
SignalP: "signal-p-", Number::Decimal, ".img", "SIGNAL", 0x5925_5647, Common, "siginfo_entry", None, Array, None, true;
RegFiles: "reg-files.img", Number::None, "", "REG_FILES", 0x5036_3636, Common, "reg_file_entry", None, Array, None, true;
ExtFiles: "ext-files.img", Number::None, "", "EXT_FILES", 0x5925_5641, Common, "ext_file_entry", None, Array, None, true;
NsFiles: "ns-files.img", Number::None, "", "NS_FILES", 0x6139_4011, Common, "ns_file_entry", None, Array, None, true;
Eventfd: "eventfd.img", Number::None, "", "EVENTFD_FILE", 0x4452_3722, Common, "eventfd_file_entry", None, Array, None, true;
Eventpoll: "eventpoll.img", Number::None, "", "EVENTPOLL_FILE", 0x4502_3858, Common, "eventpoll_file_entry", None, Array, None, true;
EventpollTfd: "eventpoll-tfd.img", Number::None, "", "EVENTPOLL_TFD", 0x4443_3746, Common, "eventpoll_tfd_entry", None, Array, None, true;
Signalfd: "signalfd.img", Number::None, "", "SIGNALFD", 0x5732_3820, Common, "signalfd_entry", None, Array, None, true;
Inotify: "inotify.img", Number::None, "", "INOTIFY_FILE", 0x4842_4431, Common, "inotify_file_entry", None, Array, None, true;
InotifyWd: "inotify-wd.img", Number::None, "", "INOTIFY_WD", 0x5456_2009, Common, "inotify_wd_entry", None, Array, None, true;
Fanotify: "fanotify.img", Number::None, "", "FANOTIFY_FILE", 0x5509_6122, Common, "fanotify_file_entry", None, Array, None, true;
FanotifyMark: "fanotify-mark.img", Number::None, "", "FANOTIFY_MARK", 0x5650_6035, Common, "fanotify_mark_entry", None, Array, None, true;
Pipes: "pipes.img", Number::None, "", "PIPES", 0x5651_3555, Common, "pipe_entry", None, Array, None, true;
Fifo: "fifo.img", Number::None, "", "FIFO", 0x5836_4939, Common, "fifo_entry", None, Array, None, true;
Unixsk: "unixsk.img", Number::None, "", "UNIXSK", 0x5437_3943, Common, "unix_sk_entry", None, Array, None, true;
Inetsk: "inetsk.img", Number::None, "", "INETSK", 0x5644_3851, Common, "inet_sk_entry", None, Array, None, true;
Packetsk: "packetsk.img", Number::None, "", "PACKETSK", 0x6045_4618, Common, "packet_sock_entry", None, Array, None, true;
Netlinksk: "netlinksk.img", Number::None, "", "NETLINK_SK", 0x5800_5614, Common, "netlink_sk_entry", None, Array, None, true;
Tty: "tty.img", Number::None, "", "TTY_FILES", 0x5943_3025, Common, "tty_file_entry", None, Array, None, true;
Tunfile: "tunfile.img", Number::None, "", "TUNFILE", 0x5714_3751, Common, "tunfile_entry", None, Array, None, true;
Timerfd: "timerfd.img", Number::None, "", "TIMERFD", 0x5049_3712, Common, "timerfd_entry", None, Array, None, true;
Pidfd: "pidfd.img", Number::None, "", "PIDFD", 0x5443_5556, Common, "pidfd_entry", None, Array, None, true;
    // Ours: see `extra`.
    TaskExtra: "rewake-task-", Number::Decimal, ".img", "REWAKE_TASK", 0x5745_4b01, Common, "rewake_task_entry", None, Single, None, false;
}

impl Kind {
    /// The row of this kind.
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        KINDS.get(self as usize).expect("the macro makes one row per kind, in the same order")
    }

    /// The file name of an image of this kind.
    #[must_use]
    pub fn file_name(self, number: Option<u64>) -> String {
        let KindInfo { prefix, suffix, .. } = self.info();
        match (self.info().number, number) {
            (Number::Decimal, Some(n)) => format!("{prefix}{n}{suffix}"),
            (Number::Hex, Some(n)) => format!("{prefix}{n:x}{suffix}"),
            _ => format!("{prefix}{suffix}"),
        }
    }

    /// The kind, and the number if it has one, of a file name; `None` for files that are no images.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<(Self, Option<u64>)> {
        KINDS.iter().find_map(|row| {
            let middle = name.strip_prefix(row.prefix)?.strip_suffix(row.suffix)?;
            let number = match row.number {
                Number::None => return middle.is_empty().then_some((row.kind, None)),
                Number::Decimal => middle.parse().ok()?,
                Number::Hex => u64::from_str_radix(middle, 16).ok()?,
            };
            // "+5", "007" and "AB" parse, but no dumper writes them.
            (row.kind.file_name(Some(number)) == name).then_some((row.kind, Some(number)))
        })
    }

    /// The first kind with this magic. Some kinds share one; the file name tells their role.
    #[must_use]
    pub fn from_magic(magic: u32) -> Option<Self> {
        KINDS.iter().find(|row| row.head != Head::Raw && row.magic == magic).map(|row| row.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for row in KINDS {
            let number = (row.number != Number::None).then_some(0x1f);
            let name = row.kind.file_name(number);
            assert_eq!(Kind::from_file_name(&name), Some((row.kind, number)), "{name}");
        }
        assert_eq!(Kind::from_file_name("ghost-file-1f.img"), Some((Kind::GhostFile, Some(0x1f))));
        for stranger in
            ["core-.img", "core-+5.img", "core-007.img", "dump.log", "pages-x.img", "amdgpu-1.img"]
        {
            assert_eq!(Kind::from_file_name(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn rows_are_in_the_order_of_the_enum() {
        for row in KINDS {
            assert_eq!(row.kind.info().prefix, row.prefix);
            assert_eq!(row.kind.info().suffix, row.suffix);
        }
    }
}
