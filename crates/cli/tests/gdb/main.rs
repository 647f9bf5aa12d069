//! Core files of a checkpoint, judged by gdb.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests, and a skip says why"
)]

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use rewake_testkit::namespace;

fn present(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    text
}

fn checkpoint(program: &Path, dir: &Path) {
    let ready = dir.join("ready");
    done(Command::new("mkfifo").arg(&ready));
    let out = File::create(dir.join("out")).unwrap();
    // setsid becomes the program, with the same pid.
    let mut child = Command::new("setsid")
        .arg(program)
        .arg(&ready)
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .spawn()
        .unwrap();
    let mut byte = [0];
    File::open(&ready).unwrap().read_exact(&mut byte).unwrap();
    let dump = Command::new(env!("CARGO_BIN_EXE_rewake"))
        .args(["dump", "-t", &child.id().to_string(), "-D"])
        .arg(dir.join("images"))
        .output()
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
}

#[test]
fn threads_and_variables() {
    namespace::run(concat!(module_path!(), "::threads_and_variables"), || {
        for program in ["gdb", "cc"] {
            if !present(program) {
                println!("skipped threads_and_variables: needs {program}");
                return;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gdb/threads.c");
        let program = dir.path().join("threads");
        done(Command::new("cc").args(["-g", "-O0", "-pthread", "-o"]).arg(&program).arg(source));
        checkpoint(&program, dir.path());
        let core = dir.path().join("core");
        let mut rewake = Command::new(env!("CARGO_BIN_EXE_rewake"));
        done(rewake.arg("core").arg(dir.path().join("images")).arg("-o").arg(&core));

        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
        for command in [
            "thread apply all backtrace",
            "print touched",
            "print untouched",
            "print heap",
            "thread apply all -s print $xmm9.v2_double[0]",
            "info proc mappings",
            "info auxv",
            "print $_siginfo.si_signo",
        ] {
            gdb.args(["-ex", command]);
        }
        let text = done(gdb.arg(&program).arg(&core).stderr(Stdio::piped()));
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        let values = |what: &str| text.lines().filter(|line| line.ends_with(what)).count();
        assert_eq!(count("[New LWP "), 4, "{text}");
        for number in 1..=3 {
            assert_eq!(count(&format!("in wait_here (number={number})")), 1, "{text}");
            assert_eq!(count(&format!("in worker (number=0x{number})")), 1, "{text}");
            let marked = 1000.0 + 0.5 * f64::from(number);
            assert_eq!(
                values(&format!("= {marked}")),
                1,
                "floating point registers of thread {number}\n{text}"
            );
        }
        assert_eq!(count("in main ("), 1, "{text}");
        assert_eq!(values("= 4343"), 1, "a page from the image\n{text}");
        assert_eq!(values("= 77"), 1, "{text}");
        assert_eq!(count("\"on the heap\""), 1, "{text}");
        assert!(count(&program.display().to_string()) >= 4, "mapped files\n{text}");
        assert_eq!(count("AT_SYSINFO_EHDR"), 1, "{text}");
    });
}
