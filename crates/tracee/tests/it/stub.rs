//! A child that is being made into something else.

use nix::unistd::Pid;
use rewake_tracee::{Call, FinalState, Release, ThreadGroup};

use crate::process::{Task, has_signal, state, wait_state};

/// `struct clone_args` for a thread that runs nothing until it is given registers.
fn clone_args() -> Vec<u8> {
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let mut args = u64::from(flags.unsigned_abs()).to_ne_bytes().to_vec();
    args.resize(88, 0);
    args
}

fn stub_with_threads(task: &Task, count: usize) -> (ThreadGroup, Vec<Pid>) {
    wait_state(task.pid(), "S");
    let mut group = ThreadGroup::seize_stub(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    let (data, args) = (remote.data(), clone_args());
    remote.write(data, &args).unwrap();
    let mut calls = vec![Call::new(libc::SYS_clone3, &[data, args.len() as u64]); count];
    let tids = remote.clone_threads(&mut calls).unwrap();
    let told: Vec<_> = calls.iter().map(|c| i32::try_from(c.result().unwrap()).unwrap()).collect();
    assert_eq!(tids.iter().map(|tid| tid.as_raw()).collect::<Vec<_>>(), told);
    (group, tids)
}

#[test]
fn new_threads_belong_to_the_group() {
    let task = Task::spawn("sleep", &["1000"]);
    let (mut group, tids) = stub_with_threads(&task, 30);
    assert_eq!(group.threads().len(), 31);
    let mut work: Vec<_> = tids.iter().map(|&tid| (tid, vec![Call::new(libc::SYS_gettid, &[]); 4])).collect();
    group.remote().unwrap().batch_on(&mut work).unwrap();
    for (tid, calls) in &work {
        assert!(calls.iter().all(|c| c.result() == Ok(u64::try_from(tid.as_raw()).unwrap())));
    }
    drop(group);
    assert_eq!(state(task.pid()), 'X', "a stub that is dropped is dead, and no zombie");
}

/// Threads go on with what they were given: here, with a system call of the first thread that is begun anew.
#[test]
fn the_final_state_is_what_they_go_on_with() {
    const BLOCKED: u64 = 1 << (libc::SIGUSR1 - 1);
    let task = Task::spawn("sleep", &["1000"]);
    let (mut group, tids) = stub_with_threads(&task, 3);
    let regs = *group.leader().saved_regs();
    let xstate = group.leader().xstate().unwrap();
    for &tid in &tids {
        let state = FinalState { regs, xstate: Some(xstate.clone()), sigmask: BLOCKED };
        group.thread_mut(tid).unwrap().set_final(state);
    }
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "S");
    for tid in tids {
        // Its registers say that it was interrupted in this call, so the kernel lets it try again.
        wait_state(tid, "S");
        let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap();
        assert!(status.contains(&format!("SigBlk:\t{BLOCKED:016x}")), "{status}");
    }
}

#[test]
fn sigtrap_can_be_ignored_in_the_end() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    let mut group = ThreadGroup::seize_stub(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    let (data, signal) = (remote.data(), u64::from(libc::SIGTRAP.unsigned_abs()));
    // struct sigaction of the kernel: handler, flags, restorer, mask.
    for handler in [libc::SIG_IGN as u64, libc::SIG_DFL as u64, libc::SIG_IGN as u64] {
        remote.write(data, &handler.to_ne_bytes()).unwrap();
        let set = Call::new(libc::SYS_rt_sigaction, &[signal, data, 0, 8]);
        remote.batch(&mut [Call::default(), set, Call::default()]).unwrap();
        remote.call(libc::SYS_rt_sigaction, &[signal, 0, data, 8]).unwrap();
        let mut now = [0; 8];
        remote.read(data, &mut now).unwrap();
        assert_eq!(u64::from_ne_bytes(now), handler, "no trap in between changes it");
    }
    group.release(Release::Resume).unwrap();
    assert!(has_signal(task.pid(), "SigIgn", libc::SIGTRAP));
}
