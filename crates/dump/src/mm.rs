//! The address space: its mappings, and the addresses the kernel keeps of it.

use nix::unistd::Pid;
use rewake_images::extra::AreaExtra;
use rewake_images::proto::{MmEntry, VmaEntry};
use rewake_memdump::{Area, AreaKind, Prot, VmFlags};

use crate::asked::ProcessState;
use crate::error::Result;
use crate::objects::{FileTable, Refusal};
use crate::proc::{self, Stat};

/// Bits of `vma_entry.status`.
mod status {
    pub(super) const REGULAR: u32 = 1;
    pub(super) const VSYSCALL: u32 = 1 << 2;
    pub(super) const VDSO: u32 = 1 << 3;
    pub(super) const HEAP: u32 = 1 << 5;
    pub(super) const FILE_PRIVATE: u32 = 1 << 6;
    pub(super) const FILE_SHARED: u32 = 1 << 7;
    pub(super) const ANON_PRIVATE: u32 = 1 << 9;
    pub(super) const VVAR: u32 = 1 << 12;
    pub(super) const MEMFD: u32 = 1 << 14;
}

/// Why an area cannot be dumped, `None` if it can.
pub(crate) fn refusal(area: &Area) -> Option<Refusal> {
    let refuse = |reason: &str| Some(Refusal { reason: reason.into(), remedy: "unmap it before the dump" });
    let flags = area.vm_flags;
    if flags.contains(VmFlags::HUGETLB) {
        return refuse("hugetlb memory cannot be dumped yet");
    }
    if flags.contains(VmFlags::SHADOW_STACK) {
        return refuse("shadow stacks cannot be dumped yet");
    }
    if flags.intersects(VmFlags::UFFD_MISSING | VmFlags::UFFD_MINOR | VmFlags::UFFD_WP) {
        return refuse("memory under userfaultfd cannot be dumped yet");
    }
    if area.path.as_ref().is_some_and(|path| path.as_os_str().as_encoded_bytes().starts_with(b"/[aio]")) {
        let reason = "asynchronous input and output (io_setup) cannot be dumped yet".into();
        return Some(Refusal { reason, remedy: "have the program destroy its contexts (io_destroy)" });
    }
    // The kernel gives code that can only be run such a key by itself.
    if area.protection_key != 0 && area.prot != Prot::EXEC {
        return refuse("memory with a protection key (pkey_mprotect) cannot be dumped yet");
    }
    match area.kind {
        AreaKind::Device => refuse("memory of a device cannot be dumped"),
        AreaKind::SysvShared => refuse("System V shared memory cannot be dumped yet"),
        AreaKind::Special if !skipped(area) => refuse("a special mapping of the kernel cannot be dumped"),
        _ => None,
    }
}

fn skipped(area: &Area) -> bool {
    area.path.as_ref().is_some_and(|p| p.as_os_str() == "[uprobes]")
}

/// Whether the area is of a file with an entry of its own; `shmid` is its id then.
pub(crate) fn of_file(vma: &VmaEntry) -> bool {
    vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 && vma.status & status::MEMFD == 0
}

/// The entry of an area, and what the format has no place for.
pub(crate) fn vma(pid: Pid, area: &Area, files: &mut FileTable) -> Result<(VmaEntry, AreaExtra)> {
    let mut vma = VmaEntry {
        start: area.start,
        end: area.end,
        pgoff: area.offset,
        prot: area.prot.bits(),
        flags: map_flags(area),
        status: status::REGULAR,
        fd: -1,
        madv: Some(advice(area.vm_flags)).filter(|&bits| bits != 0),
        ..Default::default()
    };
    match area.kind {
        AreaKind::Vdso => vma.status |= status::VDSO | status::ANON_PRIVATE,
        AreaKind::Vvar => {
            vma.status |= status::VVAR | status::ANON_PRIVATE;
            // It shows an offset that means nothing.
            vma.pgoff = 0;
        }
        AreaKind::Vsyscall => vma.status = status::VSYSCALL | status::ANON_PRIVATE,
        AreaKind::Heap => vma.status |= status::HEAP | status::ANON_PRIVATE,
        AreaKind::FilePrivate | AreaKind::FileShared | AreaKind::AnonShared => {
            let writable = area.shared && area.vm_flags.contains(VmFlags::MAY_WRITE);
            let fdflags = if writable { libc::O_RDWR.unsigned_abs() } else { 0 };
            let link = format!("map_files/{:x}-{:x}", area.start, area.end);
            let mapped = files.add_link(pid, &link, fdflags)?;
            vma.shmid = u64::from(mapped.id);
            vma.fdflags = Some(fdflags);
            vma.status |= if area.shared { status::FILE_SHARED } else { status::FILE_PRIVATE };
            if mapped.memfd {
                vma.status |= status::MEMFD;
            }
        }
        _ => vma.status |= status::ANON_PRIVATE,
    }
    Ok((vma, extra(area)))
}

/// Takes the place of MAP_PRIVATE in mmap(2). Linux 6.11, and not in libc yet.
const MAP_DROPPABLE: i32 = 8;

fn map_flags(area: &Area) -> u32 {
    let has = |flag: VmFlags, bits: i32| if area.vm_flags.contains(flag) { bits } else { 0 };
    let mut flags = match area.shared {
        true => libc::MAP_SHARED,
        false if area.vm_flags.contains(VmFlags::DROPPABLE) => MAP_DROPPABLE,
        false => libc::MAP_PRIVATE,
    };
    let file = matches!(area.kind, AreaKind::FilePrivate | AreaKind::FileShared | AreaKind::AnonShared);
    if !file {
        flags |= libc::MAP_ANONYMOUS;
    }
    flags |= has(VmFlags::GROWS_DOWN, libc::MAP_GROWSDOWN);
    flags |= has(VmFlags::NO_RESERVE, libc::MAP_NORESERVE);
    flags |= has(VmFlags::LOCKED, libc::MAP_LOCKED);
    flags.unsigned_abs()
}

/// `vma_entry.madv`: bit N is advice number N of madvise(2).
fn advice(flags: VmFlags) -> u64 {
    let bits = [
        (VmFlags::DONT_FORK, libc::MADV_DONTFORK),
        (VmFlags::MERGEABLE, libc::MADV_MERGEABLE),
        (VmFlags::HUGE_PAGE, libc::MADV_HUGEPAGE),
        (VmFlags::NO_HUGE_PAGE, libc::MADV_NOHUGEPAGE),
        (VmFlags::DONT_DUMP, libc::MADV_DONTDUMP),
        (VmFlags::WIPE_ON_FORK, libc::MADV_WIPEONFORK),
        (VmFlags::RANDOM_READ, libc::MADV_RANDOM),
        (VmFlags::SEQUENTIAL_READ, libc::MADV_SEQUENTIAL),
    ];
    bits.into_iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |all, (_, advice)| all | 1 << advice)
}

fn extra(area: &Area) -> AreaExtra {
    let has = |flag| area.vm_flags.contains(flag);
    AreaExtra {
        start: area.start,
        end: area.end,
        guards: Vec::new(),
        lock_on_fault: has(VmFlags::LOCK_ON_FAULT),
        sealed: has(VmFlags::SEALED),
        name: area.anon_name.clone().unwrap_or_default(),
        memory_policy: None,
    }
}

/// Areas as the format wants them: consecutive vvar areas are one.
pub(crate) fn merge_vvar(vmas: &mut Vec<VmaEntry>) {
    vmas.dedup_by(|next, last| {
        let both = next.status & last.status & status::VVAR != 0 && last.end == next.start;
        if both {
            last.end = next.end;
        }
        both
    });
}

/// The image of the address space.
pub(crate) fn entry(
    pid: Pid,
    stat: &Stat,
    state: &ProcessState,
    exe_file_id: u32,
    vmas: Vec<VmaEntry>,
) -> Result<MmEntry> {
    Ok(MmEntry {
        mm_start_code: stat.start_code,
        mm_end_code: stat.end_code,
        mm_start_data: stat.start_data,
        mm_end_data: stat.end_data,
        mm_start_stack: stat.start_stack,
        mm_start_brk: stat.start_brk,
        mm_brk: state.brk,
        mm_arg_start: stat.arg_start,
        mm_arg_end: stat.arg_end,
        mm_env_start: stat.env_start,
        mm_env_end: stat.env_end,
        exe_file_id,
        mm_saved_auxv: auxv(&proc::read_bytes(pid, "auxv")?),
        vmas,
        dumpable: Some(state.dumpable),
        aios: Vec::new(),
        thp_disabled: Some(state.thp_disabled),
    })
}

/// Key and value words, without the pair of zeros at the end.
fn auxv(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| chunk.try_into().map_or(0, u64::from_ne_bytes);
    let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
    let pairs = words.chunks_exact(2).take_while(|pair| pair.first() != Some(&0));
    pairs.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_keys_that_a_program_set_are_refused() {
        let area = |permissions: &str, key: u32| {
            let text = format!(
                "7000-8000 {permissions} 00000000 00:00 0\nProtectionKey: {key}\nVmFlags: rd wr mr mw me ac\n"
            );
            rewake_memdump::AreaReader::new(text.as_bytes()).next().unwrap().unwrap()
        };
        assert!(refusal(&area("rw-p", 3)).unwrap().reason.contains("protection key"));
        assert_eq!(refusal(&area("rw-p", 0)), None);
        assert_eq!(refusal(&area("--xp", 1)), None, "given by the kernel");
    }

    #[test]
    fn advice_bits() {
        assert_eq!(advice(VmFlags::DONT_DUMP), 65536);
        assert_eq!(advice(VmFlags::DONT_FORK | VmFlags::HUGE_PAGE), 1 << 10 | 1 << 14);
        assert_eq!(advice(VmFlags::empty()), 0);
    }

    #[test]
    fn auxv_ends_at_null() {
        let words: Vec<u8> = [33_u64, 7, 6, 4096, 0, 0, 1, 1].iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(auxv(&words), [33, 7, 6, 4096]);
    }

    #[test]
    fn protection_bits_are_those_of_mmap() {
        assert_eq!((Prot::READ | Prot::EXEC).bits(), 5);
    }
}
