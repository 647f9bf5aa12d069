//! Restartable sequences, which the kernel forgets at the first remote call.

use rewake_tracee::{Release, ThreadGroup};

use crate::process::Task;

#[test]
fn a_sequence_is_aborted_not_finished() {
    let mut task = Task::program("rseq");
    let tid = task.line_after("sequence of thread ").parse().unwrap();
    let tid = nix::unistd::Pid::from_raw(tid);
    let mut aborted = 0;
    while aborted < 200 {
        let mut group = ThreadGroup::seize(task.pid()).unwrap();
        let thread = group.thread(tid).expect("its sequence would never end by itself");
        let rseq = thread.rseq().expect("the C library registers one");
        // The signature stands before abort handlers.
        let mut before = [0; 4];
        group.mem().read(thread.saved_regs().ip - 4, &mut before).unwrap();
        aborted += usize::from(u32::from_ne_bytes(before) == rseq.signature);
        group.remote().unwrap().call_on(tid, libc::SYS_getpid, &[]).unwrap();
        group.release(Release::Resume).unwrap();
    }
}
