//! Commands that are watched on a terminal, and ended by a signal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_pageserver::{Incoming, Object, PageServerError, Plain, Receiver, Span, accept, receive};
use rewake_testkit::{Workload, kernel_test};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than what has no bar.
const LONG: Duration = Duration::from_millis(150);

/// A page server that does something, once, when the memory of a process is about to come: the process stands still then, or
/// is being copied.
struct Acting<F> {
    incoming: Incoming,
    action: Option<F>,
}

impl<F: FnOnce()> Receiver for Acting<F> {
    fn open(&mut self, object: Object) -> Result<bool, PageServerError> {
        if let Some(action) = self.action.take() {
            action();
        }
        self.incoming.open(object)
    }

    fn has_parent(&mut self, object: Object) -> Result<bool, PageServerError> {
        self.incoming.has_parent(object)
    }

    fn entry(&mut self, span: Span, flags: u32) -> Result<(), PageServerError> {
        self.incoming.entry(span, flags)
    }

    fn pages(&mut self, bytes: &[u8]) -> Result<(), PageServerError> {
        self.incoming.pages(bytes)
    }

    fn commit(&mut self) -> Result<(), PageServerError> {
        self.incoming.commit()
    }
}

/// Runs a dump of `workload` (`what` and `how`) with memory going to a server that does `action`; gives the child, which has
/// ended, and whether the server kept anything.
fn with_server(
    workload: &Workload,
    what: &str,
    prepare: impl FnOnce(&mut Command),
    action: impl FnOnce(Pid) + Send,
) -> (Child, bool) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
    command.args([what, "-t", &workload.pid().to_string(), "--page-server", "--port", &port, "-D"]);
    command.arg(workload.dir().join("images")).stdin(Stdio::null()).env("TERM", "xterm");
    prepare(&mut command);
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let incoming = Incoming::create(workload.dir().join("there"), None).unwrap();
    let mut receiver = Acting { incoming, action: Some(|| action(pid)) };
    let mut connection = Plain::new(accept(&listener).unwrap()).unwrap();
    let kept = receive(&mut connection, &mut receiver).is_ok();
    drop(connection);
    child.wait().unwrap();
    (child, kept)
}

fn verdict(workload: &Workload) -> String {
    workload.trigger().unwrap();
    workload.wait_result(PATIENCE).unwrap_or_else(|error| format!("FAIL {error}"))
}

/// A terminal: a thread that gives what was written to it once nobody has its other side any more, and that side.
fn terminal_screen() -> (std::thread::JoinHandle<String>, std::os::fd::OwnedFd) {
    let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let screen = std::thread::spawn(move || {
        let (mut text, mut screen) = (Vec::new(), File::from(pty.master));
        // Ends with an error when nobody has the other side any more.
        let _ = screen.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    (screen, pty.slave)
}

fn empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

kernel_test! {
    fn messages_have_neither_time_nor_colour_in_pipes() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("wipe-on-fork", dir.path()).unwrap();
        let images = dir.path().join("images");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
        command.args(["dump", "--leave-running", "--snapshot", "-t", &workload.pid().to_string(), "-D"]);
        let output = command.arg(&images).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.trim_start().starts_with("WARN it has memory that no child gets"), "{said:?}");
        assert_eq!(verdict(&workload), "PASS");
    }
}

kernel_test! {
    fn a_signal_cancels_a_dump_and_the_process_goes_on() {
        for what in ["dump", "pre-dump"] {
            for signal in [Signal::SIGINT, Signal::SIGTERM] {
                let dir = tempfile::tempdir().unwrap();
                let workload = Workload::spawn("churn", dir.path()).unwrap();
                let said = dir.path().join("said");
                let (mut child, kept) = with_server(
                    &workload,
                    what,
                    |command| {
                        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
                    },
                    // It waits for the answer and sees the signal first.
                    |pid| kill(pid, signal).unwrap(),
                );
                let said = fs::read_to_string(said).unwrap();
                assert_eq!(child.wait().unwrap().code(), Some(2), "{said}");
                assert_eq!(said, "rewake: cancelled: the process goes on, and no checkpoint was made\n");
                assert!(!kept && !dir.path().join("images").exists() && empty(&dir.path().join("there")));
                assert_eq!(verdict(&workload), "PASS", "{what}");
            }
        }
    }

    fn a_signal_ends_a_page_server_and_leaves_nothing() {
        use std::io::{BufRead, BufReader, Write};
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
        command.args(["page-server", "--address", "127.0.0.1", "-D"]).arg(dir.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let port: u16 = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0]).unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert!(!empty(dir.path()), "the memory of a process is on its way");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(2));
        assert!(empty(dir.path()), "something is left");
    }

    fn a_long_dump_has_a_bar_on_a_terminal_and_nowhere_else() {
        for (terminal, json, expected) in [(true, false, true), (true, true, false), (false, false, false)] {
            let dir = tempfile::tempdir().unwrap();
            let workload = Workload::spawn("churn", dir.path()).unwrap();
            let plain = dir.path().join("said");
            let (screen, side) = terminal_screen();
            let (mut child, kept) = with_server(
                &workload,
                "dump",
                |command| {
                    let stderr = if terminal { Stdio::from(side) } else { File::create(&plain).unwrap().into() };
                    command.stdout(File::create(dir.path().join("out")).unwrap()).stderr(stderr).arg("-R");
                    if json {
                        command.arg("--json");
                    }
                },
                // Time itself is what is tested: there is no event that a bar which is not shown could cause.
                |_| std::thread::sleep(LONG),
            );
            assert!(child.wait().unwrap().success() && kept);
            let seen = if terminal { screen.join().unwrap() } else { fs::read_to_string(plain).unwrap() };
            assert_eq!(seen.contains("memory ["), expected, "terminal {terminal}, json {json}: {seen:?}");
            assert!(expected || seen.is_empty(), "{seen:?}");
            let out = fs::read_to_string(dir.path().join("out")).unwrap();
            assert!(out.starts_with(if json { "{" } else { "dumped pid" }), "{out}");
            assert_eq!(verdict(&workload), "PASS");
        }
    }
}

#[test]
fn a_long_conversion_has_a_bar_on_a_terminal() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    for to_file in [true, false] {
        let json = dir.path().join(format!("json-{to_file}"));
        nix::unistd::mkfifo(&json, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (screen, side) = terminal_screen();
        let image = dir.path().join("image");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
        command.args(["crit", "encode", "-i"]).arg(&json).stdout(Stdio::null()).stderr(side);
        if to_file {
            command.arg("-o").arg(&image);
        }
        let mut child = command.env("TERM", "xterm").spawn().unwrap();
        drop(command);
        let mut writer = File::options().write(true).open(&json).unwrap();
        writer.write_all(b"{\"magic\": \"PAGEMAP\", \"entries\": [").unwrap();
        // As above: the time that the tool has to wait for the rest is what is tested.
        std::thread::sleep(LONG);
        writer.write_all(b"{\"pages_id\": 1}]}").unwrap();
        drop(writer);
        assert!(child.wait().unwrap().success());
        let screen = screen.join().unwrap();
        assert_eq!(screen.contains("encoding"), to_file, "{screen:?}");
    }
    assert_eq!(fs::read(dir.path().join("image")).unwrap().len(), 14);
}
