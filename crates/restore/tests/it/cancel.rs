//! A dump that is ended half-way: the process goes on and nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rewake_dump::{After, DumpError, DumpOptions, Progress, Rounds, dump, dump_in_rounds, pre_dump};
use rewake_testkit::{Workload, kernel_test};

use super::{chain, verdict};

/// Wants no more after so many bytes of memory.
#[derive(Debug, Default)]
struct Enough {
    limit: u64,
    done: AtomicU64,
    expected: AtomicU64,
}

impl Progress for Enough {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.limit
    }
}

/// A way to dump.
type Way = (&'static str, fn(DumpOptions) -> Result<(), DumpError>);

const WAYS: [Way; 4] = [
    ("dump", |options| dump(&options).map(drop)),
    ("snapshot", |mut options| {
        options.after = After::LeaveRunning;
        options.snapshot = true;
        dump(&options).map(drop)
    }),
    ("pre-dump", |options| pre_dump(&options).map(drop)),
    ("rounds", |options| dump_in_rounds(&options, Rounds::Fixed(2)).map(drop)),
];

kernel_test! {
    fn whatever_is_cancelled_the_process_goes_on_and_nothing_is_left() {
        for (name, way) in WAYS {
            // How much there is, to end it everywhere from the first page to behind the last.
            let dir = tempfile::tempdir().unwrap();
            let workload = Workload::spawn("minimal", dir.path()).unwrap();
            let all = Arc::new(Enough { limit: u64::MAX, ..Default::default() });
            let mut options = DumpOptions::new(workload.pid(), dir.path().join("whole"));
            options.after = After::LeaveRunning;
            options.progress = Some(Arc::clone(&all) as _);
            way(options).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
            let total = all.done.load(Ordering::Relaxed);
            assert!(total > 0 && total == all.expected.load(Ordering::Relaxed), "{name}: {all:?}");
            if workload.wait_end(std::time::Duration::ZERO).is_err() {
                assert_eq!(verdict(&workload), "PASS", "{name}");
            }
            drop(workload);

            for limit in [0, 1, total / 2, total - (64 << 10)] {
                let dir = tempfile::tempdir().unwrap();
                let workload = Workload::spawn("minimal", dir.path()).unwrap();
                let at = dir.path().join("images");
                std::fs::create_dir(&at).unwrap();
                let mut options = DumpOptions::new(workload.pid(), at.join("1"));
                options.progress = Some(Arc::new(Enough { limit, ..Default::default() }));
                let error = way(options).unwrap_err();
                assert!(matches!(error, DumpError::Cancelled), "{name} at {limit}: {}", chain(&error));
                assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0, "{name} at {limit}: something is left");
                let children =
                    std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", workload.pid())).unwrap();
                assert_eq!(children, "", "{name} at {limit}: a copy is left");
                assert_eq!(verdict(&workload), "PASS", "{name} at {limit}");
            }
        }
    }
}
