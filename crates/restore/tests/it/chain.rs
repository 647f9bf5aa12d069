//! Memory in several generations: rounds of pre-dumps and the dump that needs all of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rewake_dump::{After, DumpError, DumpOptions, DumpReport, dump, pre_dump};
use rewake_images::{Checkpoint, ImageError, pages_of, pe, proto::PagemapEntry, proto::PagemapHead};
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{Workload, kernel_test};

use super::{PATIENCE, chain, verdict};

/// Options for generation `n`, whose parent is the one before.
fn generation(pid: Pid, dir: &Path, n: usize) -> DumpOptions {
    let mut options = DumpOptions::new(pid, dir.join(format!("{n}")));
    options.parent = (n > 1).then(|| format!("../{}", n - 1).into());
    options
}

/// The dump of generation `n`, which kills, and the restore of it.
fn final_dump_and_restore(workload: Workload, n: usize) -> (Workload, DumpReport) {
    let report =
        dump(&generation(workload.pid(), workload.dir(), n)).unwrap_or_else(|e| panic!("{}", chain(&e)));
    workload.wait_end(PATIENCE).unwrap();
    let images = workload.dir().join(format!("{n}"));
    restore(&RestoreOptions::new(images)).unwrap_or_else(|e| panic!("{}", chain(&e)));
    (Workload::adopt(workload.pid(), workload.dir()).unwrap(), report)
}

/// Pages of generation `n` here and in the parent, as the pagemap says.
fn pages(workload: &Workload, n: usize) -> (u64, u64) {
    let number = u64::from(workload.pid().as_raw().unsigned_abs());
    let path = workload.dir().join(format!("{n}/pagemap-{number}.img"));
    let mut reader = rewake_images::ImageReader::open(rewake_images::Kind::Pagemap, &path).unwrap();
    reader.next_message::<PagemapHead>().unwrap().unwrap();
    let (mut here, mut in_parent) = (0, 0);
    while let Some((entry, _)) = reader.next_message::<PagemapEntry>().unwrap() {
        match entry.flags() {
            pe::PRESENT => here += pages_of(&entry),
            pe::PARENT => in_parent += pages_of(&entry),
            other => panic!("flags {other}"),
        }
    }
    (here, in_parent)
}

kernel_test! {
    fn what_did_not_change_is_left_to_the_parent() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let first = pre_dump(&generation(workload.pid(), dir.path(), 1)).unwrap();
        let second = pre_dump(&generation(workload.pid(), dir.path(), 2)).unwrap();
        assert_eq!((first.parent_pages, first.lost_pages), (0, 0));
        assert!(first.frozen.is_zero() && second.frozen.is_zero());
        // It sleeps meanwhile.
        assert_eq!((second.pages, second.parent_pages), (0, first.pages));
        assert_eq!(pages(&workload, 2), (0, first.pages));
        let of_pre_dump = Checkpoint::open(dir.path().join("1")).unwrap();
        assert_eq!(of_pre_dump.inventory().img_version, 0);
        let mut names: Vec<_> = fs::read_dir(dir.path().join("2")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let pagemap = format!("pagemap-{}.img", workload.pid());
        assert_eq!(names, ["inventory.img", pagemap.as_str(), "pages-1.img", "parent"]);

        let (workload, last) = final_dump_and_restore(workload, 3);
        assert!(last.parent_pages >= first.pages - 2, "{last:?}");
        assert_eq!(verdict(&workload), "PASS");
    }

    fn a_parent_of_another_process_costs_pages_only() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let other = Workload::spawn("threads", dirs[0].path()).unwrap();
        pre_dump(&generation(other.pid(), dirs[0].path(), 1)).unwrap();
        let workload = Workload::spawn("minimal", dirs[1].path()).unwrap();
        // As if its pid had been used again.
        let theirs = dirs[0].path().join("1");
        let ours = dirs[1].path().join("1");
        fs::create_dir(&ours).unwrap();
        fs::copy(theirs.join("inventory.img"), ours.join("inventory.img")).unwrap();
        fs::copy(theirs.join("pages-1.img"), ours.join("pages-1.img")).unwrap();
        fs::copy(
            theirs.join(format!("pagemap-{}.img", other.pid())),
            ours.join(format!("pagemap-{}.img", workload.pid())),
        )
        .unwrap();
        let (workload, _) = final_dump_and_restore(workload, 2);
        assert_eq!(verdict(&workload), "PASS");
    }

    fn a_parent_without_this_process_is_no_parent() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        pre_dump(&generation(workload.pid(), dir.path(), 1)).unwrap();
        fs::remove_file(dir.path().join(format!("1/pagemap-{}.img", workload.pid()))).unwrap();
        let (workload, report) = final_dump_and_restore(workload, 2);
        assert_eq!(report.parent_pages, 0);
        assert_eq!(verdict(&workload), "PASS");
    }

    fn a_missing_or_broken_parent_is_told_and_the_process_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let error = pre_dump(&generation(workload.pid(), dir.path(), 2)).unwrap_err();
        assert!(matches!(error, DumpError::Image(ImageError::Invalid { .. })), "{error:?}");
        pre_dump(&generation(workload.pid(), dir.path(), 1)).unwrap();
        fs::write(dir.path().join("1/pages-1.img"), "short").unwrap();
        let error = dump(&generation(workload.pid(), dir.path(), 2)).unwrap_err();
        assert!(chain(&error).contains("pages-1.img"), "{}", chain(&error));
        assert!(!dir.path().join("2").exists());
        assert_eq!(verdict(&workload), "PASS");
    }

    fn full_dumps_form_a_chain_too() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        for n in 1..=3 {
            let mut options = generation(workload.pid(), dir.path(), n);
            options.after = After::LeaveRunning;
            options.track_mem = true;
            dump(&options).unwrap();
            let inventory = Checkpoint::open(&options.images_dir).unwrap().inventory().clone();
            assert!(inventory.dump_uptime.is_some() && inventory.pre_dump_mode.is_none());
        }
        let (workload, report) = final_dump_and_restore(workload, 4);
        assert!(report.parent_pages > 0);
        assert_eq!(verdict(&workload), "PASS");
    }
}

/// How long the soak goes on: a few rounds, or as `cargo xtask soak` says.
#[expect(clippy::disallowed_methods, reason = "a test has no other arguments")]
fn soak_time() -> Duration {
    std::env::var("REWAKE_SOAK_SECONDS")
        .map_or(Duration::from_secs(2), |text| Duration::from_secs(text.parse().unwrap()))
}

kernel_test! {
    fn soak() {
        let end = Instant::now() + soak_time();
        let dir = tempfile::tempdir().unwrap();
        let mut workload = Workload::spawn("churn", dir.path()).unwrap();
        let (mut n, mut lost, mut kept, mut dumps) = (0, 0, 0, 0);
        loop {
            for _ in 0..3 {
                n += 1;
                let report = pre_dump(&generation(workload.pid(), dir.path(), n)).unwrap_or_else(|e| panic!("{}", chain(&e)));
                lost += report.lost_pages;
            }
            n += 1;
            let report;
            (workload, report) = final_dump_and_restore(workload, n);
            kept += report.parent_pages;
            dumps += 1;
            if Instant::now() >= end {
                break;
            }
            // A chain of its own for every restored process, or the disk fills up.
            for old in 1..=n {
                fs::remove_dir_all(dir.path().join(format!("{old}"))).unwrap();
            }
            n = 0;
        }
        eprintln!("{dumps} dumps, each after 3 pre-dumps: {kept} pages kept, {lost} lost on the way");
        assert!(kept > 0);
        assert_eq!(verdict(&workload), "PASS");
    }
}
