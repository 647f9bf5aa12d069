//! Programs nobody here wrote, woken up in the middle of what they do. A program that is not installed is skipped, in print.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_dump::{DumpOptions, dump};
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{detach, kernel_test};

use super::chain;

/// A foreign program with its output in a file.
struct Program {
    pid: Pid,
    child: Option<Child>,
    dir: tempfile::TempDir,
}

impl Program {
    /// Starts it, and waits until its output says `ready`. `None` if there is no such program.
    fn start(program: &str, args: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(args).current_dir(dir.path()).stdin(Stdio::null());
        command.stdout(File::create(dir.path().join("out")).unwrap());
        command.stderr(File::create(dir.path().join("err")).unwrap());
        detach(&mut command);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
            Err(e) => panic!("{program}: {e}"),
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut started = Self { pid, child: Some(child), dir };
        started.wait_output("ready");
        Some(started)
    }

    fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    fn wait_output(&mut self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.output().contains(text) {
            let over = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            let errors = || fs::read_to_string(self.dir.path().join("err")).unwrap();
            assert!(!over, "it ended: {}{}", self.output(), errors());
            let dead = !Path::new(&format!("/proc/{}", self.pid)).exists();
            assert!(!dead, "it died: {}{}", self.output(), errors());
            assert!(begun.elapsed().as_secs() < 60, "no {text:?}: {}{}", self.output(), errors());
            std::thread::yield_now();
        }
    }

    fn there_and_back(&mut self) {
        self.restored_with(|_| {});
    }

    fn restored_with(&mut self, change: impl FnOnce(&mut RestoreOptions)) {
        let images = self.dir.path().join("images");
        dump(&DumpOptions::new(self.pid, &images)).unwrap_or_else(|e| panic!("dump: {}", chain(&e)));
        self.child.take().unwrap().wait().unwrap();
        let mut options = RestoreOptions::new(&images);
        change(&mut options);
        restore(&options).unwrap_or_else(|e| panic!("restore: {}", chain(&e)));
    }

    /// Waits until its first thread sleeps in the system call.
    fn wait_call(&self, number: libc::c_long) {
        let call = format!("{number} ");
        while !fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap().starts_with(&call) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

kernel_test! {
    fn python_with_threads() {
        let script = r"
import threading, signal, sys, hashlib
done, lock, counts = threading.Event(), threading.Lock(), [0] * 4
def work(i):
    while not done.is_set():
        with lock: counts[i] += 1
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for t in threads: t.start()
table = {i: hashlib.sha256(str(i).encode()).hexdigest() for i in range(20000)}
print('ready', flush=True)
signal.sigwait([signal.SIGUSR1])
before = list(counts)
while any(c <= b for c, b in zip(counts, before)): pass
done.set()
for t in threads: t.join()
ok = all(table[i] == hashlib.sha256(str(i).encode()).hexdigest() for i in table)
print('verdict', ok, flush=True)
";
        let script = script.replace("import threading", "import threading, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\nimport threading");
        let Some(mut python) = Program::start("python3", &["-c", script.trim_start()]) else { return };
        python.there_and_back();
        kill(python.pid, Signal::SIGUSR1).unwrap();
        python.wait_output("verdict True");
    }
}

kernel_test! {
    /// A program that waits for a signal to end its call must not wait for ever because the signal came before it ran again.
    fn a_signal_that_comes_before_the_first_step_ends_the_call() {
        let calls = [("POSIX::pause()", libc::SYS_pause), ("sysread(STDIN, my $text, 1)", libc::SYS_read)];
        for (call, number) in calls {
            let script = format!("use POSIX; $| = 1; $SIG{{USR1}} = sub {{ $n++ }}; open(STDIN, '+<', shift); print qq(ready\\n); {call}; print qq(woken $n\\n);");
            let fifo = tempfile::tempdir().unwrap();
            let fifo = fifo.path().join("fifo");
            nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let Some(mut perl) = Program::start("perl", &["-e", &script, fifo.to_str().unwrap()]) else { return };
            perl.wait_call(number);
            perl.restored_with(|options| options.leave_stopped = true);
            kill(perl.pid, Signal::SIGUSR1).unwrap();
            kill(perl.pid, Signal::SIGCONT).unwrap();
            perl.wait_output("woken 1");
        }
    }
}

kernel_test! {
    fn perl_with_an_interval_timer() {
        let script = r"
use Time::HiRes qw(setitimer ITIMER_REAL); $| = 1; my ($n, $go) = (0, 0);
$SIG{ALRM} = sub { $n++ }; $SIG{USR1} = sub { $go = 1; $n = 0 };
setitimer(ITIMER_REAL, 0.01, 0.01); print qq(ready\n);
1 until $go; 1 until $n > 5; print qq(verdict ticks\n);
";
        let Some(mut perl) = Program::start("perl", &["-e", script]) else { return };
        perl.there_and_back();
        kill(perl.pid, Signal::SIGUSR1).unwrap();
        perl.wait_output("verdict ticks");
    }
}
