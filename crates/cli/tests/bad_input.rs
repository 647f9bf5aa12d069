//! What cannot be done is said on standard error, with exit status 2, and changes nothing.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rewake_testkit::{Workload, kernel_test};

fn rewake() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewake"));
    command.stdin(Stdio::null());
    command
}

fn dump(command: &mut Command, pid: impl ToString, images: &Path) -> Output {
    command.args(["dump", "-t", &pid.to_string(), "-D"]).arg(images).output().unwrap()
}

/// That it failed, said so, and left nothing; gives what it said.
fn failed(output: &Output, images: &Path) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(said.starts_with("rewake: "), "{said}");
    assert!(!images.exists(), "something was left");
    said
}

#[test]
fn processes_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    for pid in ["2147483647", "0"] {
        let said = failed(&dump(&mut rewake(), pid, &images), &images);
        assert!(said.contains(&format!("pid {pid}")), "{said}");
    }
}

#[test]
fn a_thread_of_the_kernel() {
    let flags = std::fs::read_to_string("/proc/2/stat").ok().and_then(|stat| {
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.split(' ').nth(6)?.parse::<u32>().ok()
    });
    if flags.is_none_or(|flags| flags & 0x0020_0000 == 0) {
        eprintln!("skipped: pid 2 is no thread of the kernel in this pid namespace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let said = failed(&dump(&mut rewake(), 2, &images), &images);
    assert!(said.contains("pid 2: the process: it is a thread of the kernel"), "{said}");
}

kernel_test! {
    fn a_process_of_another_user_without_privilege() {
        const NOBODY: u32 = 65534;
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        // Where anybody may run it, and write.
        let open = tempfile::tempdir().unwrap();
        std::fs::set_permissions(open.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let program = open.path().join("rewake");
        std::fs::copy(env!("CARGO_BIN_EXE_rewake"), &program).unwrap();
        let images = open.path().join("images");
        let mut command = Command::new(&program);
        command.stdin(Stdio::null()).uid(NOBODY).gid(NOBODY).current_dir(open.path());
        let said = failed(&dump(&mut command, workload.pid(), &images), &images);
        assert!(said.contains("ermission denied") || said.contains("not permitted"), "{said}");
        workload.trigger().unwrap();
        assert_eq!(workload.wait_result(std::time::Duration::from_secs(60)).unwrap(), "PASS");
    }

    fn a_checkpoint_is_not_overwritten_and_what_is_none_is_not_restored() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let images = dir.path().join("images");
        let first = dump(rewake().arg("-v0"), workload.pid(), &images);
        assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
        workload.wait_end(std::time::Duration::from_secs(60)).unwrap();
        let inventory = std::fs::read(images.join("inventory.img")).unwrap();
        let other = Workload::spawn("minimal", tempfile::tempdir().unwrap().path()).unwrap();
        let again = dump(&mut rewake(), other.pid(), &images);
        assert_eq!(again.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{}", String::from_utf8_lossy(&again.stderr));
        assert_eq!(std::fs::read(images.join("inventory.img")).unwrap(), inventory);

        for (bytes, name) in [(&inventory[..5], "inventory.img"), (b"#!/bin/sh\necho no image\n", "pstree.img")] {
            let whole = std::fs::read(images.join(name)).unwrap();
            std::fs::write(images.join(name), bytes).unwrap();
            let restored = rewake().args(["restore", "-d", "-D"]).arg(&images).output().unwrap();
            let said = String::from_utf8_lossy(&restored.stderr).into_owned();
            assert_eq!(restored.status.code(), Some(2), "{said}");
            assert!(said.contains(name), "{said}");
            std::fs::write(images.join(name), whole).unwrap();
        }
        let empty = tempfile::tempdir().unwrap();
        let restored = rewake().args(["restore", "-D"]).arg(empty.path()).output().unwrap();
        assert_eq!(restored.status.code(), Some(2), "{}", String::from_utf8_lossy(&restored.stderr));
    }
}

kernel_test! {
    fn a_file_that_may_not_be_read_is_not_said_to_be_the_same() {
        const NOBODY: u32 = 65534;
        let place = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(place.path(), 0o755);
        let (program, tool) = (place.path().join("program"), place.path().join("rewake"));
        std::fs::copy("/bin/sleep", &program).unwrap();
        mode(&program, 0o711);
        std::fs::copy(env!("CARGO_BIN_EXE_rewake"), &tool).unwrap();
        let mut command = Command::new(&program);
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        let mut child = command.current_dir(place.path()).spawn().unwrap();
        // Asleep, it has opened and mapped all that it will.
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
            std::thread::yield_now();
        }
        let images = place.path().join("images");
        let dumped = dump(&mut rewake(), child.id(), &images);
        let _ = child.kill();
        child.wait().unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        mode(&images, 0o755);
        for image in std::fs::read_dir(&images).unwrap() {
            mode(&image.unwrap().path(), 0o644);
        }
        let verify = |uid: u32| {
            let mut command = Command::new(&tool);
            command.args(["verify", "-D"]).arg(&images).stdin(Stdio::null()).uid(uid).gid(uid);
            let output = command.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8_lossy(&said).into_owned())
        };
        let (status, said) = verify(0);
        assert_eq!(status, Some(0), "{said}");
        let (status, said) = verify(NOBODY);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("program") && said.contains("ermission denied"), "{said}");
    }
}
