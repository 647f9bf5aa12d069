//! Memory in several generations: rounds of pre-dumps and the dump that needs all of them.

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use rewake_dump::{
    After, DumpError, DumpOptions, DumpReport, Periodic, Rounds, dump, dump_in_rounds, dump_periodically,
    pre_dump,
};
use rewake_images::{
    Checkpoint, ImageError, pages_of, pe, proto::PagemapEntry, proto::PagemapHead, proto::StatsEntry,
};
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
        // It sleeps meanwhile, or is about to: that may still cost it a page of its stack.
        assert!(second.pages <= 2 && second.pages + second.parent_pages == first.pages, "{second:?}");
        assert_eq!(pages(&workload, 2), (second.pages, second.parent_pages));
        let of_pre_dump = Checkpoint::open(dir.path().join("1")).unwrap();
        assert_eq!(of_pre_dump.inventory().img_version, 0);
        let mut names: Vec<_> = fs::read_dir(dir.path().join("2")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let pagemap = format!("pagemap-{}.img", workload.pid());
        assert_eq!(names, ["inventory.img", pagemap.as_str(), "pages-1.img", "parent", "stats-dump"]);

        let (workload, last) = final_dump_and_restore(workload, 3);
        // The vdso is never tracked, and being stopped may cost it a page.
        assert!(last.parent_pages >= first.pages - 4, "{last:?}");
        assert_eq!(verdict(&workload), "PASS");
    }

    fn shared_memory_that_did_not_change_is_left_to_the_parent() {
        for scenario in ["memfd", "shared-anonymous"] {
            let dir = tempfile::tempdir().unwrap();
            let workload = Workload::spawn(scenario, dir.path()).unwrap();
            let first = pre_dump(&generation(workload.pid(), dir.path(), 1)).unwrap();
            assert!(first.shared_pages > 0, "{first:?}");
            let second = pre_dump(&generation(workload.pid(), dir.path(), 2)).unwrap();
            let (workload, last) = final_dump_and_restore(workload, 3);
            for report in [&second, &last] {
                assert_eq!((report.shared_pages, report.shared_parent_pages), (0, first.shared_pages), "{scenario}");
            }
            assert_eq!(verdict(&workload), "PASS");
        }
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

    fn rounds_in_one_run_leave_little_to_the_dump() {
        let dir = tempfile::tempdir().unwrap();
        let mut workload = Workload::spawn("churn", dir.path()).unwrap();
        for (n, rounds) in [Rounds::Fixed(3), Rounds::Auto { max_freeze: Duration::from_millis(1) }].into_iter().enumerate() {
            let images = dir.path().join(format!("rounds-{n}"));
            let reports = dump_in_rounds(&DumpOptions::new(workload.pid(), &images), rounds)
                .unwrap_or_else(|e| panic!("{}", chain(&e)));
            assert!(reports.len() >= 3, "{reports:?}");
            let last = reports.last().unwrap();
            assert!(last.parent_pages > 0, "{reports:?}");
            workload.wait_end(PATIENCE).unwrap();
            restore(&RestoreOptions::new(images)).unwrap_or_else(|e| panic!("{}", chain(&e)));
            workload = Workload::adopt(workload.pid(), workload.dir()).unwrap();
        }
        assert_eq!(verdict(&workload), "PASS");
    }

    fn without_tracking_pages_are_compared_and_nothing_is_seen_in_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        let mut options = DumpOptions::new(workload.pid(), dir.path().join("images"));
        options.compare_pages = true;
        let reports = dump_in_rounds(&options, Rounds::Fixed(2)).unwrap();
        assert!(reports[0].frozen.is_zero() && reports[1].frozen.is_zero(), "to compare takes no stop");
        assert!(reports[2].parent_pages > 0, "{reports:?}");
        workload.wait_end(PATIENCE).unwrap();
        restore(&RestoreOptions::new(options.images_dir)).unwrap();
        assert_eq!(verdict(&Workload::adopt(workload.pid(), workload.dir()).unwrap()), "PASS");
    }

    fn rounds_leave_no_trace_in_a_process_that_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", workload.pid())).unwrap().count();
        let before = descriptors();
        let mut options = DumpOptions::new(workload.pid(), dir.path().join("images"));
        options.after = After::LeaveRunning;
        let reports = dump_in_rounds(&options, Rounds::Fixed(2)).unwrap();
        // It sleeps. The vdso is never tracked, and being stopped may cost it a page.
        assert!(reports[1].pages <= 4 && reports[1].parent_pages >= reports[0].pages - 4, "{reports:?}");
        assert_eq!(descriptors(), before);
        for (number, report) in [1, 2].into_iter().zip(&reports) {
            let round = Checkpoint::open(options.images_dir.join(format!("pre-{number}"))).unwrap();
            let stats: StatsEntry = round.read(rewake_images::Kind::StatsDump, None).unwrap();
            assert_eq!(u128::from(stats.dump.unwrap().frozen_time), report.frozen.as_micros());
        }
        assert!(!reports[0].frozen.is_zero(), "to begin to track takes a stop");
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", workload.pid())).unwrap();
        assert!(!smaps.lines().any(|line| line.starts_with("VmFlags") && line.contains(" uw")));
        assert_eq!(verdict(&workload), "PASS");
    }

    fn rounds_of_a_dump_that_fails_are_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let mut options = DumpOptions::new(workload.pid(), dir.path().join("images"));
        options.parent = Some("../nowhere".into());
        dump_in_rounds(&options, Rounds::Fixed(2)).unwrap_err();
        assert!(!options.images_dir.exists());
        assert_eq!(verdict(&workload), "PASS");
    }

    fn a_snapshot_restores_and_leaves_nothing_in_the_process() {
        for (scenario, holds_still) in [("minimal", true), ("churn", false)] {
            let dir = tempfile::tempdir().unwrap();
            let workload = Workload::spawn(scenario, dir.path()).unwrap();
            let mut options = DumpOptions::new(workload.pid(), dir.path().join("1"));
            options.after = After::LeaveRunning;
            options.snapshot = true;
            dump(&options).unwrap_or_else(|e| panic!("{}", chain(&e)));
            for task in fs::read_dir(format!("/proc/{}/task", workload.pid())).unwrap() {
                let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap();
                assert_eq!(children, "", "a child is left");
            }
            if holds_still {
                // The same memory as when it stands still: a full dump finds next to nothing changed.
                let mut second = generation(workload.pid(), dir.path(), 2);
                second.after = After::LeaveRunning;
                let report = dump(&second).unwrap();
                assert!(report.pages <= 4 && report.parent_pages > 40, "{report:?}");
            }
            assert_eq!(verdict(&workload), "PASS");
            drop(workload);
            fs::remove_file(dir.path().join("result")).unwrap();
            let report = restore(&RestoreOptions::new(dir.path().join("1"))).unwrap_or_else(|e| panic!("{}", chain(&e)));
            let pid = Pid::from_raw(i32::try_from(report.pid).unwrap());
            assert_eq!(verdict(&Workload::adopt(pid, dir.path()).unwrap()), "PASS");
        }
    }

    fn statistics_say_what_the_report_says() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        pre_dump(&generation(workload.pid(), dir.path(), 1)).unwrap();
        let (workload, report) = final_dump_and_restore(workload, 2);
        let checkpoint = Checkpoint::open(dir.path().join("2")).unwrap();
        let stats: StatsEntry = checkpoint.read(rewake_images::Kind::StatsDump, None).unwrap();
        let stats = stats.dump.unwrap();
        assert_eq!((stats.pages_written, stats.pages_skipped_parent), (report.pages, report.parent_pages));
        assert_eq!(u128::from(stats.frozen_time), report.frozen.as_micros());
        assert!(stats.pages_scanned >= stats.pages_written + stats.pages_skipped_parent);
        assert_eq!(verdict(&workload), "PASS");
    }

    fn dedup_takes_pages_out_of_the_ancestors_and_the_youngest_is_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        for n in 1..=4 {
            let mut options = generation(workload.pid(), dir.path(), n);
            options.auto_dedup = n % 2 == 0;
            pre_dump(&options).unwrap();
        }
        let memory = || {
            let store = Checkpoint::open(dir.path().join("4")).unwrap().memory(workload.pid().as_raw().unsigned_abs().into()).unwrap();
            let mut bytes = Vec::new();
            for run in store.runs() {
                let mut part = vec![0; usize::try_from(run.bytes()).unwrap()];
                store.read_at(run.vaddr, &mut part).unwrap();
                bytes.push((run.vaddr, part));
            }
            bytes
        };
        let before = memory();
        let report = rewake_memdump::dedup(&dir.path().join("4")).unwrap();
        assert!(report.files > 0, "{report:?}");
        assert!(memory() == before);
        let again = rewake_memdump::dedup(&dir.path().join("4")).unwrap();
        assert_eq!(again.freed_bytes, 0);
        let (workload, _) = final_dump_and_restore(workload, 5);
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

/// A few checkpoints of a workload that goes on, of which the last is restored in its place.
fn from_a_checkpoint_in_between(workload: Workload, series: &Path) -> (Workload, u64) {
    let (listens, asks) = nix::unistd::pipe().unwrap();
    let mut asks = Some(asks);
    let periodic = Periodic { every: Duration::ZERO, keep: NonZeroUsize::MIN };
    let (mut made, mut kept) = (0, 0);
    dump_periodically(&DumpOptions::new(workload.pid(), series), periodic, listens.as_fd(), |_, report| {
        made += 1;
        kept += report.parent_pages;
        if made == 5 {
            asks.take();
        }
    })
    .unwrap_or_else(|e| panic!("{}", chain(&e)));
    let (pid, dir) = (workload.pid(), workload.dir().to_owned());
    drop(workload);
    restore(&RestoreOptions::new(series.join("latest"))).unwrap_or_else(|e| panic!("{}", chain(&e)));
    fs::remove_dir_all(series).unwrap();
    (Workload::adopt(pid, dir).unwrap(), kept)
}

kernel_test! {
    fn soak() {
        let end = Instant::now() + soak_time();
        let dir = tempfile::tempdir().unwrap();
        let mut workload = Workload::spawn("churn", dir.path()).unwrap();
        let (mut n, mut lost, mut kept, mut dumps, mut rounds) = (0, 0, 0, 0, 0);
        loop {
            let between;
            (workload, between) = from_a_checkpoint_in_between(workload, &dir.path().join("series"));
            kept += between;
            rounds += 5;
            for _ in 0..3 {
                n += 1;
                let report = pre_dump(&generation(workload.pid(), dir.path(), n)).unwrap_or_else(|e| panic!("{}", chain(&e)));
                lost += report.lost_pages;
                rounds += 1;
            }
            n += 1;
            let report;
            (workload, report) = final_dump_and_restore(workload, n);
            kept += report.parent_pages;
            dumps += 1;
            if Instant::now() >= end {
                break;
            }
            // And once with tracked writes.
            let images = dir.path().join("rounds");
            let reports = dump_in_rounds(&DumpOptions::new(workload.pid(), &images), Rounds::Fixed(5))
                .unwrap_or_else(|e| panic!("{}", chain(&e)));
            lost += reports.iter().map(|report| report.lost_pages).sum::<u64>();
            kept += reports.last().unwrap().parent_pages;
            rounds += reports.len() - 1;
            dumps += 1;
            workload.wait_end(PATIENCE).unwrap();
            restore(&RestoreOptions::new(&images)).unwrap_or_else(|e| panic!("{}", chain(&e)));
            workload = Workload::adopt(workload.pid(), workload.dir()).unwrap();
            fs::remove_dir_all(&images).unwrap();
            // A chain of its own for every restored process, or the disk fills up.
            for old in 1..=n {
                fs::remove_dir_all(dir.path().join(format!("{old}"))).unwrap();
            }
            n = 0;
        }
        eprintln!("{rounds} rounds and checkpoints in between, {dumps} dumps: {kept} pages kept, {lost} lost on the way");
        assert!(kept > 0);
        assert_eq!(verdict(&workload), "PASS");
    }
}
