//! Which pages are chosen.

use std::io::Write as _;

use nix::sys::mman::{MapFlags, ProtFlags};
use nix::unistd::Pid;
use rewake_memdump::{
    Area, AreaKind, PageCategories, PagePlan, PageQuery, PageScanner, VmFlags, areas, maps, same_mappings,
    survey,
};

use crate::mapping::{Mapping, PAGE, with_sysv_segment};

/// linux/mman.h
const MADV_GUARD_INSTALL: i32 = 102;

#[test]
fn untouched_pages_are_not_stored() {
    let mapping = Mapping::private(64);
    assert_eq!(mapping.survey_by_page(), (vec![], vec![]));
    mapping.write(3, 1);
    mapping.write(4, 1);
    mapping.write(63, 1);
    assert_eq!(mapping.survey_by_page().0, [(3, 2), (63, 1)]);
}

#[test]
fn pages_only_read_are_zeros_and_not_stored() {
    let mapping = Mapping::private(8);
    assert!((0..8).all(|page| mapping.read(page) == 0));
    mapping.write(5, 0); // zeros too, but a page of its own, as far as the kernel can tell
    assert_eq!(mapping.survey_by_page().0, [(5, 1)]);
}

#[test]
fn of_a_private_file_only_written_pages_are_stored() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![9; 8 * PAGE]).unwrap();
    let mapping = Mapping::file(&file, 8, MapFlags::MAP_PRIVATE);
    assert!((0..8).all(|page| mapping.read(page) == 9));
    mapping.write(2, 1);
    mapping.write(3, 1);
    mapping.write(7, 1);
    assert_eq!(mapping.areas()[0].kind, AreaKind::FilePrivate);
    assert_eq!(mapping.survey_by_page().0, [(2, 2), (7, 1)]);
}

#[test]
fn of_a_shared_file_nothing_is_stored() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![9; 8 * PAGE]).unwrap();
    let mapping = Mapping::file(&file, 8, MapFlags::MAP_SHARED);
    mapping.write(2, 1);
    let areas = mapping.areas();
    assert_eq!((areas[0].kind, areas[0].deleted), (AreaKind::FileShared, true));
    assert!(mapping.survey_by_page().0.is_empty());
}

#[test]
fn a_protected_area_keeps_its_pages() {
    let mapping = Mapping::private(8);
    mapping.write(2, 5);
    mapping.protect(ProtFlags::PROT_NONE);
    assert_eq!(mapping.survey_by_page().0, [(2, 1)]);
}

#[test]
fn guard_pages_are_listed_and_not_stored() {
    for mapping in [Mapping::private(16), Mapping::shared(16)] {
        (0..12).for_each(|page| mapping.write(page, 1));
        let install = |page, pages| mapping.advise(page, pages, MADV_GUARD_INSTALL);
        if let Err(error) = install(2, 2).and_then(|()| install(14, 1)) {
            println!("skipped: no guard pages (Linux 6.13; in shared memory 6.15): {error}");
            continue;
        }
        assert_eq!(mapping.survey_by_page(), (vec![(0, 2), (4, 8)], vec![(2, 2), (14, 1)]));
    }
}

#[test]
fn both_ways_of_scanning_agree() {
    let mapping = Mapping::private(4096);
    for page in (0..4096).step_by(3) {
        mapping.write(page, 1);
    }
    let sum: u32 = (0..1000).map(|page| u32::from(mapping.read(page))).sum();
    assert_eq!(sum, 334, "every third of these pages was written");
    let guarded = mapping.advise(2000, 5, MADV_GUARD_INSTALL);
    println!("guard pages: {guarded:?}");
    let told = PageCategories::PRESENT | PageCategories::GUARD;
    let range = mapping.areas()[0].range();
    let query = PageQuery { any_of: told, returned: told, ..PageQuery::default() };
    let mut slow = PageScanner::with_table(Pid::this()).unwrap();
    let by_table = slow.scan(range.clone(), &query).unwrap();
    assert_eq!(by_table.iter().any(|run| run.categories == PageCategories::GUARD), guarded.is_ok());
    match PageScanner::with_pagemap_scan(Pid::this()) {
        Ok(mut fast) => assert_eq!(fast.scan(range, &query).unwrap(), by_table),
        Err(error) => println!("skipped: {error}"),
    }
}

#[test]
fn alternate_pages_come_once_each() {
    let mapping = Mapping::private(16384);
    for page in (0..16384).step_by(2) {
        mapping.write(page, 1);
    }
    let expected: Vec<(u64, u64)> = (0..8192).map(|n| (n * 2, 1)).collect();
    assert_eq!(mapping.survey_by_page().0, expected);
}

#[test]
fn a_sparse_reservation_costs_nothing() {
    let mapping = Mapping::private(1 << 24); // 64 GiB
    for page in [0, 1 << 20, (1 << 24) - 1] {
        mapping.write(page, 1);
    }
    assert_eq!(mapping.survey_by_page().0, [(0, 1), (1 << 20, 1), ((1 << 24) - 1, 1)]);
    let plan = PagePlan::new(mapping.survey().runs);
    assert_eq!((plan.runs().len(), plan.total_pages(), plan.chunks(1 << 20).count()), (3, 3, 1));
}

#[test]
fn shared_memory_is_stored_although_not_mapped_at_the_moment() {
    let mapping = Mapping::shared(16);
    mapping.write(2, 1);
    mapping.write(9, 1);
    let area = &mapping.areas()[0];
    assert_eq!(area.kind, AreaKind::AnonShared);
    assert_eq!(mapping.survey_by_page().0, [(2, 1), (9, 1)]);
    mapping.advise(0, 16, libc::MADV_DONTNEED).unwrap(); // out of our page table, still in the object
    if let Err(error) = std::fs::File::open(area.map_files(Pid::this())) {
        println!("skipped: map_files needs CAP_CHECKPOINT_RESTORE: {error}");
        return;
    }
    assert_eq!(mapping.survey_by_page().0, [(2, 1), (9, 1)]);
    assert_eq!(mapping.read(9), 1);
}

#[test]
fn a_system_v_segment_is_known_by_its_id() {
    with_sysv_segment(4, |addr, id| {
        let areas: Vec<Area> =
            areas(Pid::this()).unwrap().into_iter().filter(|area| area.start == addr).collect();
        assert_eq!(areas[0].kind, AreaKind::SysvShared);
        assert_eq!(areas[0].inode, u64::try_from(id).unwrap());
        let pages = survey(Pid::this(), &areas).unwrap();
        assert_eq!(pages[0].runs.iter().map(|run| (run.start, run.pages)).collect::<Vec<_>>(), [(addr, 1)]);
    });
}

#[test]
fn advice_shows_in_the_flags() {
    let mapping = Mapping::private(4);
    mapping.advise(0, 4, libc::MADV_DONTFORK).unwrap();
    mapping.advise(0, 4, libc::MADV_DONTDUMP).unwrap();
    let flags = mapping.areas()[0].vm_flags;
    assert!(flags.contains(VmFlags::DONT_FORK | VmFlags::DONT_DUMP | VmFlags::NO_RESERVE), "{flags:?}");
}

#[test]
fn both_lists_agree_for_a_mapping() {
    let mapping = Mapping::private(4);
    let full = mapping.areas();
    let mut quick = maps(Pid::this()).unwrap();
    quick.retain(|area| area.start == mapping.addr());
    assert!(same_mappings(&full, &quick));
}
