//! Programs that are this test binary, started again: what no script can do.
#![expect(unsafe_code, reason = "a restartable sequence is written in assembly")]

use std::arch::asm;
use std::io::BufRead;

use nix::unistd::Pid;
use rewake_tracee::ThreadGroup;

/// The environment variable that says which of them to be.
pub(crate) const NAME: &str = "REWAKE_TEST_PROGRAM";

/// Does nothing unless this process was started to be one of the programs.
#[test]
fn run() {
    match std::env::var_os(NAME) {
        Some(name) if name == "hold" => hold(),
        Some(name) if name == "rseq" => stay_in_section(),
        Some(name) => panic!("no program is called {}", name.display()),
        None => {}
    }
}

/// Takes hold of a process, runs calls in it, and does nothing more until it dies.
fn hold() {
    let pid = std::io::stdin().lock().lines().next().unwrap().unwrap();
    let mut group = ThreadGroup::seize(Pid::from_raw(pid.parse().unwrap())).unwrap();
    group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap();
    println!("holding {pid}");
    loop {
        nix::unistd::pause();
    }
}

unsafe extern "C" {
    /// Where glibc keeps a thread's `struct rseq`, relative to its thread pointer.
    #[link_name = "__rseq_offset"]
    static RSEQ_OFFSET: isize;
}

/// Enters a restartable sequence, over and over, and watches in it that the kernel still knows: the descriptor's address
/// may go away only together with an abort. Returns if it did otherwise.
fn stay_in_section() {
    const RSEQ_CS: isize = 8;
    // SAFETY: the C library sets it before main and never changes it.
    let offset = unsafe { RSEQ_OFFSET };
    let thread: isize;
    // SAFETY: reads the thread pointer, which x86-64 keeps at its own address.
    unsafe { asm!("mov {}, fs:[0]", out(reg) thread) };
    println!("sequence of thread {}", nix::unistd::gettid());
    // SAFETY: changes only the word of this thread's rseq area that is there for this.
    unsafe {
        asm!(
            "lea {descriptor}, [rip + 20f]",
            // Entry; also where an abort leads.
            "2:",
            "mov [{rseq_cs}], {descriptor}",
            // The sequence, without an end.
            "3:",
            "cmp qword ptr [{rseq_cs}], 0",
            "je 6f",
            "jmp 3b",
            "4:",
            // The signature the kernel wants before an abort handler.
            ".long 0x53053053",
            "5:",
            "jmp 2b",
            ".pushsection .data.rel.ro, \"aw\"",
            ".balign 32",
            "20:",
            ".long 0, 0",
            ".quad 3b, 4b - 3b, 5b",
            ".popsection",
            "6:",
            descriptor = out(reg) _,
            rseq_cs = in(reg) thread + offset + RSEQ_CS,
        );
    }
}
