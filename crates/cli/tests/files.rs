//! Files that changed between dump and restore, by the command: what it says and how it ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_testkit::kernel_test;
use serde_json::Value;

fn rewake(args: &[&str]) -> Output {
    // Not a pipe: a restored process may hold on to it.
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
    command.args(args).stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
    let status = command.status().unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    Output { status, stdout: read("out"), stderr: read("err") }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn asleep(proc: &str) -> bool {
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

/// A copy of `sleep` that runs, and where its checkpoint goes.
struct Sleeper {
    dir: tempfile::TempDir,
    child: Child,
}

impl Sleeper {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy("/bin/sleep", dir.path().join("sleep")).unwrap();
        let mut command = Command::new(dir.path().join("sleep"));
        command.arg("1000").current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        let child = command.spawn().unwrap();
        // In the program, and in its long sleep: it has written nothing and reads nothing, so it sleeps but once.
        let (program, proc) = (dir.path().join("sleep"), format!("/proc/{}", child.id()));
        while fs::read_link(format!("{proc}/exe")).unwrap() != program || !asleep(&proc) {
            std::thread::yield_now();
        }
        Self { dir, child }
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("sleep")
    }

    fn images(&self) -> String {
        self.dir.path().join("images").to_str().unwrap().to_owned()
    }

    fn dump(&mut self, options: &[&str]) -> Value {
        let (pid, images) = (self.child.id().to_string(), self.images());
        let done = rewake(&[&["dump", "-t", &pid, "-D", &images, "--json"], options].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        self.child.wait().unwrap();
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// Another file under the program's name: as long, executable, one byte in the middle changed.
    fn change_program(&self) {
        let mut bytes = fs::read(self.program()).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        self.replace_program(&bytes);
    }

    fn replace_program(&self, bytes: &[u8]) {
        fs::remove_file(self.program()).unwrap();
        fs::write(self.program(), bytes).unwrap();
        fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn is_alive(&self) -> bool {
        Path::new(&format!("/proc/{}", self.child.id())).exists()
    }

    fn kill(&self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGKILL).unwrap();
        while self.is_alive() {
            std::thread::yield_now();
        }
    }
}

kernel_test! {
    fn a_changed_byte_is_found_before_a_process_exists() {
        let mut sleeper = Sleeper::start();
        let report = sleeper.dump(&[]);
        assert_eq!(report["files"]["findings"], serde_json::json!([]));
        let images = sleeper.images();
        let verify = |options: &[&str]| rewake(&[&["verify", "-D", &images], options].concat());
        assert_eq!(verify(&[]).status.code(), Some(0), "{}", text(&verify(&[]).stdout));

        sleeper.change_program();
        assert_eq!(verify(&["--file-validation", "buildid"]).status.code(), Some(0));
        let differs = verify(&["--json"]);
        assert_eq!(differs.status.code(), Some(1));
        let json: Value = serde_json::from_slice(&differs.stdout).unwrap();
        assert_eq!((&json["verdict"], &json["findings"][0]["what"]["kind"]), (&"differs".into(), &"blake3".into()));
        let program = sleeper.program().to_str().unwrap().to_owned();
        assert_eq!(json["findings"][0]["path"], Value::from(program.as_str()));

        let refused = rewake(&["restore", "-d", "-D", &images]);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused.stderr);
        assert!(said.contains("BLAKE3 differs") && said.contains("mapped r-xp at 0x"), "{said}");
        assert!(!sleeper.is_alive());

        let rule = format!("warn:{program}");
        let passed = rewake(&["restore", "-d", "-D", &images, "--skip-file-validation", &rule]);
        assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
        assert!(text(&passed.stderr).contains("BLAKE3 differs"), "{}", text(&passed.stderr));
        sleeper.kill();
    }
}

kernel_test! {
    fn what_could_not_be_hashed_is_told_and_can_be_stamped_later() {
        let mut sleeper = Sleeper::start();
        let report = sleeper.dump(&["--hash-bytes", "0"]);
        let findings = report["files"]["findings"].as_array().unwrap();
        assert!(findings.len() >= 2, "{findings:?}");
        for finding in findings {
            assert_eq!((&finding["severity"], &finding["what"]["part"]), (&"unchecked".into(), &"blake3".into()));
            assert!(finding["what"]["reason"].as_str().unwrap().contains("left of the budget"), "{finding}");
            assert!(!finding["users"].as_array().unwrap().is_empty(), "{finding}");
        }
        let images = sleeper.images();
        let verify = |level| rewake(&["verify", "-D", &images, "--file-validation", level]).status.code();
        assert_eq!((verify("auto"), verify("blake3")), (Some(0), Some(2)));
        let stamped = rewake(&["stamp", "-D", &images, "--file-validation", "blake3"]);
        assert_eq!(stamped.status.code(), Some(0), "{}", text(&stamped.stdout));
        assert_eq!(verify("blake3"), Some(0));
        let original = fs::read(sleeper.program()).unwrap();
        sleeper.change_program();
        assert_eq!(verify("auto"), Some(1));
        // Nothing but the process was stopped and the images written: it still can be woken.
        sleeper.replace_program(&original);
        let restored = rewake(&["restore", "-d", "-D", &images, "--file-validation", "blake3"]);
        assert!(restored.status.success(), "{}", text(&restored.stderr));
        sleeper.kill();
    }
}

kernel_test! {
    fn every_level_is_recorded_and_insisted_on() {
        for level in ["filesize", "buildid", "checksum", "checksum=4096", "checksum=full", "checksum=period:64", "blake3", "auto"] {
            let mut sleeper = Sleeper::start();
            sleeper.dump(&["--file-validation", level]);
            let images = sleeper.images();
            let verify = || rewake(&["verify", "-D", &images, "--file-validation", level]);
            assert_eq!(verify().status.code(), Some(0), "{level}: {}", text(&verify().stdout));
            sleeper.change_program();
            let seen = !matches!(level, "filesize" | "buildid" | "checksum" | "checksum=4096");
            // A byte in the middle that is one of every 64.
            let mut bytes = fs::read(sleeper.program()).unwrap();
            let place = bytes.len() / 2 / 64 * 64;
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 2;
            }
            sleeper.replace_program(&bytes);
            assert_eq!(verify().status.code(), Some(u8::from(seen).into()), "{level}: {}", text(&verify().stdout));
        }
    }
}

#[test]
fn a_checkpoint_of_criu_on_another_machine() {
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/testdata/pipe00-h");
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    let answer = rewake(&["verify", "-D", images, "--root", root]);
    assert_eq!(answer.status.code(), Some(1));
    let said = text(&answer.stdout);
    assert!(said.contains("libc.so.6") && said.contains("missing"), "{said}");
    let unknown = rewake(&["verify", "-D", images, "--file-validation", "sha1"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        text(&unknown.stderr).contains("known are filesize, buildid, checksum"),
        "{}",
        text(&unknown.stderr)
    );
}
