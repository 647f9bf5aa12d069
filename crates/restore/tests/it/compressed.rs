//! Compressed memory: written by dumps and pre-dumps, restored, and made plain for those who cannot read it.

use std::path::Path;

use rewake_dump::{Compression, DumpOptions, DumpReport, dump, pre_dump};
use rewake_images::Checkpoint;
use rewake_images::pagemap::rewrite_pages;
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{Workload, kernel_test};

use super::{PATIENCE, chain, verdict};

fn region(bytes: u64) -> Option<Compression> {
    Compression::region(bytes)
}

fn options(workload: &Workload, name: &str, compress: Option<Compression>) -> DumpOptions {
    let mut options = DumpOptions::new(workload.pid(), workload.dir().join(name));
    options.compress = compress;
    options
}

fn woken(workload: &Workload, images: &Path) -> Workload {
    workload.wait_end(PATIENCE).unwrap();
    restore(&RestoreOptions::new(images)).unwrap_or_else(|e| panic!("{}", chain(&e)));
    Workload::adopt(workload.pid(), workload.dir()).unwrap()
}

fn is_smaller(report: &DumpReport) {
    assert!(report.pages > 0 && report.pages_bytes < report.pages * 4096, "{report:?}");
}

kernel_test! {
    fn compressed_memory_comes_back() {
        for scenario in ["threads", "anonymous", "file-private", "memfd", "shared-anonymous", "registers"] {
            for compress in [Some(Compression::PerPage), region(8192), region(256 << 10)] {
                let dir = tempfile::tempdir().unwrap();
                let workload = Workload::spawn(scenario, dir.path()).unwrap();
                let report = dump(&options(&workload, "1", compress)).unwrap_or_else(|e| panic!("{}", chain(&e)));
                is_smaller(&report);
                let images = dir.path().join("1");
                assert_eq!(Checkpoint::open(&images).unwrap().inventory().img_version, 3);
                let workload = woken(&workload, &images);
                assert_eq!(verdict(&workload), "PASS", "{scenario} {compress:?}");
            }
        }
    }

    fn generations_may_be_compressed_or_not() {
        let kinds = [None, Some(Compression::PerPage), region(64 << 10)];
        for first in kinds {
            for second in kinds {
                let dir = tempfile::tempdir().unwrap();
                let workload = Workload::spawn("churn", dir.path()).unwrap();
                pre_dump(&options(&workload, "1", first)).unwrap();
                let mut last = options(&workload, "2", second);
                last.parent = Some("../1".into());
                let report = dump(&last).unwrap();
                assert!(report.parent_pages > 0);
                let workload = woken(&workload, &dir.path().join("2"));
                assert_eq!(verdict(&workload), "PASS", "{first:?} {second:?}");
            }
        }
    }

    fn a_compressed_checkpoint_is_made_plain() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("threads", dir.path()).unwrap();
        dump(&options(&workload, "1", region(32 << 10))).unwrap();
        let images = dir.path().join("1");
        rewrite_pages(&images, None, false).unwrap();
        assert_eq!(Checkpoint::open(&images).unwrap().inventory().img_version, 2);
        assert_eq!(verdict(&woken(&workload, &images)), "PASS");
    }
}
