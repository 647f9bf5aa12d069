//! One run of the workload program, or of what a restore made of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        stat::Mode,
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{Pid, mkfifo},
};

use crate::{
    TestkitError,
    binary::{file, workload_binary},
    sys,
};

/// How long a workload may take to set up its state. Only a hang is ever that slow.
const SETUP_LIMIT: Duration = Duration::from_secs(60);

/// A running workload. Dropping it kills the process it stands for, and only that one: it is held by
/// a pidfd, so a restored process with the same pid is out of its reach.
#[derive(Debug)]
pub struct Workload {
    scenario: String,
    pid: Pid,
    pidfd: OwnedFd,
    dir: PathBuf,
}

impl Workload {
    /// Starts the scenario as a session leader, with `/dev/null` for input, regular files in `dir` for output
    /// and error and `dir` as working directory, and waits until its state is set up.
    ///
    /// When this returns, the program holds no descriptor of the channel on which it said so.
    ///
    /// # Errors
    /// When it cannot be started, ends before it is ready, or hangs.
    pub fn spawn(scenario: &str, dir: impl AsRef<Path>) -> Result<Self, TestkitError> {
        let dir = dir.as_ref();
        let dir = dir.canonicalize().map_err(|source| file("resolve", dir, source))?;
        let ready_path = dir.join("ready");
        mkfifo(&ready_path, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| file("make fifo", &ready_path, errno.into()))?;
        let ready = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&ready_path)
            .map_err(|source| file("open", &ready_path, source))?;

        let binary = workload_binary()?;
        let mut command = Command::new(&binary);
        command.arg(scenario).arg("--ready").arg(&ready_path).arg("--result").arg(dir.join("result"));
        command.current_dir(&dir);
        command
            .stdin(Stdio::null())
            .stdout(create(&dir.join("stdout"))?)
            .stderr(create(&dir.join("stderr"))?);
        sys::detach(&mut command);
        let child = command.spawn().map_err(|source| file("start", &binary, source))?;
        // The handle is dropped unreaped; from here on the process is known by its pidfd.
        let pid = i32::try_from(child.id()).map(Pid::from_raw).expect("the kernel's pids fit an i32");
        let workload = Self::hold(scenario.to_owned(), pid, dir)?;
        workload.await_ready(ready)?;
        // Its one purpose is served, and nothing of it should show up in a dump.
        fs::remove_file(&ready_path).map_err(|source| file("remove", &ready_path, source))?;
        Ok(workload)
    }

    /// Takes over a process that a restore made from the workload whose files are in `dir`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn adopt(pid: Pid, dir: impl AsRef<Path>) -> Result<Self, TestkitError> {
        Self::hold("(restored)".to_owned(), pid, dir.as_ref().to_owned())
    }

    fn hold(scenario: String, pid: Pid, dir: PathBuf) -> Result<Self, TestkitError> {
        let pidfd = sys::pidfd_open(pid).map_err(|source| TestkitError::Process {
            call: "pidfd_open",
            pid,
            source,
        })?;
        Ok(Self { scenario, pid, pidfd, dir })
    }

    /// Its pid in the caller's pid namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The directory its files are in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it wrote to standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone, or not ours to signal.
    pub fn signal(&self, signal: Signal) -> Result<(), TestkitError> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), signal).map_err(|source| TestkitError::Process {
            call: "pidfd_send_signal",
            pid: self.pid,
            source,
        })
    }

    /// Waits until all its threads stand in a job-control stop, which they enter one after another.
    ///
    /// # Errors
    /// When it is gone, or goes on running.
    pub fn wait_stopped(&self) -> Result<(), TestkitError> {
        let deadline = Instant::now() + SETUP_LIMIT;
        while !self.is_stopped()? {
            if Instant::now() >= deadline {
                return Err(self.timeout("stopped", SETUP_LIMIT));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn is_stopped(&self) -> Result<bool, TestkitError> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.pid));
        for entry in fs::read_dir(&tasks).map_err(|source| file("list", &tasks, source))? {
            let path = entry.map_err(|source| file("list", &tasks, source))?.path().join("stat");
            let stat = fs::read_to_string(&path).map_err(|source| file("read", &path, source))?;
            // The state follows the name, which is in parentheses and may hold any byte.
            if !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells it to check its state and end.
    ///
    /// # Errors
    /// As for [`signal`](Self::signal).
    pub fn trigger(&self) -> Result<(), TestkitError> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until it has ended, and returns the line it left: `PASS`, or `FAIL` and the reason.
    ///
    /// # Errors
    /// When it does not end in time, or died without a result.
    pub fn wait_result(&self, timeout: Duration) -> Result<String, TestkitError> {
        self.wait_end(timeout)?;
        match fs::read_to_string(self.dir.join("result")) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(TestkitError::NoResult {
                scenario: self.scenario.clone(),
                pid: self.pid,
                said: self.stderr(),
            }),
            Err(source) => Err(file("read", &self.dir.join("result"), source)),
        }
    }

    /// Waits until the process has ended, and reaps it if it is our child, which sets its pid free.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_end(&self, timeout: Duration) -> Result<(), TestkitError> {
        let deadline = Instant::now() + timeout;
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        while !self.poll_until(&mut fds, deadline)? {
            if Instant::now() >= deadline {
                return Err(self.timeout("at its end", timeout));
            }
        }
        self.reap();
        Ok(())
    }

    fn reap(&self) {
        // A process that is not our child, or was reaped by somebody else, needs nothing from us.
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
    }

    fn await_ready(&self, mut ready: File) -> Result<(), TestkitError> {
        let deadline = Instant::now() + SETUP_LIMIT;
        let mut said = Vec::new();
        loop {
            let mut fds = [
                PollFd::new(ready.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            if !self.poll_until(&mut fds, deadline)? && Instant::now() >= deadline {
                return Err(self.timeout("ready", SETUP_LIMIT));
            }
            let [channel, process] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if channel {
                // Until end of file: only then the program has closed its side.
                match ready.read_to_end(&mut said) {
                    Ok(_) if said == b"ready\n" => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(source) => return Err(file("read", &self.dir.join("ready"), source)),
                }
            }
            if process {
                return Err(self.ended_early());
            }
        }
    }

    fn ended_early(&self) -> TestkitError {
        let status = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED)
            .map_or_else(|errno| errno.to_string(), |status| format!("{status:?}"));
        let result = fs::read_to_string(self.dir.join("result")).unwrap_or_default();
        let said = format!("{}{}", result, self.stderr());
        TestkitError::EndedEarly { scenario: self.scenario.clone(), status, said }
    }

    /// One poll up to the deadline; true when there is something.
    fn poll_until(&self, fds: &mut [PollFd<'_>], deadline: Instant) -> Result<bool, TestkitError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(fds, timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(source) => Err(TestkitError::Process { call: "poll", pid: self.pid, source }),
        }
    }

    fn timeout(&self, awaited: &'static str, waited: Duration) -> TestkitError {
        TestkitError::Timeout { scenario: self.scenario.clone(), pid: self.pid, awaited, waited }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // ESRCH: it has ended already. Either way only the process behind the pidfd is meant.
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL);
        // Wait for the end, so that its pid and its files are free when this returns. SIGKILL cannot be
        // refused; the limit is for a process stuck in the kernel.
        let _ = self.wait_end(Duration::from_secs(10));
    }
}

fn create(path: &Path) -> Result<File, TestkitError> {
    File::create(path).map_err(|source| file("create", path, source))
}
