//! Memory: what is in it, what may be done with it, what the kernel was told of it.

use std::{collections::BTreeMap, fs, os::fd::AsRawFd};

use nix::errno::Errno;

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::{
        self, fd,
        mem::{self, Area, PAGE, PRIVATE, RW, SHARED},
        proc,
    },
};

const READ: i32 = libc::PROT_READ;

/// Private anonymous memory: full, in spots, untouched, read only, read as zeros.
pub(crate) fn anonymous(stage: &Stage) -> Check {
    let full = Area::anonymous(700, RW, PRIVATE)?;
    (0..700).for_each(|page| full.fill(page, 1));
    let spots = Area::anonymous(2000, RW, PRIVATE)?;
    (0..2000).step_by(3).for_each(|page| spots.fill(page, 2));
    // Read but never written: the kernel's page of zeros.
    ensure_eq!(spots.read(1, 0), 0, "before");
    let untouched = Area::anonymous(1 << 20, RW, PRIVATE | libc::MAP_NORESERVE)?;
    let read_only = Area::anonymous(5, RW, PRIVATE)?;
    read_only.fill(3, 3);
    read_only.protect(READ)?;
    let zeroed = Area::anonymous(4, RW, PRIVATE)?;
    zeroed.write(2, 7, 0);
    let gone = Area::anonymous(9, RW, PRIVATE)?;
    gone.fill(4, 4);
    gone.part(4, 1).unmap()?;
    let (mappings, flags) = (proc::mappings()?, proc::vm_flags()?);

    stage.freeze()?;

    proc::check_mappings(&mappings)?;
    compare_flags(&flags, &[full, spots, untouched, read_only, zeroed])?;
    for page in 0..700 {
        full.check(page, 1, "full")?;
    }
    for page in 0..2000 {
        if page % 3 == 0 { spots.check(page, 2, "spots")? } else { spots.check_zero(page, "spots")? }
    }
    ensure!(!untouched.resident()?.contains(&true), "untouched memory is there now");
    read_only.check(3, 3, "read only")?;
    zeroed.check_zero(2, "zeros")?;
    gone.check_reachable(3, true, "beside the hole")?;
    gone.check_reachable(4, false, "hole")?;
    untouched.fill(77, 5);
    untouched.check(77, 5, "written afterwards")
}

/// Shared anonymous memory, seen twice, and by two views of one object with an offset.
pub(crate) fn shared_anonymous(stage: &Stage) -> Check {
    let first = Area::anonymous(64, RW, SHARED)?;
    (0..64).step_by(2).for_each(|page| first.fill(page, 11));
    let twin = first.duplicate(0, 64)?;
    let part = first.duplicate(16, 8)?;
    part.protect(READ)?;
    let other = Area::anonymous(16, RW, SHARED)?;
    other.fill(9, 12);
    let mappings = proc::mappings()?;
    stage.freeze()?;
    proc::check_mappings(&mappings)?;
    for page in 0..64 {
        if page % 2 == 0 { first.check(page, 11, "shared")? } else { first.check_zero(page, "shared")? }
    }
    other.check(9, 12, "another")?;
    twin.write(17, 5, 0x1717);
    ensure_eq!(first.read(17, 5), 0x1717, "written through the twin");
    ensure_eq!(part.read(1, 5), 0x1717, "seen through the part");
    Ok(())
}

/// A file mapped privately, some pages modified; one mapping reaches behind its end.
pub(crate) fn file_private(stage: &Stage) -> Check {
    let path = stage.path("mapped");
    let contents = mem::bytes(21, 20 * 4096 + 77);
    fs::write(&path, &contents)?;
    let file = fd::open(&path, libc::O_RDONLY)?;
    let whole = Area::map(0, 24, RW, libc::MAP_PRIVATE, file.as_raw_fd(), 0)?;
    [0, 3, 4, 20].into_iter().for_each(|page| whole.fill(page, 22));
    let behind = Area::map(0, 4, RW, libc::MAP_PRIVATE, file.as_raw_fd(), 8 * PAGE)?;
    behind.fill(2, 23);
    behind.protect(READ)?;
    let code = Area::map(0, 2, READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd(), PAGE)?;
    drop(file);
    let mappings = proc::mappings()?;
    stage.freeze()?;
    proc::check_mappings(&mappings)?;
    for page in [0, 3, 4, 20] {
        whole.check(page, 22, "modified")?;
    }
    let word = |page: usize| contents[page * 4096..].first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
    for page in [1, 2, 5, 19] {
        ensure_eq!(Some(whole.read(page, 0)), word(page as usize), "page {page} of the file");
    }
    behind.check(2, 23, "modified, read only")?;
    ensure_eq!(Some(behind.read(1, 0)), word(9), "beside it");
    ensure_eq!(Some(code.read(1, 0)), word(2), "executable");
    whole.check_reachable(22, false, "behind the end of the file")
}

/// A file mapped shared: writable, and read only from a descriptor that cannot write.
pub(crate) fn file_shared(stage: &Stage) -> Check {
    use std::os::unix::fs::FileExt;
    let path = stage.path("mapped");
    fs::write(&path, mem::bytes(31, 8 * 4096))?;
    let file = fs::File::options().read(true).write(true).open(&path)?;
    let writable = Area::map(0, 8, RW, libc::MAP_SHARED, file.as_raw_fd(), 0)?;
    writable.fill(5, 32);
    let reader = fs::File::open(&path)?;
    let read_only = Area::map(0, 4, READ, libc::MAP_SHARED, reader.as_raw_fd(), 4 * PAGE)?;
    drop((file, reader));
    let mappings = proc::mappings()?;
    stage.freeze()?;
    proc::check_mappings(&mappings)?;
    writable.check(5, 32, "modified")?;
    writable.fill(6, 33);
    for word in [0, 1, 511] {
        ensure_eq!(read_only.read(2, word), mem::pattern(33, 6, word), "seen by the other mapping");
    }
    let mut bytes = [0; 8];
    fs::File::open(&path)?.read_exact_at(&mut bytes, 6 * PAGE)?;
    ensure_eq!(u64::from_ne_bytes(bytes), mem::pattern(33, 6, 0), "in the file");
    ensure_eq!(read_only.protect(RW), Err(Errno::EACCES), "making the read-only one writable");
    writable.protect(READ)?;
    Ok(writable.protect(RW)?)
}

/// The main stack grows, and so does an area that was told to.
pub(crate) fn stack(stage: &Stage) -> Check {
    let room = Area::anonymous(300, libc::PROT_NONE, PRIVATE)?;
    let top = room.part(296, 4);
    room.unmap()?;
    let area = Area::map(top.start, 4, RW, PRIVATE | libc::MAP_GROWSDOWN, -1, 0)?;
    area.fill(0, 41);
    let deep = recurse(20);
    stage.freeze()?;
    ensure_eq!(recurse(400), recurse_expected(400), "deeper than before");
    ensure_eq!(deep, recurse_expected(20), "as deep as before");
    area.check(0, 41, "grown area")?;
    // Below is free, so it may grow: the kernel keeps a gap of 256 pages to others.
    let below = Area { start: area.start - PAGE, pages: 1 };
    below.fill(0, 42);
    below.check(0, 42, "below")
}

/// 4 KiB of stack a step.
fn recurse(depth: u64) -> u64 {
    let local = std::hint::black_box([depth; 512]);
    if depth == 0 { 1 } else { local[depth as usize % 512].wrapping_add(recurse(depth - 1)) }
}

fn recurse_expected(depth: u64) -> u64 {
    1 + (1..=depth).sum::<u64>()
}

/// Every combination of protection, with contents below PROT_NONE.
pub(crate) fn protection(stage: &Stage) -> Check {
    let area = Area::anonymous(8 * 4, RW, PRIVATE)?;
    for n in 0..8 {
        area.fill(n * 4, 51);
        area.part(n * 4, 4).protect(n as i32)?;
    }
    let shared = Area::anonymous(4, RW, SHARED)?;
    shared.fill(1, 52);
    shared.protect(libc::PROT_NONE)?;
    let path = stage.path("mapped");
    fs::write(&path, mem::bytes(53, 4096))?;
    let file = Area::map(0, 1, RW, libc::MAP_PRIVATE, fd::open(&path, libc::O_RDONLY)?.as_raw_fd(), 0)?;
    file.fill(0, 54);
    file.protect(libc::PROT_NONE)?;
    let mappings = proc::mappings()?;
    stage.freeze()?;
    proc::check_mappings(&mappings)?;
    area.check_reachable(0, false, "PROT_NONE")?;
    area.check_reachable(4, true, "PROT_READ")?;
    area.protect(RW)?;
    for n in 0..8 {
        area.check(n * 4, 51, "contents")?;
        area.check_zero(n * 4 + 1, "contents")?;
    }
    shared.protect(READ)?;
    shared.check(1, 52, "contents of the shared one")?;
    file.protect(READ)?;
    file.check(0, 54, "contents of the file's")
}

const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// Pages that must not be touched, without a mapping of their own.
pub(crate) fn guard(stage: &Stage) -> Check {
    let area = Area::anonymous(32, RW, PRIVATE)?;
    (0..32).for_each(|page| area.fill(page, 61));
    if area.part(8, 3).advise(MADV_GUARD_INSTALL) == Err(Errno::EINVAL) {
        // Before Linux 6.13 there are none.
        return stage.freeze();
    }
    area.part(20, 1).advise(MADV_GUARD_INSTALL)?;
    let guarded = |page| (8..11).contains(&page) || page == 20;
    stage.freeze()?;
    for page in 0..32 {
        area.check_reachable(page, !guarded(page), "guard")?;
        if !guarded(page) {
            area.check(page, 61, "beside guards")?;
        }
    }
    area.advise(MADV_GUARD_REMOVE)?;
    area.check_zero(9, "where a guard was")
}

/// All that madvise can tell the kernel for good.
pub(crate) fn advice(stage: &Stage) -> Check {
    let told = [
        libc::MADV_DONTFORK,
        libc::MADV_DONTDUMP,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_MERGEABLE,
    ];
    let areas = told.map(|advice| -> Result<Area, Failure> {
        let area = Area::anonymous(5, RW, PRIVATE)?;
        area.fill(2, advice as u64);
        match area.advise(advice) {
            // Built without it.
            Ok(()) | Err(Errno::EINVAL) => Ok(area),
            Err(errno) => Err(errno).at(format_args!("advice {advice}")),
        }
    });
    keeps_flags(stage, &areas.into_iter().collect::<Result<Vec<_>, _>>()?)
}

/// Memory that a child finds empty.
pub(crate) fn wipe_on_fork(stage: &Stage) -> Check {
    let area = Area::anonymous(5, RW, PRIVATE)?;
    area.fill(2, 65);
    area.advise(libc::MADV_WIPEONFORK)?;
    keeps_flags(stage, &[area])
}

/// Memory that the kernel may drop, which reads as zeros then.
pub(crate) fn droppable(stage: &Stage) -> Check {
    const MAP_DROPPABLE: i32 = 8;
    match Area::anonymous(5, RW, MAP_DROPPABLE | libc::MAP_ANONYMOUS) {
        Ok(area) => {
            area.write(2, 0, 66);
            keeps_flags(stage, &[area])
        }
        // Before Linux 6.11.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => stage.freeze(),
        Err(errno) => Err(errno).at("map droppable memory"),
    }
}

/// How a mapped file is going to be read.
pub(crate) fn read_ahead(stage: &Stage) -> Check {
    let path = stage.path("mapped");
    fs::write(&path, mem::bytes(71, 8 * 4096))?;
    let file = fd::open(&path, libc::O_RDONLY)?;
    let mut areas = Vec::new();
    for advice in [libc::MADV_RANDOM, libc::MADV_SEQUENTIAL] {
        let area = Area::map(0, 4, READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)?;
        area.advise(advice)?;
        areas.push(area);
    }
    keeps_flags(stage, &areas)
}

fn keeps_flags(stage: &Stage, areas: &[Area]) -> Check {
    let words = |area: &Area| area.read(2, 9);
    let (flags, contents): (_, Vec<u64>) = (proc::vm_flags()?, areas.iter().map(words).collect());
    stage.freeze()?;
    compare_flags(&flags, areas)?;
    ensure_eq!(areas.iter().map(words).collect::<Vec<_>>(), contents, "contents");
    Ok(())
}

/// Checks that areas have the flags of before. Mappings are joined to neighbours of the same flags, or not.
fn compare_flags(before: &BTreeMap<u64, String>, areas: &[Area]) -> Check {
    let now = proc::vm_flags()?;
    for area in areas {
        let of = |all: &BTreeMap<u64, String>| {
            all.range(..=area.start).next_back().map(|(_, flags)| flags.clone())
        };
        ensure_eq!(of(&now), of(before), "flags of the area at {:x}", area.start);
    }
    Ok(())
}

/// Memory that must not leave, at once or as it is touched.
pub(crate) fn locked(stage: &Stage) -> Check {
    let now = Area::anonymous(6, RW, PRIVATE)?;
    now.lock(0)?;
    now.fill(2, 81);
    let shared = Area::anonymous(6, RW, SHARED)?;
    shared.lock(0)?;
    shared.fill(2, 82);
    let locked = proc::status("VmLck")?;
    let before = proc::vm_flags()?;
    stage.freeze()?;
    compare_flags(&before, &[now, shared])?;
    for area in [now, shared] {
        ensure!(!area.resident()?.contains(&false), "locked memory is not there");
    }
    ensure_eq!(proc::status("VmLck")?, locked, "locked memory");
    now.check(2, 81, "locked")?;
    shared.check(2, 82, "locked, shared")
}

/// Memory locked only where it is touched.
pub(crate) fn locked_on_fault(stage: &Stage) -> Check {
    const ON_FAULT: u32 = 1;
    let area = Area::anonymous(64, RW, PRIVATE)?;
    area.lock(ON_FAULT)?;
    area.fill(2, 83);
    let before = proc::vm_flags()?;
    stage.freeze()?;
    compare_flags(&before, &[area])?;
    area.check(2, 83, "locked")?;
    let there = area.resident()?.iter().filter(|page| **page).count();
    ensure_eq!(there, 1, "pages that are there");
    Ok(())
}

/// Huge pages: wanted for an area, and filled.
pub(crate) fn huge_pages(stage: &Stage) -> Check {
    const HUGE: u64 = 512;
    let room = Area::anonymous(4 * HUGE, RW, PRIVATE)?;
    let first = (room.start / PAGE).next_multiple_of(HUGE) - room.start / PAGE;
    let area = room.part(first, 3 * HUGE);
    match area.advise(libc::MADV_HUGEPAGE) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno).at("MADV_HUGEPAGE"),
    }
    (0..2 * HUGE).for_each(|page| area.fill(page, 91));
    let flags = proc::vm_flags()?;
    stage.freeze()?;
    compare_flags(&flags, &[area])?;
    for page in 0..2 * HUGE {
        area.check(page, 91, "huge pages")?;
    }
    area.check_zero(2 * HUGE + 5, "the last one")
}

/// Huge pages forbidden for the whole process.
pub(crate) fn no_huge_pages(stage: &Stage) -> Check {
    sys::prctl(libc::PR_SET_THP_DISABLE, 1)?;
    stage.freeze()?;
    ensure_eq!(sys::prctl(libc::PR_GET_THP_DISABLE, 0)?, 1, "PR_GET_THP_DISABLE");
    Ok(())
}

/// The heap as brk sees it, with an end inside a page.
pub(crate) fn brk(stage: &Stage) -> Check {
    let begin = mem::brk(0);
    let end = mem::brk(begin + 10 * PAGE + 1234);
    ensure_eq!(end, begin + 10 * PAGE + 1234, "brk before");
    let heap = Area { start: begin.next_multiple_of(PAGE), pages: 9 };
    heap.fill(3, 101);
    stage.freeze()?;
    heap.check(3, 101, "heap")?;
    ensure_eq!(mem::brk(0), end, "end of the heap");
    ensure_eq!(mem::brk(end + 20 * PAGE), end + 20 * PAGE, "growing");
    let grown = Area { start: end.next_multiple_of(PAGE), pages: 10 };
    grown.fill(5, 102);
    grown.check(5, 102, "grown")?;
    ensure_eq!(mem::brk(end), end, "shrinking");
    Ok(())
}

/// Names of anonymous memory and areas nobody may change any more.
pub(crate) fn sealed(stage: &Stage) -> Check {
    let area = Area::anonymous(4, RW, PRIVATE)?;
    area.fill(1, 111);
    const PR_SET_VMA: u64 = 0x5356_4d41;
    let name = c"rewake test";
    let arguments = [PR_SET_VMA, 0, area.start, 2 * PAGE, name.as_ptr() as u64, 0];
    // SAFETY: the kernel reads the name.
    let named = unsafe { sys::raw(libc::SYS_prctl, arguments) };
    ensure!(matches!(named, Ok(_) | Err(Errno::EINVAL)), "naming: {named:?}");
    let locked = Area::anonymous(4, RW, PRIVATE)?;
    locked.fill(1, 112);
    locked.protect(READ)?;
    const MSEAL: i64 = 462;
    // SAFETY: takes integers; nothing here changes the area later.
    let sealed = unsafe { sys::raw(MSEAL, [locked.start, 4 * PAGE, 0, 0, 0, 0]) };
    ensure!(matches!(sealed, Ok(_) | Err(Errno::ENOSYS)), "sealing: {sealed:?}");
    let mappings = proc::mappings()?;
    stage.freeze()?;
    proc::check_mappings(&mappings)?;
    area.check(1, 111, "named")?;
    locked.check(1, 112, "sealed")?;
    let refused = if sealed.is_ok() { Err(Errno::EPERM) } else { Ok(()) };
    ensure_eq!(locked.protect(RW), refused, "changing a sealed area");
    Ok(())
}
