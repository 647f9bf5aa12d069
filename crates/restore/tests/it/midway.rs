//! What happens to disk or process while memory is being copied.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use rewake_dump::{After, DumpError, DumpOptions, Progress, Rounds, dump, dump_in_rounds, pre_dump};
use rewake_images::{Kind, PageStore};
use rewake_memdump::CaptureError;
use rewake_testkit::{Workload, kernel_test};

use super::{chain, verdict, wait_state};

/// Does something once, when the n-th list of pages is about to be copied or the first part of it is.
struct When<F> {
    list: u64,
    lists: AtomicU64,
    begun: bool,
    action: Mutex<Option<F>>,
}

impl<F> fmt::Debug for When<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("When").field("list", &self.list).finish_non_exhaustive()
    }
}

impl<F: FnOnce() + Send> When<F> {
    fn act(&self) {
        // Threads that come meanwhile wait: they would be through before it has happened.
        let mut action = self.action.lock().unwrap();
        if let Some(action) = action.take() {
            action();
        }
    }
}

impl<F: FnOnce() + Send> Progress for When<F> {
    fn expect(&self, _bytes: u64) {
        if self.lists.fetch_add(1, Ordering::Relaxed) + 1 == self.list && !self.begun {
            self.act();
        }
    }

    fn done(&self, _bytes: u64) {
        if self.lists.load(Ordering::Relaxed) >= self.list && self.begun {
            self.act();
        }
    }
}

fn when(list: u64, begun: bool, action: impl FnOnce() + Send + 'static) -> Option<Arc<dyn Progress>> {
    Some(Arc::new(When { list, lists: AtomicU64::new(0), begun, action: Mutex::new(Some(action)) }))
}

/// Leaves no room on the file system of `dir`.
fn fill(dir: &Path) {
    let mut file = File::create(dir.join("filler")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

kernel_test! {
    fn a_disk_that_gets_full_in_any_round_leaves_nothing_of_them() {
        for rounds in [0, 1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let disk = dir.path().join("disk");
            fs::create_dir(&disk).unwrap();
            mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
            let workload = Workload::spawn("churn", dir.path()).unwrap();
            let at = disk.clone();
            let mut options = DumpOptions::new(workload.pid(), disk.join("images"));
            options.progress = when(rounds + 1, false, move || fill(&at));
            let error = dump_in_rounds(&options, Rounds::Fixed(2)).unwrap_err();
            assert!(chain(&error).contains("No space left"), "{}", chain(&error));
            let left: Vec<_> = fs::read_dir(&disk).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            umount(&disk).unwrap();
            assert_eq!(left, ["filler"], "full in list {rounds}");
            assert_eq!(verdict(&workload), "PASS");
        }
    }

    fn a_disk_that_gets_full_leaves_the_rounds_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::create_dir(&disk).unwrap();
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=64m")).unwrap();
        let workload = Workload::spawn("churn", dir.path()).unwrap();
        let pid = u64::from(workload.pid().as_raw().unsigned_abs());
        pre_dump(&DumpOptions::new(workload.pid(), disk.join("1"))).unwrap();
        let at = disk.clone();
        let mut second = DumpOptions::new(workload.pid(), disk.join("2"));
        second.progress = when(1, false, move || fill(&at));
        let error = pre_dump(&second).unwrap_err();
        assert!(chain(&error).contains("No space left"), "{}", chain(&error));
        let whole = PageStore::open(&disk.join("1"), Kind::Pagemap, pid).is_ok();
        let second = disk.join("2").exists();
        umount(&disk).unwrap();
        assert!(whole && !second);
        assert_eq!(verdict(&workload), "PASS");
    }
}

/// A process with more memory than is copied at a time, which becomes another program when told to.
struct Chameleon {
    child: Child,
    fifo: std::path::PathBuf,
}

impl Chameleon {
    fn start(dir: &Path) -> Self {
        let fifo = dir.join("turn");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let script = "import os,sys\nb=bytearray(os.urandom(8<<20))\nopen('/proc/self/comm','w').write('ready')\nopen(sys.argv[1]).read()\nos.execv('/bin/sleep',['sleep','1000'])";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&fifo).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        let chameleon = Self { child: command.spawn().unwrap(), fifo };
        chameleon.wait("ready");
        wait_state(chameleon.pid(), 'S');
        chameleon
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn wait(&self, name: &str) {
        wait_comm(self.pid(), name);
    }

    /// Has it turn, and waits until it is done.
    fn turn(&self) -> impl FnOnce() + Send + 'static + use<> {
        let (pid, fifo) = (self.pid(), self.fifo.clone());
        move || {
            drop(File::options().write(true).open(fifo).unwrap());
            wait_comm(pid, "sleep");
            wait_state(pid, 'S');
        }
    }
}

fn wait_comm(pid: Pid, name: &str) {
    while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() != name {
        std::thread::yield_now();
    }
}

impl Drop for Chameleon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All of the memory in a checkpoint.
fn memory(dir: &Path, pid: Pid) -> Vec<(u64, Vec<u8>)> {
    let store = PageStore::open(dir, Kind::Pagemap, pid.as_raw().unsigned_abs().into()).unwrap();
    let mut pages = Vec::new();
    for run in store.runs() {
        for n in 0..run.pages {
            let (vaddr, mut bytes) = (run.vaddr + n * 4096, vec![0; 4096]);
            store.read_at(vaddr, &mut bytes).unwrap();
            pages.push((vaddr, bytes));
        }
    }
    pages
}

/// That the checkpoint in `dir`, whatever its parents hold, has the memory of `pid` as it is now. It sleeps.
fn is_exact(dir: &Path, pid: Pid, scratch: &Path) {
    let mut options = DumpOptions::new(pid, scratch);
    options.after = After::LeaveRunning;
    dump(&options).unwrap();
    let (ours, whole) = (memory(dir, pid), memory(scratch, pid));
    let addresses = |pages: &[(u64, Vec<u8>)]| pages.iter().map(|(vaddr, _)| *vaddr).collect::<Vec<_>>();
    assert_eq!(addresses(&ours), addresses(&whole));
    let different = ours.iter().zip(&whole).filter(|(ours, whole)| ours != whole).count();
    // Being stopped may cost it a page of its stack.
    assert!(different <= 2, "{different} pages are not as they were");
}

kernel_test! {
    fn a_program_that_is_replaced_while_it_is_copied_ends_that_and_nothing_else() {
        for (threads, begun) in [(1, true), (2, true), (1, false)] {
            let dir = tempfile::tempdir().unwrap();
            let chameleon = Chameleon::start(dir.path());
            let pid = chameleon.pid();
            let mut first = DumpOptions::new(pid, dir.path().join("1"));
            first.threads = threads;
            first.progress = when(1, begun, chameleon.turn());
            let error = pre_dump(&first).unwrap_err();
            let replaced = matches!(error, DumpError::Capture { source: CaptureError::Replaced { .. }, .. });
            assert!(replaced, "{}", chain(&error));
            assert!(!dir.path().join("1").exists());
            chameleon.wait("sleep");
            // The next attempt is about the new program.
            first.progress = None;
            pre_dump(&first).unwrap_or_else(|error| panic!("{}", chain(&error)));
            let mut second = DumpOptions::new(pid, dir.path().join("2"));
            second.parent = Some("../1".into());
            second.after = After::LeaveRunning;
            dump(&second).unwrap_or_else(|error| panic!("{}", chain(&error)));
            is_exact(&dir.path().join("2"), pid, &dir.path().join("3"));
        }
    }

    fn a_program_that_is_replaced_between_generations_shares_nothing_with_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let chameleon = Chameleon::start(dir.path());
        let pid = chameleon.pid();
        pre_dump(&DumpOptions::new(pid, dir.path().join("1"))).unwrap();
        chameleon.turn()();
        let mut second = DumpOptions::new(pid, dir.path().join("2"));
        second.parent = Some("../1".into());
        second.after = After::LeaveRunning;
        dump(&second).unwrap_or_else(|error| panic!("{}", chain(&error)));
        is_exact(&dir.path().join("2"), pid, &dir.path().join("3"));
    }

    fn a_program_that_is_replaced_in_a_tracked_round_ends_them_all() {
        for list in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let chameleon = Chameleon::start(dir.path());
            let pid = chameleon.pid();
            let images = dir.path().join("images");
            let mut options = DumpOptions::new(pid, &images);
            options.threads = 1;
            options.after = After::LeaveRunning;
            options.progress = when(list, false, chameleon.turn());
            match dump_in_rounds(&options, Rounds::Fixed(3)) {
                // The last list of the round was done, or empty: then what comes next is all of the new program.
                Ok(_) => is_exact(&images, pid, &dir.path().join("whole")),
                Err(error) => {
                    assert!(chain(&error).contains("another program"), "{}", chain(&error));
                    assert!(!images.exists(), "something is left");
                }
            }
            chameleon.wait("sleep");
        }
    }
}
