//! Capturing our own mappings: what is in the output is what was in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::mman::ProtFlags;
use nix::unistd::Pid;
use rewake_memdump::{
    AreaKind, CaptureOptions, CaptureStats, ObjectMemory, PagePlan, areas, capture, capture_from,
    object_runs, survey,
};

use crate::mapping::{Mapping, PAGE};

/// linux/mman.h
const MADV_GUARD_INSTALL: i32 = 102;

fn captured(plan: &PagePlan, threads: usize) -> (CaptureStats, Vec<u8>) {
    let out = tempfile::tempfile().unwrap();
    let options = CaptureOptions { threads, ..CaptureOptions::default() };
    let stats = capture(Pid::this(), plan, &out, &options).unwrap();
    (stats, content(&out))
}

fn content(out: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(out.metadata().unwrap().len()).unwrap()];
    out.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// First byte of each page; the pages are uniform.
fn page_bytes(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.chunks(PAGE).all(|page| page.iter().all(|byte| byte == &page[0])));
    bytes.iter().copied().step_by(PAGE).collect()
}

#[test]
fn content_is_the_same_with_one_thread_and_two() {
    let mapping = Mapping::private(2000);
    let byte = |page: usize| u8::try_from(page % 251).unwrap();
    let touched = || (0..2000).filter(|page| page % 7 != 3 && !(900..1300).contains(page));
    touched().for_each(|page| mapping.write(page, byte(page)));
    let plan = PagePlan::new(mapping.survey().runs);
    let expected: Vec<u8> = touched().map(byte).collect();
    for threads in [1, 2] {
        let (stats, bytes) = captured(&plan, threads);
        assert_eq!(page_bytes(&bytes), expected);
        assert_eq!((stats.pages, stats.forced_bytes), (plan.total_pages(), 0));
    }
}

#[test]
fn content_of_a_protected_area_is_captured() {
    let mapping = Mapping::private(600);
    (100..500).for_each(|page| mapping.write(page, 7));
    mapping.protect(ProtFlags::PROT_NONE);
    let plan = PagePlan::new(mapping.survey().runs);
    let (stats, bytes) = captured(&plan, 2);
    assert_eq!(page_bytes(&bytes), [7; 400]);
    assert_eq!(stats.forced_bytes, 400 * 4096);
}

#[test]
fn guard_pages_are_not_read() {
    let mapping = Mapping::private(16);
    (0..16).for_each(|page| mapping.write(page, u8::try_from(page).unwrap()));
    if let Err(error) = mapping.advise(4, 8, MADV_GUARD_INSTALL) {
        println!("skipped: no guard pages (Linux 6.13): {error}");
        return;
    }
    let plan = PagePlan::new(mapping.survey().runs);
    let (stats, bytes) = captured(&plan, 1);
    assert_eq!(page_bytes(&bytes), [0, 1, 2, 3, 12, 13, 14, 15]);
    assert_eq!(stats.forced_bytes, 0);
}

#[test]
fn the_vdso_is_captured_whole() {
    let mut areas = areas(Pid::this()).unwrap();
    areas.retain(|area| matches!(area.kind, AreaKind::Vdso | AreaKind::Vvar | AreaKind::Vsyscall));
    let surveyed = survey(Pid::this(), &areas).unwrap();
    let plan: PagePlan = surveyed.into_iter().flat_map(|pages| pages.runs).collect();
    let vdso = areas.iter().find(|area| area.kind == AreaKind::Vdso).unwrap();
    assert_eq!(plan.total_bytes(), vdso.len_bytes(), "and nothing of vvar and vsyscall");
    let (_, bytes) = captured(&plan, 1);
    assert_eq!(bytes[..4], *b"\x7fELF");
}

#[test]
fn a_shared_object_is_captured_by_position() {
    let mapping = Mapping::shared(16);
    mapping.write(2, 1);
    mapping.write(9, 2);
    let object = match File::open(mapping.areas()[0].map_files(Pid::this())) {
        Ok(object) => object,
        Err(error) => {
            println!("skipped: map_files needs CAP_CHECKPOINT_RESTORE: {error}");
            return;
        }
    };
    let runs = object_runs(&object, 0..16 * 4096).unwrap();
    assert_eq!(runs.iter().map(|run| (run.start / 4096, run.pages)).collect::<Vec<_>>(), [(2, 1), (9, 1)]);
    let out = tempfile::tempfile().unwrap();
    let options = CaptureOptions::default();
    let plan = PagePlan::new(runs);
    capture_from(&ObjectMemory::new(&object), Pid::this(), &plan, &out, &options).unwrap();
    assert_eq!(page_bytes(&content(&out)), [1, 2]);
}
