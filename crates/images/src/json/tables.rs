//! Names of bits and values, for the pretty form.

/// Names of bits, in the order they are printed.
#[derive(Debug)]
pub(super) struct Flags {
    names: &'static [(&'static str, u64)],
}

/// Names of values.
#[derive(Debug)]
pub(super) struct Dict {
    names: &'static [(&'static str, u64)],
}

impl Flags {
    /// The names of the bits set, and the bits that have none.
    pub(super) fn split(&self, value: u64) -> (impl Iterator<Item = &'static str>, u64) {
        let known = self.names.iter().fold(0, |all, (_, bit)| all | bit);
        let set = self.names.iter().filter(move |(_, bit)| value & bit != 0).map(|(name, _)| *name);
        (set, value & !known)
    }

    pub(super) fn bit(&self, name: &str) -> Option<u64> {
        self.names.iter().find(|(n, _)| *n == name).map(|(_, bit)| *bit)
    }
}

impl Dict {
    pub(super) fn name(&self, value: u64) -> Option<&'static str> {
        self.names.iter().find(|(_, v)| *v == value).map(|(name, _)| *name)
    }

    pub(super) fn value(&self, name: &str) -> Option<u64> {
        self.names.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }
}

/// The table an option `flags` names.
pub(super) fn flags(table: &str) -> Option<&'static Flags> {
    Some(match table {
        "mmap.prot" => &Flags { names: &[("PROT_READ", 1), ("PROT_WRITE", 2), ("PROT_EXEC", 4)] },
        "mmap.flags" => &Flags {
            names: &[
                ("MAP_SHARED", 1),
                ("MAP_PRIVATE", 2),
                ("MAP_DROPPABLE", 8),
                ("MAP_ANON", 0x20),
                ("MAP_GROWSDOWN", 0x100),
            ],
        },
        "mmap.status" => &Flags {
            names: &[
                // No bit, so it is never printed; but it may be read.
                ("VMA_AREA_NONE", 0),
                ("VMA_AREA_REGULAR", 1),
                ("VMA_AREA_STACK", 1 << 1),
                ("VMA_AREA_VSYSCALL", 1 << 2),
                ("VMA_AREA_VDSO", 1 << 3),
                ("VMA_AREA_HEAP", 1 << 5),
                ("VMA_FILE_PRIVATE", 1 << 6),
                ("VMA_FILE_SHARED", 1 << 7),
                ("VMA_ANON_SHARED", 1 << 8),
                ("VMA_ANON_PRIVATE", 1 << 9),
                ("VMA_AREA_SYSVIPC", 1 << 10),
                ("VMA_AREA_SOCKET", 1 << 11),
                ("VMA_AREA_VVAR", 1 << 12),
                ("VMA_AREA_AIORING", 1 << 13),
                ("VMA_AREA_MEMFD", 1 << 14),
                ("VMA_AREA_SHSTK", 1 << 15),
                ("VMA_AREA_UPROBES", 1 << 17),
                ("VMA_UNSUPP", 1 << 31),
            ],
        },
        "rfile.flags" => &Flags {
            names: &[
                ("O_WRONLY", 0o1),
                ("O_RDWR", 0o2),
                ("O_CREAT", 0o100),
                ("O_EXCL", 0o200),
                ("O_NOCTTY", 0o400),
                ("O_TRUNC", 0o1000),
                ("O_APPEND", 0o2000),
                ("O_NONBLOCK", 0o4000),
                ("O_DSYNC", 0o10000),
                ("FASYNC", 0o20000),
                ("O_DIRECT", 0o40000),
                ("O_LARGEFILE", 0o10_0000),
                ("O_DIRECTORY", 0o20_0000),
                ("O_NOFOLLOW", 0o40_0000),
                ("O_NOATIME", 0o100_0000),
                ("O_CLOEXEC", 0o200_0000),
            ],
        },
        "pmap.flags" => &Flags {
            names: &[("PE_PARENT", 1), ("PE_LAZY", 2), ("PE_PRESENT", 4), ("PE_PAYLOAD_ALIGNED", 8)],
        },
        "seals.flags" => &Flags {
            names: &[
                ("F_SEAL_SEAL", 1),
                ("F_SEAL_SHRINK", 2),
                ("F_SEAL_GROW", 4),
                ("F_SEAL_WRITE", 8),
                ("F_SEAL_FUTURE_WRITE", 0x10),
            ],
        },
        _ => return None,
    })
}

/// The table an option `dict` names for a field.
pub(super) fn dict(family: &str, field: &str) -> Option<&'static Dict> {
    Some(match (family, field) {
        // CRIU itself writes 2 for a dead task and 3 for a stopped one: these labels are crit's, kept for its sake.
        ("gen", "task_state") => &Dict { names: &[("Alive", 1), ("Zombie", 3), ("Stopped", 6)] },
        ("sk", "family") => {
            &Dict { names: &[("UNIX", 1), ("INET", 2), ("INET6", 10), ("NETLINK", 16), ("PACKET", 17)] }
        }
        ("sk", "type") => {
            &Dict { names: &[("STREAM", 1), ("DGRAM", 2), ("RAW", 3), ("SEQPACKET", 5), ("PACKET", 10)] }
        }
        ("sk", "state") => &Dict {
            names: &[
                ("ESTABLISHED", 1),
                ("SYN_SENT", 2),
                ("SYN_RECV", 3),
                ("FIN_WAIT1", 4),
                ("FIN_WAIT2", 5),
                ("TIME_WAIT", 6),
                ("CLOSE", 7),
                ("CLOSE_WAIT", 8),
                ("LAST_ACK", 9),
                ("LISTEN", 10),
            ],
        },
        ("sk", "proto") => &Dict { names: &[("IP", 0), ("TCP", 6), ("UDP", 17), ("UDPLITE", 136)] },
        _ => return None,
    })
}
