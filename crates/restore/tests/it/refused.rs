//! What cannot be dumped is refused by name, and goes on.

use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;
use rewake_testkit::kernel_test;

use super::bad::refused;
use super::wait_state;

/// A program in Python that sleeps when it is set up.
struct Script(Child);

impl Script {
    /// `None`, and a line in print, where there is no Python.
    fn start(setup: &str) -> Option<Self> {
        let setup = setup.trim();
        let text =
            format!("{setup}\nimport time\nopen('/proc/self/comm','w').write('ready')\ntime.sleep(1000)");
        let mut command = Command::new("python3");
        command.args(["-c", &text]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        let mut script = match command.spawn() {
            Ok(child) => Self(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: python3 is not installed");
                return None;
            }
            Err(error) => panic!("python3: {error}"),
        };
        let name = format!("/proc/{}/comm", script.0.id());
        while std::fs::read_to_string(&name).unwrap() != "ready\n" {
            assert!(script.0.try_wait().unwrap().is_none(), "it ended: {setup}");
            std::thread::yield_now();
        }
        wait_state(script.pid(), 'S');
        Some(script)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program is refused with all of these words, and goes on.
fn is_refused(setup: &str, words: &[&str]) {
    let Some(script) = Script::start(setup) else { return };
    let said = refused(script.pid());
    assert!(words.iter().all(|word| said.contains(word)), "{setup}: {said}");
    wait_state(script.pid(), 'S');
}

kernel_test! {
    fn sockets() {
        let setup = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()";
        is_refused(setup, &["socket:[", "descriptor 3"]);
    }

    fn what_only_the_kernel_can_name() {
        is_refused("f = open('/proc/self/ns/net')", &["descriptor 3 (net:[", "only the kernel can name"]);
    }

    fn a_name_that_is_gone_while_the_file_has_others() {
        let dir = tempfile::tempdir().unwrap();
        let setup = format!("import os; os.chdir({:?}); f = open('a', 'w'); os.link('a', 'b'); os.unlink('a'); os.chdir('/')", dir.path());
        is_refused(&setup, &["descriptor 3", "/a (deleted)", "has others"]);
    }

    /// The set can only be made again with numbers that are there.
    fn files_watched_by_a_number_that_is_closed_or_another() {
        let setup = "import select, os; e = select.epoll(); r, w = os.pipe(); d = os.dup(r); e.register(d); os.close(d)";
        is_refused(setup, &["descriptor 3 (anon_inode:[eventpoll])", "as descriptor 6"]);
        is_refused(&format!("{setup}; os.dup2(w, d)"), &["descriptor 3 (anon_inode:[eventpoll])", "as descriptor 6"]);
    }

    fn memfds_of_huge_pages() {
        // Making it takes no huge page.
        is_refused("import os; f = os.memfd_create('huge', 4)", &["descriptor 3 (/memfd:huge", "hugetlb"]);
    }
}
