//! A scenario being run.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

/// How long a program may take for what takes no time, before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program that runs the scenarios, built if need be.
pub fn workload_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build).clone()
}

fn build() -> PathBuf {
    // target/PROFILE/deps/test-HASH
    let exe = std::env::current_exe().expect("a test has a path");
    let dir = exe.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let dir = if exe.parent().is_some_and(|p| p.ends_with("deps")) { dir } else { exe.parent().expect("a directory") };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["build", "--quiet", "--bin", "rewake-workload", "--manifest-path"]).arg(manifest);
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    let target = dir.parent().expect("target");
    cargo.arg("--target-dir").arg(target);
    // Up to date, this takes a fraction of a second; cargo's own lock keeps parallel tests apart.
    let status = cargo.status().expect("cargo can be started");
    assert!(status.success(), "rewake-workload does not build");
    dir.join("rewake-workload")
}

/// A process in the middle of a scenario. Killed when dropped, whether it is our child or was restored meanwhile.
#[derive(Debug)]
pub struct Workload {
    pid: Pid,
    child: Option<Child>,
    result: PathBuf,
}

impl Workload {
    /// Starts `scenario` with its files in `dir`, as the leader of a session, without a terminal or any descriptor but
    /// the standard ones; comes back when its state is set up.
    pub fn spawn(scenario: &str, dir: &Path) -> Self {
        let ready = dir.join("ready");
        let result = dir.join("result");
        mkfifo(&ready, Mode::S_IRWXU).expect("a fifo can be made");
        let output = |name| File::create(dir.join(name)).expect("output can be created");
        let mut command = Command::new(workload_binary());
        command.arg(scenario).arg("--ready").arg(&ready).arg("--result").arg(&result);
        command.stdin(File::open("/dev/null").expect("/dev/null")).stdout(output("out")).stderr(output("err"));
        command.current_dir(dir);
        detach(&mut command);
        let child = command.spawn().expect("rewake-workload can be started");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        let mut workload = Self { pid, child: Some(child), result };
        workload.wait_ready(&ready, dir);
        fs::remove_file(&ready).expect("the fifo can be removed");
        workload
    }

    /// Opened without waiting for a writer: if the program dies before it is ready, that shows.
    fn wait_ready(&mut self, ready: &Path, dir: &Path) {
        use std::os::unix::fs::OpenOptionsExt;
        let mut fifo = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(ready).expect("the fifo");
        let begun = Instant::now();
        let mut text = Vec::new();
        while !text.ends_with(b"ready\n") {
            let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(20_u8));
            let mut bytes = [0; 16];
            if let Ok(n) = fifo.read(&mut bytes) {
                text.extend(bytes.iter().take(n));
            }
            let over = self.child.as_mut().and_then(|child| child.try_wait().expect("our child"));
            let said = || fs::read_to_string(dir.join("err")).unwrap_or_default();
            assert!(over.is_none(), "the workload ended before it was ready: {}", said());
            assert!(begun.elapsed() < PATIENCE, "the workload does not get ready: {}", said());
        }
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Forgets the child after it was killed by a dump; the process with its pid is another one now.
    pub fn gone(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().expect("our child");
        }
    }

    /// Tells the process to check its state, and gives what it says: `PASS`, or `FAIL` and the reason.
    pub fn verdict(&mut self) -> String {
        let pidfd = pidfd(self.pid);
        kill(self.pid, Signal::SIGTERM).expect("the process is there");
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE).expect("a minute");
        let events = poll(&mut fds, timeout).expect("poll");
        let text = fs::read_to_string(&self.result).unwrap_or_default();
        match (events, text.trim()) {
            (0, "") => format!("FAIL no answer within {PATIENCE:?}"),
            (_, "") => "FAIL it died without a word".into(),
            (_, text) => text.into(),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

fn pidfd(pid: Pid) -> File {
    // SAFETY: takes two numbers.
    #[allow(unsafe_code, reason = "pidfd_open has no wrapper")]
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "pidfd_open of {pid}: {}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made it for us.
    #[allow(unsafe_code, reason = "pidfd_open has no wrapper")]
    unsafe {
        File::from_raw_fd(fd)
    }
}

/// A session of its own, and no descriptors but the standard ones.
pub(crate) fn detach(command: &mut Command) {
    let detach = || {
        // SAFETY: both are async-signal-safe.
        #[allow(unsafe_code, reason = "between fork and exec")]
        unsafe {
            libc::setsid();
        }
        // SAFETY: as above; what is closed at exec is nothing the child uses before.
        #[allow(unsafe_code, reason = "between fork and exec")]
        unsafe {
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        Ok(())
    };
    // SAFETY: the closure calls only what may be called between fork and exec.
    #[allow(unsafe_code, reason = "between fork and exec")]
    unsafe {
        command.pre_exec(detach);
    }
}
