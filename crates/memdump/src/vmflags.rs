//! Flags of a mapping, as smaps spells them.

bitflags::bitflags! {
    /// What a mapping permits, with the numbers of mmap(2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
    pub struct Prot: u32 {
        /// Pages may be read.
        const READ = 1;
        /// Pages may be written.
        const WRITE = 2;
        /// Pages may be executed.
        const EXEC = 4;
    }
}

/// Defines [`VmFlags`] and the table of two-letter codes from one list.
macro_rules! vm_flags {
    ($($(#[doc = $doc:literal])* $name:ident = $bit:literal, $code:literal;)*) => {
        bitflags::bitflags! {
            /// The `VmFlags:` line of smaps. The bit numbers are ours: the kernel shows letters only.
            ///
            /// # Source
            /// `Documentation/filesystems/proc.rst` of the kernel.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
            pub struct VmFlags: u64 {
                $($(#[doc = $doc])* const $name = 1 << $bit;)*
                /// A code this version does not know was there.
                const UNKNOWN = 1 << 63;
            }
        }

        impl VmFlags {
            /// The flag behind a two-letter code of smaps; [`VmFlags::UNKNOWN`] for a code nobody knows.
            pub fn from_code(code: &[u8]) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::UNKNOWN,
                }
            }

            /// The codes of the flags that are set, as smaps spells them.
            pub fn codes(self) -> Vec<&'static str> {
                let table: &[(Self, &[u8])] = &[$((Self::$name, $code),)*];
                table
                    .iter()
                    .filter(|(flag, _)| self.contains(*flag))
                    .map(|(_, code)| str::from_utf8(code).expect("codes are ASCII"))
                    .collect()
            }
        }
    };
}

vm_flags! {
    /// `rd`: readable.
    READ = 0, b"rd";
    /// `wr`: writable.
    WRITE = 1, b"wr";
    /// `ex`: executable.
    EXEC = 2, b"ex";
    /// `sh`: shared.
    SHARED = 3, b"sh";
    /// `mr`: may be made readable.
    MAY_READ = 4, b"mr";
    /// `mw`: may be made writable.
    MAY_WRITE = 5, b"mw";
    /// `me`: may be made executable.
    MAY_EXEC = 6, b"me";
    /// `ms`: may be shared.
    MAY_SHARE = 7, b"ms";
    /// `gd`: grows down, as stacks do.
    GROWS_DOWN = 8, b"gd";
    /// `pf`: bare page frames without `struct page`.
    PFN_MAP = 9, b"pf";
    /// `lo`: locked in memory, mlock(2).
    LOCKED = 10, b"lo";
    /// `io`: memory of a device.
    IO = 11, b"io";
    /// `sr`: MADV_SEQUENTIAL.
    SEQUENTIAL_READ = 12, b"sr";
    /// `rr`: MADV_RANDOM.
    RANDOM_READ = 13, b"rr";
    /// `dc`: not copied on fork, MADV_DONTFORK.
    DONT_FORK = 14, b"dc";
    /// `de`: must not grow by mremap(2).
    DONT_EXPAND = 15, b"de";
    /// `lf`: pages are locked as they are faulted in, MLOCK_ONFAULT.
    LOCK_ON_FAULT = 16, b"lf";
    /// `ac`: counted against the commit limit.
    ACCOUNT = 17, b"ac";
    /// `nr`: no swap space reserved, MAP_NORESERVE.
    NO_RESERVE = 18, b"nr";
    /// `ht`: hugetlb pages.
    HUGETLB = 19, b"ht";
    /// `sf`: synchronous page faults, MAP_SYNC.
    SYNC = 20, b"sf";
    /// `nl`: non-linear mapping (old kernels).
    NON_LINEAR = 21, b"nl";
    /// `ar`: architecture specific.
    ARCH = 22, b"ar";
    /// `wf`: empty in a child, MADV_WIPEONFORK.
    WIPE_ON_FORK = 23, b"wf";
    /// `dd`: left out of core dumps, MADV_DONTDUMP.
    DONT_DUMP = 24, b"dd";
    /// `sd`: soft-dirty.
    SOFT_DIRTY = 25, b"sd";
    /// `mm`: bare frames and ordinary pages mixed.
    MIXED_MAP = 26, b"mm";
    /// `hg`: MADV_HUGEPAGE.
    HUGE_PAGE = 27, b"hg";
    /// `nh`: MADV_NOHUGEPAGE.
    NO_HUGE_PAGE = 28, b"nh";
    /// `mg`: MADV_MERGEABLE.
    MERGEABLE = 29, b"mg";
    /// `um`: userfaultfd tracks missing pages.
    UFFD_MISSING = 30, b"um";
    /// `uw`: userfaultfd tracks writes.
    UFFD_WP = 31, b"uw";
    /// `ui`: userfaultfd tracks minor faults.
    UFFD_MINOR = 32, b"ui";
    /// `ss`: shadow stack.
    SHADOW_STACK = 33, b"ss";
    /// `sl`: sealed, mseal(2).
    SEALED = 34, b"sl";
    /// `dp`: the kernel may drop pages, MAP_DROPPABLE.
    DROPPABLE = 35, b"dp";
    /// `gu`: guard pages may have been installed.
    GUARD = 36, b"gu";
    /// `mt`: memory tagging (arm64).
    MTE = 37, b"mt";
    /// `bt`: branch targets are checked (arm64).
    BTI = 38, b"bt";
}

impl VmFlags {
    /// The flags of the rest of a `VmFlags:` line.
    pub(crate) fn parse(line: &[u8]) -> Self {
        line.split(u8::is_ascii_whitespace).filter(|code| !code.is_empty()).map(Self::from_code).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_and_told() {
        let flags = VmFlags::parse(b" rd wr mr mw me gd ac \n");
        assert_eq!(flags.codes(), ["rd", "wr", "mr", "mw", "me", "gd", "ac"]);
        assert!(flags.contains(VmFlags::GROWS_DOWN));
    }

    #[test]
    fn an_unknown_code_is_noticed() {
        let flags = VmFlags::parse(b"rd zz");
        assert_eq!(flags, VmFlags::READ | VmFlags::UNKNOWN);
        assert_eq!(flags.codes(), ["rd"]);
    }

    #[test]
    fn every_code_stands_for_itself() {
        for code in VmFlags::all().codes() {
            assert_eq!(VmFlags::from_code(code.as_bytes()).codes(), [code]);
        }
    }
}
