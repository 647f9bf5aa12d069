//! The address space: what the stub has goes, what the process had comes.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::os::fd::RawFd;

use rewake_images::PageStore;
use rewake_images::extra::AreaExtra;
use rewake_images::proto::{MmEntry, VmaEntry};
use rewake_memdump::{Area, AreaKind};
use rewake_tracee::{Call, Remote, SCRATCH_LEN, find_instruction};
use zerocopy::IntoBytes;

use crate::error::{RestoreError, Result};
use crate::objects::{MappedAs, mapped_as};
use crate::plan::{Plan, TASK_SIZE, status};
use crate::remote::{Object, Table};
use crate::threads::policy_nodes;

/// The kernel's own areas of the stub: clock data and code.
#[derive(Debug)]
struct Vdso {
    areas: Vec<Range<u64>>,
    code: Range<u64>,
}

impl Vdso {
    fn of(areas: &[Area]) -> Option<Self> {
        let special = areas.iter().filter(|area| matches!(area.kind, AreaKind::Vdso | AreaKind::Vvar));
        let code = areas.iter().find(|area| area.kind == AreaKind::Vdso)?.range();
        Some(Self { areas: special.map(Area::range).collect(), code })
    }

    fn span(&self) -> Range<u64> {
        let start = self.areas.iter().map(|range| range.start).min().unwrap_or(self.code.start);
        let end = self.areas.iter().map(|range| range.end).max().unwrap_or(self.code.end);
        start..end
    }
}

/// Takes away everything but the scratch area and moves the vdso to where the process had it.
pub(crate) fn clear(remote: &mut Remote<'_>, plan: &Plan, stub: &[Area], store: &PageStore) -> Result<()> {
    let unsupported = |why| RestoreError::unsupported("the vdso", why);
    let ours = Vdso::of(stub).ok_or_else(|| unsupported("this kernel gives none"))?;
    let theirs = plan.task.mm.vmas.iter().find(|vma| vma.status & status::VDSO != 0);
    let theirs = theirs.ok_or_else(|| unsupported("the process had none"))?;
    check_same_vdso(remote, &ours, theirs, &plan.task.mm, store)?;

    let mut table = Table::new(plan.pid);
    if let Some(rseq) = remote.threads().first().and_then(rewake_tracee::Tracee::rseq) {
        // Or the kernel kills the stub as soon as the registered memory is gone.
        const UNREGISTER: u64 = 1;
        let args = [rseq.ptr, rseq.size.into(), UNREGISTER, rseq.signature.into()];
        table.add("rseq(unregister)", "the stub", Call::new(libc::SYS_rseq, &args));
    }
    let mut keep = [remote.scratch(), ours.span()];
    keep.sort_by_key(|range| range.start);
    let mut at = 0;
    let end = TASK_SIZE..TASK_SIZE;
    for range in keep.into_iter().chain(std::iter::once(end)) {
        if at < range.start {
            let call = Call::new(libc::SYS_munmap, &[at, range.start - at]);
            table.add("munmap", format!("{at:#x}-{:#x}", range.start), call);
        }
        at = range.end;
    }
    move_vdso(&mut table, &ours, theirs, remote.scratch().start + SCRATCH_LEN);
    table.run(remote)?;

    let mut code = vec![0; usize::try_from(theirs.end - theirs.start).expect("as long as ours")];
    remote.read(theirs.start, &mut code).map_err(RestoreError::tracee(plan.pid))?;
    let instruction = find_instruction(&code).ok_or_else(|| unsupported("it holds no system call"))?;
    remote.set_instruction(theirs.start + instruction);
    Ok(())
}

/// The process may stand inside the vdso, and remembers addresses in it: only the very same will do.
fn check_same_vdso(
    remote: &Remote<'_>,
    ours: &Vdso,
    theirs: &VmaEntry,
    mm: &MmEntry,
    store: &PageStore,
) -> Result<()> {
    let another = || RestoreError::unsupported("the vdso", "it is that of another kernel");
    let vvar = mm.vmas.iter().filter(|vma| vma.status & status::VVAR != 0);
    let their_start = vvar.map(|vma| vma.start).min().unwrap_or(theirs.start);
    let same_place = theirs.start.wrapping_sub(their_start) == ours.code.start - ours.span().start;
    if !same_place || theirs.end - theirs.start != ours.code.end - ours.code.start {
        return Err(another());
    }
    let len = usize::try_from(theirs.end - theirs.start).map_err(|_| another())?;
    let (mut code, mut dumped) = (vec![0; len], vec![0; len]);
    let pid = remote.pid().as_raw().unsigned_abs();
    remote.read(ours.code.start, &mut code).map_err(RestoreError::tracee(pid))?;
    store.read_at(theirs.start, &mut dumped)?;
    if code == dumped { Ok(()) } else { Err(another()) }
}

fn move_vdso(table: &mut Table, ours: &Vdso, theirs: &VmaEntry, staging: u64) {
    const MOVE: u64 = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let span = ours.span();
    let target = theirs.start.wrapping_sub(ours.code.start - span.start);
    if target == span.start {
        return;
    }
    let overlap = target < span.end && span.start < target + (span.end - span.start);
    let mut from = span.start;
    let mut hops = vec![target];
    if overlap {
        hops.insert(0, staging);
    }
    for to in hops {
        for area in &ours.areas {
            let offset = area.start - span.start;
            let len = area.end - area.start;
            let call = Call::new(libc::SYS_mremap, &[from + offset, len, len, MOVE, to + offset]);
            table.add("mremap", "the vdso", call);
        }
        from = to;
    }
}

/// Maps every area of the process, with its final protection. `fds` and `mapped` are the numbers its files have
/// in the stub.
pub(crate) fn map(
    remote: &mut Remote<'_>,
    plan: &Plan,
    fds: &BTreeMap<u32, RawFd>,
    mapped: &HashMap<MappedAs, RawFd>,
    old_shared: &HashMap<u64, RawFd>,
) -> Result<()> {
    // Takes the place of MAP_PRIVATE since Linux 6.11.
    const MAP_DROPPABLE: i32 = 8;
    const KEPT: i32 = libc::MAP_SHARED
        | libc::MAP_PRIVATE
        | MAP_DROPPABLE
        | libc::MAP_ANONYMOUS
        | libc::MAP_GROWSDOWN
        | libc::MAP_NORESERVE;
    let mut table = Table::new(plan.pid);
    let extras = extras(plan);
    for vma in ordinary(&plan.task.mm) {
        let object = || Object::from(vma.start..vma.end);
        let mut flags = vma.flags & KEPT.unsigned_abs();
        let fd = if vma.status & (status::FILE_PRIVATE | status::FILE_SHARED) != 0 {
            let own = mapped_as(plan, vma).and_then(|mapped_as| mapped.get(&mapped_as));
            let fd = own.or_else(|| u32::try_from(vma.shmid).ok().and_then(|id| fds.get(&id)));
            Some(fd.ok_or_else(|| RestoreError::inconsistent(object().to_string(), "its file is not open"))?)
        } else if vma.status & status::ANON_SHARED != 0 {
            let fd = old_shared.get(&vma.shmid);
            Some(
                fd.ok_or_else(|| RestoreError::inconsistent(object().to_string(), "its object is not open"))?,
            )
        } else {
            None
        };
        if fd.is_some() {
            flags &= !libc::MAP_ANONYMOUS.unsigned_abs();
        }
        flags |= libc::MAP_FIXED_NOREPLACE.unsigned_abs();
        let fd = fd.map_or(u64::MAX, |&fd| u64::from(fd.unsigned_abs()));
        let args = [vma.start, vma.end - vma.start, vma.prot.into(), flags.into(), fd, vma.pgoff];
        table.add("mmap", object(), Call::new(libc::SYS_mmap, &args));
        // Before there are pages.
        if let Some(policy) = extras.get(&vma.start).and_then(|extra| extra.memory_policy.as_ref()) {
            let (nodes, most) = policy_nodes(policy);
            let at = if nodes.is_empty() { 0 } else { remote.data() + table.bytes(&nodes) };
            let args = [vma.start, vma.end - vma.start, policy.mode.into(), at, most, 0];
            table.add("mbind", object(), Call::new(libc::SYS_mbind, &args));
        }
    }
    table.run(remote)
}

/// Areas other than those the kernel makes itself.
pub(crate) fn ordinary(mm: &MmEntry) -> impl Iterator<Item = &VmaEntry> {
    mm.vmas.iter().filter(|vma| vma.status & (status::VSYSCALL | status::VDSO | status::VVAR) == 0)
}

/// What is said of areas once they hold what they held: advice, locks, names, guard pages.
pub(crate) fn advise(remote: &mut Remote<'_>, plan: &Plan) -> Result<()> {
    const MADV_GUARD_INSTALL: u64 = 102;
    const PR_SET_VMA: u64 = 0x5356_4d41;
    const MLOCK_ONFAULT: u64 = 1;
    let mut table = Table::new(plan.pid);
    let extras = extras(plan);
    for vma in ordinary(&plan.task.mm) {
        let (start, len) = (vma.start, vma.end - vma.start);
        let object = || start..vma.end;
        let mut advise = |start, len, advice: u64| {
            table.add("madvise", object(), Call::new(libc::SYS_madvise, &[start, len, advice]));
        };
        let mut left = vma.madv();
        while left != 0 {
            advise(start, len, left.trailing_zeros().into());
            left &= left - 1;
        }
        let extra = extras.get(&start).copied();
        if let Some(extra) = extra {
            for guard in extra.guards.chunks_exact(2) {
                if let [from, to] = *guard {
                    advise(from, to.saturating_sub(from), MADV_GUARD_INSTALL);
                }
            }
            if !extra.name.is_empty() {
                let name = table.bytes(&[extra.name.as_slice(), &[0]].concat());
                table.add_at(
                    "prctl(PR_SET_VMA)",
                    object(),
                    libc::SYS_prctl,
                    &[PR_SET_VMA, 0, start, len],
                    name,
                );
            }
        }
        if vma.flags & libc::MAP_LOCKED.unsigned_abs() != 0 {
            let flags = if extra.is_some_and(|extra| extra.lock_on_fault) { MLOCK_ONFAULT } else { 0 };
            table.add("mlock2", object(), Call::new(libc::SYS_mlock2, &[start, len, flags]));
        }
    }
    let lock_future = plan.task.extra.lock_future;
    if lock_future != 0 {
        // Nothing more is mapped, and later it may lack the privilege.
        table.add("mlockall", "what will be mapped", Call::new(libc::SYS_mlockall, &[lock_future.into()]));
    }
    table.run(remote)
}

/// What is said of areas, by their first address.
fn extras(plan: &Plan) -> HashMap<u64, &AreaExtra> {
    plan.task.extra.areas.iter().map(|extra| (extra.start, extra)).collect()
}

/// Seals areas: the very last thing done to them.
pub(crate) fn seal(remote: &mut Remote<'_>, plan: &Plan) -> Result<()> {
    const SYS_MSEAL: libc::c_long = 462;
    let mut table = Table::new(plan.pid);
    for extra in plan.task.extra.areas.iter().filter(|extra| extra.sealed) {
        let len = extra.end.saturating_sub(extra.start);
        table.add("mseal", extra.start..extra.end, Call::new(SYS_MSEAL, &[extra.start, len, 0]));
    }
    table.run(remote)
}

/// Tells the kernel where code, data, break, stack, arguments and environment are, and what program it is.
/// prctl(PR_SET_MM, PR_SET_MM_MAP).
pub(crate) fn describe(remote: &mut Remote<'_>, plan: &Plan, exe: RawFd) -> Result<()> {
    let mm = &plan.task.mm;
    let mut auxv = mm.mm_saved_auxv.clone();
    auxv.extend([0, 0]);
    let mut table = Table::new(plan.pid);
    let auxv_at = table.bytes(auxv.as_bytes());
    let auxv_at = remote.data() + auxv_at;
    let auxv_len = auxv.as_bytes().len() as u64;
    let words = [
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
        auxv_at,
        // u32 auxv_size, u32 exe_fd.
        auxv_len | u64::from(exe.unsigned_abs()) << 32,
    ];
    let map = table.bytes(words.as_bytes());
    let map = remote.data() + map;
    let option = |n: libc::c_int| u64::from(n.unsigned_abs());
    let args = [option(libc::PR_SET_MM), option(libc::PR_SET_MM_MAP), map, words.as_bytes().len() as u64];
    table.add("prctl(PR_SET_MM_MAP)", "the address space", Call::new(libc::SYS_prctl, &args));
    table.run(remote)
}
