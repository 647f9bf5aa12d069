//! Checkpoints made again and again of a process that goes on.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rewake_dump::{DumpError, DumpOptions, Ended, Periodic, dump_periodically};
use rewake_images::Checkpoint;
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{Workload, kernel_test};

use super::{chain, verdict};

/// A pipe: what is dropped first ends the other.
fn end() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe().unwrap()
}

fn often(keep: usize) -> Periodic {
    Periodic { every: Duration::from_millis(10), keep: NonZeroUsize::new(keep).unwrap() }
}

/// Those that can be restored, by number.
fn whole(dir: &Path) -> BTreeMap<u64, PathBuf> {
    let numbers = fs::read_dir(dir).unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
    let all = numbers.map(|number: u64| (number, dir.join(number.to_string())));
    all.filter(|(_, path)| Checkpoint::open(path).unwrap().inventory().img_version != 0).collect()
}

/// All of the private memory of a checkpoint.
fn memory(dir: &Path, workload: &Workload) -> Vec<(u64, Vec<u8>)> {
    let store = Checkpoint::open(dir).unwrap().memory(workload.pid().as_raw().unsigned_abs().into()).unwrap();
    let content = |run: &rewake_images::PageRun| {
        let mut bytes = vec![0; usize::try_from(run.bytes()).unwrap()];
        store.read_at(run.vaddr, &mut bytes).unwrap();
        (run.vaddr, bytes)
    };
    // Joined, however they are spread over generations.
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    for (addr, bytes) in store.runs().iter().map(content) {
        match joined.last_mut() {
            Some((start, before)) if *start + before.len() as u64 == addr => before.extend(bytes),
            _ => joined.push((addr, bytes)),
        }
    }
    joined
}

kernel_test! {
    fn each_that_is_kept_is_as_it_was_made_and_can_be_restored() {
        const KEEP: usize = 3;
        // Enough for full ones in between.
        const COUNT: u64 = 40;
        let dir = tempfile::tempdir().unwrap();
        let series = dir.path().join("series");
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        let (listens, asks) = end();
        let mut asks = Some(asks);
        let mut made = BTreeMap::new();
        let (mut incremental, mut full) = (0, 0);
        let options = DumpOptions::new(workload.pid(), &series);
        let ended = dump_periodically(&options, often(KEEP), listens.as_fd(), |path, report| {
            let number: u64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            if report.parent_pages > 0 { incremental += 1 } else { full += 1 }
            assert_eq!(fs::canonicalize(series.join("latest")).unwrap(), fs::canonicalize(path).unwrap());
            made.insert(number, memory(path, &workload));
            let there = whole(&series);
            assert!(there.len() <= KEEP && there.keys().copied().eq(number + 1 - there.len() as u64..=number), "{there:?}");
            for (number, path) in there {
                assert!(memory(&path, &workload) == made[&number], "{number} changed");
            }
            if number == COUNT {
                asks.take();
            }
        }).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(ended, Ended::Asked);
        assert!(incremental > 30 && full > 1, "{incremental} {full}");
        // It runs untouched, and each of the kept ones brings it back.
        assert_eq!(verdict(&workload), "PASS");
        let pid = workload.pid();
        drop(workload);
        let kept = whole(&series);
        assert_eq!(kept.len(), KEEP);
        for path in kept.values() {
            fs::remove_file(dir.path().join("result")).unwrap();
            restore(&RestoreOptions::new(path)).unwrap_or_else(|e| panic!("{}", chain(&e)));
            assert_eq!(verdict(&Workload::adopt(pid, dir.path()).unwrap()), "PASS");
        }
    }

    fn it_ends_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let series = dir.path().join("series");
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let (listens, _asks) = end();
        let options = DumpOptions::new(workload.pid(), &series);
        let mut made = 0;
        let ended = dump_periodically(&options, often(2), listens.as_fd(), |_, _| {
            made += 1;
            if made == 3 {
                workload.signal(Signal::SIGKILL).unwrap();
            }
        });
        assert_eq!(ended.unwrap_or_else(|e| panic!("{}", chain(&e))), Ended::Process);
        assert_eq!(whole(&series).len(), 2);
        // A later run goes on with the numbers, and its first owes nothing to another process.
        let second = dir.path().join("second");
        fs::create_dir(&second).unwrap();
        let workload = Workload::spawn("minimal", &second).unwrap();
        let (listens, asks) = end();
        let mut asks = Some(asks);
        let options = DumpOptions::new(workload.pid(), &series);
        dump_periodically(&options, often(1), listens.as_fd(), |path, report| {
            assert!(path.ends_with("4") && report.parent_pages == 0, "{path:?} {report:?}");
            asks.take();
        }).unwrap();
        assert_eq!(whole(&series).into_keys().collect::<Vec<_>>(), [4]);
        assert_eq!(verdict(&workload), "PASS");
    }

    fn what_cannot_be_dumped_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (listens, _asks) = end();
        let options = DumpOptions::new(nix::unistd::Pid::this(), dir.path().join("series"));
        let error = dump_periodically(&options, often(2), listens.as_fd(), |_, _| panic!("none")).unwrap_err();
        assert!(matches!(error, DumpError::Obstacles { .. }), "{error:?}");
        assert!(!options.images_dir.exists());
    }
}
