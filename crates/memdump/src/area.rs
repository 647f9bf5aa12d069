//! One mapping of an address space.

use std::ops::Range;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::vmflags::{Prot, VmFlags};

/// What a mapping is, which decides how its contents are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AreaKind {
    /// Private memory without a file.
    AnonPrivate,
    /// Shared memory without a file (MAP_SHARED|MAP_ANONYMOUS); the object behind it is told by device and inode.
    AnonShared,
    /// A System V shared memory segment; the inode number is its id.
    SysvShared,
    /// A private mapping of a file: pages that were written are copies of our own.
    FilePrivate,
    /// A shared mapping of a file: all content is the file's.
    FileShared,
    /// The memory between the start of the break and the break, brk(2). Private, without a file.
    Heap,
    /// The stack of the initial thread. Private, without a file.
    Stack,
    /// The code page(s) the kernel gives to every task.
    Vdso,
    /// The kernel's data behind the vdso. There may be several of these side by side.
    Vvar,
    /// The legacy page at a fixed address; not a part of the address space proper.
    Vsyscall,
    /// Memory of a device or bare page frames.
    Device,
    /// Another special mapping that the kernel made itself, such as `[uprobes]`.
    Special,
}

/// One mapping, as `/proc/PID/smaps` (or maps) tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What the pages permit now.
    pub prot: Prot,
    /// Whether writes are seen by other mappings of the same object.
    pub shared: bool,
    /// Position in the file of the first byte, in bytes; 0 without a file.
    pub offset: u64,
    /// Major and minor number of the file's device; zeros without a file.
    pub dev: (u32, u32),
    /// Inode number of the file; 0 without a file.
    pub inode: u64,
    /// Path of the mapped file, raw bytes. Newlines, which the kernel shows as `\012`, are put back; a name that holds
    /// those four characters literally cannot be told apart, so the link of [`Area::map_files`] has the last word.
    pub path: Option<PathBuf>,
    /// The kernel marked the path ` (deleted)`; the mark is not part of `path`. A file may be called that, too: again
    /// the link of [`Area::map_files`] decides.
    pub deleted: bool,
    /// The name the program gave to memory without a file, prctl(PR_SET_VMA_ANON_NAME).
    pub anon_name: Option<Vec<u8>>,
    /// Flags; empty if the area comes from [`crate::maps`].
    pub vm_flags: VmFlags,
    /// Memory protection key, 0 if none was set, the kernel shows none, or the area comes from [`crate::maps`].
    pub protection_key: u32,
    /// What it is. [`AreaKind::Device`] is known from the flags only, so never from [`crate::maps`].
    pub kind: AreaKind,
}

impl Area {
    /// The addresses.
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Where the kernel offers the mapped object itself as a file that can be opened, deleted or not.
    ///
    /// # Source
    /// proc_pid_map_files(5); opening needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
    pub fn map_files(&self, pid: Pid) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end))
    }

    /// Whether a memfd is mapped, privately or shared.
    pub fn is_memfd(&self) -> bool {
        self.deleted && self.on_kernel_tmpfs() && self.path_starts_with(b"/memfd:")
    }

    /// Whether both describe the same mapping, as far as maps tells: everything but flags, key and what follows from
    /// them.
    pub fn same_mapping(&self, other: &Self) -> bool {
        self.start == other.start
            && self.end == other.end
            && self.prot == other.prot
            && self.shared == other.shared
            && self.offset == other.offset
            && self.dev == other.dev
            && self.inode == other.inode
            && self.path == other.path
            && self.deleted == other.deleted
            && self.anon_name == other.anon_name
    }

    /// Files the kernel keeps for itself (memfd, shared anonymous memory, System V) are on a tmpfs that is never
    /// mounted anywhere, so they have no device of their own.
    fn on_kernel_tmpfs(&self) -> bool {
        self.dev.0 == 0
    }

    fn path_starts_with(&self, prefix: &[u8]) -> bool {
        self.path.as_ref().is_some_and(|path| path.as_os_str().as_encoded_bytes().starts_with(prefix))
    }

    /// The kind of an area without a bracketed name, from everything else that is known.
    pub(crate) fn kind_by_file(&self) -> AreaKind {
        if self.vm_flags.intersects(VmFlags::IO | VmFlags::PFN_MAP) {
            return AreaKind::Device;
        }
        if self.path.is_none() {
            return if self.shared { AreaKind::AnonShared } else { AreaKind::AnonPrivate };
        }
        if !self.shared {
            return AreaKind::FilePrivate;
        }
        if self.deleted && self.on_kernel_tmpfs() {
            let is =
                |name: &[u8]| self.path.as_ref().is_some_and(|p| p.as_os_str().as_encoded_bytes() == name);
            if is(b"/dev/zero") || is(b"/anon_hugepage") {
                return AreaKind::AnonShared;
            }
            if self.path_starts_with(b"/SYSV") {
                return AreaKind::SysvShared;
            }
        }
        AreaKind::FileShared
    }
}

/// Whether two lists of mappings describe the same address space, as far as maps tells ([`Area::same_mapping`]).
pub fn same_mappings(before: &[Area], after: &[Area]) -> bool {
    before.len() == after.len() && before.iter().zip(after).all(|(a, b)| a.same_mapping(b))
}

/// Gives `areas`, which come from [`crate::maps`], the flags, keys and kinds of those in `flagged`, which come from
/// [`crate::areas`] and were read while others mapped and unmapped memory of their own beside them: what is alike the
/// kernel makes one mapping of. False if one is not in there.
pub fn take_flags(areas: &mut [Area], flagged: &[Area]) -> bool {
    let mut flagged = flagged.iter().peekable();
    areas.iter_mut().all(|area| {
        while flagged.next_if(|known| known.end <= area.start).is_some() {}
        let Some(known) = flagged.peek().filter(|known| known.start <= area.start && area.end <= known.end)
        else {
            return false;
        };
        (area.vm_flags, area.protection_key) = (known.vm_flags, known.protection_key);
        if known.range() == area.range() {
            area.kind = known.kind;
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::AreaReader;

    fn read(text: &str) -> Vec<Area> {
        AreaReader::new(text.as_bytes()).map(Result::unwrap).collect()
    }

    #[test]
    fn flags_are_taken_from_mappings_that_others_have_grown() {
        let maps = "1000-2000 rw-p 00000000 00:00 0\n2000-4000 rw-s 00000000 00:05 9 /dev/mem\n8000-9000 r--p 00000000 00:00 0\n";
        let smaps = "1000-2000 rw-p 00000000 00:00 0\nVmFlags: rd wr dd\n\
                     2000-4000 rw-s 00000000 00:05 9 /dev/mem\nVmFlags: rd wr io pf\n\
                     5000-6000 r-xp 00000000 00:00 0\nVmFlags: rd ex\n\
                     7000-9000 r--p 00000000 00:00 0\nProtectionKey: 3\nVmFlags: rd\n";
        let mut areas = read(maps);
        assert!(take_flags(&mut areas, &read(smaps)));
        let flags: Vec<VmFlags> = areas.iter().map(|area| area.vm_flags).collect();
        let [dont_dump, device, read_only] = &flags[..] else { panic!("{flags:?}") };
        assert!(
            dont_dump.contains(VmFlags::DONT_DUMP) && device.contains(VmFlags::IO) && !read_only.is_empty()
        );
        assert_eq!(areas[1].kind, AreaKind::Device);
        assert_eq!((areas[2].range(), areas[2].protection_key), (0x8000..0x9000, 3));
    }

    #[test]
    fn a_mapping_without_flags_is_noticed() {
        let smaps = read("1000-2000 rw-p 00000000 00:00 0\nVmFlags: rd wr\n");
        for missing in [
            "1000-3000 rw-p 00000000 00:00 0\n",
            "0-1000 rw-p 00000000 00:00 0\n",
            "5000-6000 rw-p 00000000 00:00 0\n",
        ] {
            assert!(!take_flags(&mut read(missing), &smaps), "{missing}");
        }
    }
}
