//! Programs nobody here wrote, woken up in the middle of what they do. A program that is not installed is skipped, in print.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use rewake_dump::{DumpOptions, dump};
use rewake_restore::{RestoreOptions, restore};
use rewake_testkit::{detach, kernel_test};

use super::chain;

/// A foreign program with its output in a file.
struct Program {
    pid: Pid,
    child: Option<Child>,
    dir: tempfile::TempDir,
    /// The named pipe it reads from.
    input: Option<(tempfile::TempDir, PathBuf)>,
}

impl Program {
    /// Starts it, and waits until its output says `ready`. `None` if there is no such program.
    fn start(program: &str, args: &[&str]) -> Option<Self> {
        let mut started = Self::launch(Command::new(program).args(args).stdin(Stdio::null()))?;
        started.wait_output("ready");
        Some(started)
    }

    /// Starts it with a named pipe for input.
    fn with_input(program: &str, args: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("in");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let input = File::options().read(true).write(true).open(&fifo).unwrap();
        let mut started = Self::launch(Command::new(program).args(args).stdin(input))?;
        started.input = Some((dir, fifo));
        Some(started)
    }

    /// Gives it something to read.
    fn say(&self, text: &str) {
        let (_, fifo) = self.input.as_ref().unwrap();
        // Not for reading: that would take what is there.
        std::io::Write::write_all(&mut File::options().write(true).open(fifo).unwrap(), text.as_bytes())
            .unwrap();
    }

    fn launch(command: &mut Command) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let program = command.get_program().to_owned();
        command.current_dir(dir.path());
        command.stdout(File::create(dir.path().join("out")).unwrap());
        command.stderr(File::create(dir.path().join("err")).unwrap());
        detach(command);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: {} is not installed", program.display());
                return None;
            }
            Err(e) => panic!("{}: {e}", program.display()),
        };
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        Some(Self { pid, child: Some(child), dir, input: None })
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    fn output(&self) -> String {
        self.file("out")
    }

    /// Waits until it has ended.
    fn wait_end(&self) {
        let begun = std::time::Instant::now();
        let stat = || fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        while stat().rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')) {
            assert!(begun.elapsed().as_secs() < 60, "it does not end: {}{}", self.output(), self.file("err"));
            std::thread::yield_now();
        }
    }

    fn wait_output(&mut self, text: &str) {
        self.wait_file("out", text);
    }

    fn wait_file(&mut self, name: &str, text: &str) {
        let begun = std::time::Instant::now();
        while !self.file(name).contains(text) {
            let over = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
            let errors = || self.file("err");
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
        let mut options = DumpOptions::new(self.pid, &images);
        options.file_locks = true;
        dump(&options).unwrap_or_else(|e| panic!("dump: {}", chain(&e)));
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
            let dir = tempfile::tempdir().unwrap();
            let fifo = dir.path().join("fifo");
            mkfifo(&fifo, Mode::S_IRWXU).unwrap();
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

kernel_test! {
    fn sqlite_in_a_transaction() {
        let Some(mut sqlite) = Program::with_input("sqlite3", &["data.db"]) else { return };
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000) INSERT INTO t SELECT i FROM n;";
        sqlite.say(&format!("CREATE TABLE t(x); BEGIN IMMEDIATE; {rows} SELECT 'ready';\n"));
        sqlite.wait_output("ready");
        sqlite.there_and_back();
        // Nobody else may write while the transaction is open.
        let other = |statement: &str| {
            let database = sqlite.dir.path().join("data.db");
            let output = Command::new("sqlite3").arg(database).arg(statement).output().unwrap();
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        };
        assert!(other("INSERT INTO t VALUES (0);").contains("locked"));
        assert_eq!(other("SELECT count(*) FROM t;"), "0\n");
        sqlite.say("SELECT 'inside', sum(x) FROM t; COMMIT; SELECT 'verdict';\n");
        sqlite.wait_output("inside|12502500\nverdict");
        assert_eq!(sqlite_count(&sqlite), "5000\n");
    }
}

fn sqlite_count(sqlite: &Program) -> String {
    let database = sqlite.dir.path().join("data.db");
    let output = Command::new("sqlite3").arg(database).arg("SELECT count(*) FROM t;").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

kernel_test! {
    /// keytool is a JVM with all its threads, and comes with the smallest of them. It waits for a password and then makes a key.
    fn a_java_virtual_machine() {
        let args = ["-genkeypair", "-keystore", "store", "-dname", "CN=x", "-alias", "a", "-keyalg", "EC"];
        let Some(mut java) = Program::with_input("keytool", &args) else { return };
        java.wait_file("err", "password");
        java.there_and_back();
        java.say("secret12\nsecret12\n");
        java.wait_end();
        let list = ["-list", "-keystore", "store", "-storepass", "secret12"];
        let listed = Command::new("keytool").args(list).current_dir(java.dir.path()).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains("PrivateKeyEntry"), "{listed}{}", java.file("err"));
    }
}

kernel_test! {
    fn node_with_timers_and_its_thread_pool() {
        let script = r"
const zlib = require('zlib'), crypto = require('crypto');
const table = new Map(); for (let i = 0; i < 20000; i++) table.set(i, crypto.createHash('sha256').update(String(i)).digest('hex'));
let ticks = 0; setInterval(() => ticks++, 5);
const packed = zlib.gzipSync(Buffer.alloc(1 << 20, 7));
process.on('SIGUSR2', () => zlib.gunzip(packed, (error, data) => {
  const whole = [...table].every(([i, h]) => h === crypto.createHash('sha256').update(String(i)).digest('hex'));
  const before = ticks;
  setTimeout(() => { console.log('verdict', !error && data.length === 1 << 20 && whole && ticks > before); process.exit(); }, 100);
}));
zlib.gunzip(packed, () => console.log('ready'));
";
        let Some(mut node) = Program::start("node", &["-e", script.trim_start()]) else { return };
        node.there_and_back();
        kill(node.pid, Signal::SIGUSR2).unwrap();
        node.wait_output("verdict true");
    }
}
