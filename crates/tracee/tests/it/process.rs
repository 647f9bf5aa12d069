//! Processes to experiment on, and looking at them from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child that is killed and reaped when the test ends. It is talked to through its standard input and output.
pub(crate) struct Task {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Task {
    pub(crate) fn spawn(program: &str, args: &[&str]) -> Self {
        Self::of(Command::new(program).args(args))
    }

    /// A Perl program, with output that is not buffered.
    pub(crate) fn perl(script: &str) -> Self {
        Self::of(Command::new("perl").args(["-e", &format!("use POSIX; $| = 1; {script}")]))
    }

    pub(crate) fn python(script: &str) -> Self {
        Self::of(Command::new("python3").args(["-uc", script]))
    }

    /// One of [`crate::programs`].
    pub(crate) fn program(name: &str) -> Self {
        let mut this = Command::new(std::env::current_exe().unwrap());
        this.args(["--exact", "programs::run", "--nocapture"]).env(crate::programs::NAME, name);
        Self::of(&mut this)
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        Self { child, to, from }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// The next line the program says, without its end; empty if it says no more.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next byte the program says.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.from.by_ref().bytes().next().map(Result::unwrap)
    }

    /// What follows `prefix` on the next line that has it.
    pub(crate) fn line_after(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "it says no more");
            if let Some(at) = line.find(prefix) {
                return line[at + prefix.len()..].trim_end().to_owned();
            }
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.to, "{line}").unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn maps(pid: Pid) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

/// The state letter of a task, `X` if there is none.
pub(crate) fn state(pid: Pid) -> char {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 'X' };
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.chars().next().unwrap()
}

/// Waits until the state letter of the task is one of `states`.
pub(crate) fn wait_state(pid: Pid, states: &str) {
    loop {
        match state(pid) {
            now if states.contains(now) => return,
            now @ ('Z' | 'X') => panic!("process {pid} has ended ({now})"),
            _ => std::thread::yield_now(),
        }
    }
}

/// What /proc/PID/status says after `name:`.
pub(crate) fn status(pid: Pid, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// A signal of a hexadecimal mask in /proc/PID/status.
pub(crate) fn has_signal(pid: Pid, mask: &str, signal: i32) -> bool {
    u64::from_str_radix(&status(pid, mask), 16).unwrap() >> (signal - 1) & 1 == 1
}
