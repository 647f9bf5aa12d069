//! The frame around a scenario.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

/// What a scenario's check gives: the reason if the state is not what it was.
pub(crate) type Check = Result<(), String>;

/// One kind of kernel state.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// Name, that of the kernel object.
    pub(crate) name: &'static str,
    /// Needs privileges to set up.
    pub(crate) needs_root: bool,
    /// Sets up the state, calls [`Frame::wait`] exactly once, and checks the state afterwards.
    pub(crate) run: fn(&mut Frame) -> Check,
}

/// What a scenario may use.
pub(crate) struct Frame {
    ready: PathBuf,
    /// A directory for files of the scenario: that of the result file.
    pub(crate) dir: PathBuf,
}

impl Frame {
    /// Says that the state is there, and waits for SIGTERM, which is blocked in every thread. No descriptor of the
    /// frame's is open meanwhile.
    pub(crate) fn wait(&mut self) {
        let mut fifo = fs::File::options().write(true).open(&self.ready).expect("the fifo can be opened");
        fifo.write_all(b"ready\n").expect("somebody reads the fifo");
        drop(fifo);
        let mut set = empty_set();
        unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
        loop {
            let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
            let got = unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) };
            if got == libc::SIGTERM {
                return;
            }
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EINTR), "sigwaitinfo: {error}");
        }
    }

    /// Path of a file of the scenario.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

pub(crate) fn empty_set() -> libc::sigset_t {
    let mut set = unsafe { std::mem::zeroed() };
    unsafe { libc::sigemptyset(&raw mut set) };
    set
}

/// `Ok` if both are equal, else a reason that names `what`.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Check {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

/// `Ok` if `holds`, else `what`.
pub(crate) fn ensure(holds: bool, what: &str) -> Check {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

pub(crate) fn run(scenario: &Scenario, ready: &str, result: &str) {
    // Every thread inherits this: SIGTERM waits for `Frame::wait`.
    let mut set = empty_set();
    unsafe {
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    let result = PathBuf::from(result);
    let dir = result.parent().expect("the result file lies in a directory").to_owned();
    let mut frame = Frame { ready: ready.into(), dir };
    let outcome = (scenario.run)(&mut frame);
    let text = outcome.as_ref().map_or_else(|reason| format!("FAIL {reason}\n"), |()| "PASS\n".to_owned());
    let temporary = result.with_extension("new");
    fs::write(&temporary, text).expect("the result can be written");
    fs::rename(&temporary, &result).expect("the result can be put in place");
    std::process::exit(i32::from(outcome.is_err()));
}
