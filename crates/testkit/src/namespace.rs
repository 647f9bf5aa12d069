//! Tests that own their pids.
//!
//! A restored task takes its old pid back. In the pid namespace of the machine another test, or anything
//! else, may have taken it in between. [`kernel_test!`](crate::kernel_test) therefore runs the test in a
//! pid and mount namespace of its own: the test starts its own executable a second time, for this one test,
//! with a small init as pid 1 that mounts `/proc` and reaps.

use std::{
    fmt::Debug,
    process::{Command, Stdio},
};

use crate::sys;

/// Set for the second run of the executable, inside the namespace.
const MARKER: &str = "REWAKE_IN_NAMESPACE";

/// What a test body may return.
pub trait Outcome {
    /// Fails the test unless this is a success.
    fn check(self);
}

impl Outcome for () {
    fn check(self) {}
}

impl<E: Debug> Outcome for Result<(), E> {
    #[expect(clippy::panic, reason = "this is how a test fails")]
    fn check(self) {
        if let Err(error) = self {
            panic!("{error:?}");
        }
    }
}

/// Defines tests, each of which runs in its own pid and mount namespace.
///
/// Without root they say why they are skipped and pass.
///
/// ```text
/// rewake_testkit::kernel_test! {
///     fn comes_back() {}
/// }
/// ```
#[macro_export]
macro_rules! kernel_test {
    ($($(#[$meta:meta])* fn $name:ident() $(-> $ret:ty)? $body:block)+) => {
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                fn body() $(-> $ret)? $body
                $crate::namespace::run(concat!(module_path!(), "::", stringify!($name)), body);
            }
        )+
    };
}

/// Whether this process runs inside a namespace made here.
#[expect(clippy::disallowed_methods, reason = "how the second run of a test executable knows that it is one")]
pub fn inside() -> bool {
    std::env::var(MARKER).is_ok()
}

/// Runs `body` in a pid namespace of its own. `test_path` is `module_path!()` and the test's name.
///
/// # Panics
/// When the test fails there; that fails it here.
#[expect(clippy::panic, reason = "this is how a test fails")]
#[expect(clippy::print_stderr, clippy::print_stdout, reason = "what a test prints is its report")]
pub fn run<R: Outcome>(test_path: &str, body: impl FnOnce() -> R) {
    if inside() {
        return body().check();
    }
    // The harness knows its tests without the name of the crate they are in.
    let name = test_path.split_once("::").map_or(test_path, |(_, name)| name);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped {name}: needs root for a pid namespace of its own");
        return;
    }
    let exe = std::env::current_exe().expect("a running test has an executable");
    let mut command = Command::new(exe);
    command.args(["--exact", name, "--nocapture", "--include-ignored"]);
    command.env(MARKER, "1").stdin(Stdio::null());
    sys::in_pid_namespace(&mut command);
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            eprintln!("skipped {name}: needs CAP_SYS_ADMIN for a pid namespace of its own");
            return;
        }
        Err(error) => panic!("{name} cannot be started in a pid namespace: {error}"),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    eprint!("{stderr}");
    print!("{stdout}");
    assert!(output.status.success(), "{name} failed in its pid namespace ({})", output.status);
    assert!(stdout.contains(" 1 passed"), "the harness knows no test named {name}");
}
