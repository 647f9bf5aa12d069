//! A pid namespace for a test.
//!
//! The test re-executes its own binary for itself alone, inside new pid and mount namespaces. There the first process is
//! an init that mounts /proc, starts the test proper and reaps whatever dies, so that a dead process never holds a pid.

use std::process::{Command, exit};

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{ForkResult, Pid, fork, geteuid};

/// Tells a re-executed test binary what it is.
const STAGE: &str = "REWAKE_TEST_STAGE";

/// Makes a `#[test]` that runs `body` in a pid namespace of its own; without root it prints a skip.
#[macro_export]
macro_rules! kernel_test {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        #[test]
        $(#[$meta])*
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            $crate::namespace::run(path, || $body);
        }
    };
}

/// Runs `body` in namespaces of its own; `path` is the full path of the test, crate name first.
///
/// # Panics
/// When the test fails.
pub fn run(path: &str, body: impl FnOnce()) {
    #[allow(clippy::disallowed_methods, reason = "how a re-executed binary learns what it is")]
    let stage = std::env::var(STAGE).unwrap_or_default();
    match stage.as_str() {
        "" => outer(path),
        "init" => init(path),
        _ => body(),
    }
}

fn outer(path: &str) {
    if !geteuid().is_root() {
        eprintln!("skipped {path}: needs root (pid namespace, ptrace, set_tid)");
        return;
    }
    // A child made from a test's thread could not unshare the pid namespace for this whole process: each has its own.
    let mut command = again(path, "init");
    // SAFETY: unshare is a plain system call.
    #[allow(unsafe_code, reason = "between fork and exec")]
    unsafe {
        use std::os::unix::process::CommandExt;
        command.pre_exec(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
            Ok(())
        });
    }
    let output = command.output().expect("the test binary can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{path} failed in its namespace:\n{said}");
    if said.contains("skipped") {
        eprintln!("{said}");
    }
}

fn again(path: &str, stage: &str) -> Command {
    let (_, test) = path.split_once("::").expect("a path has a crate");
    let mut command = Command::new(std::env::current_exe().expect("a test has a path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(STAGE, stage);
    command
}

/// Runs in the process that has unshared: its first child is the init of the namespace.
fn init(path: &str) {
    // SAFETY: the child only makes system calls and starts a program; the threads of the test harness are asleep and hold
    // no lock that is needed for it, save the allocator's, which glibc makes usable after fork.
    #[allow(unsafe_code, reason = "fork")]
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).expect("our child");
            exit(code(status));
        }
        ForkResult::Child => exit(be_init(path)),
    }
}

fn be_init(path: &str) -> i32 {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts can be made private");
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>).expect("/proc can be mounted");
    let child = again(path, "body").spawn().expect("the test binary can be started");
    let child = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    loop {
        match wait() {
            Ok(status) if status.pid() == Some(child) => return code(status),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => panic!("wait: {e}"),
        }
    }
}

fn code(status: WaitStatus) -> i32 {
    match status {
        WaitStatus::Exited(_, code) => code,
        _ => 101,
    }
}
