//! System calls run in the task's context.

use nix::errno::Errno;
use nix::unistd::Pid;
use rewake_tracee::{Call, Release, SCRATCH_LEN, ThreadGroup, TraceeError};

use crate::process::{Task, maps, wait_state};

fn number(pid: Pid) -> u64 {
    u64::try_from(pid.as_raw()).unwrap()
}

fn threads_of_python(count: usize) -> Task {
    let mut task = Task::python(&format!(
        "
import threading
for i in range({count}): threading.Thread(target=threading.Event().wait, daemon=True).start()
print('ready')
threading.Event().wait()
"
    ));
    assert_eq!(task.line(), "ready");
    task
}

#[test]
fn calls_run_in_the_task_and_leave_nothing_behind() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    let before = maps(task.pid());
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    assert_eq!(remote.call(libc::SYS_getpid, &[]).unwrap(), number(task.pid()));
    let mut calls = vec![Call::new(libc::SYS_getppid, &[]); 3000];
    calls.push(Call::new(libc::SYS_close, &[99]));
    remote.batch(&mut calls).unwrap();
    let (last, others) = calls.split_last().unwrap();
    assert!(others.iter().all(|c| c.result() == Ok(std::process::id().into())));
    assert_eq!(last.result(), Err(Errno::EBADF));
    remote.finish().unwrap();
    assert_eq!(maps(task.pid()), before);
    // It comes back when it is needed.
    assert_eq!(group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap(), number(task.pid()));
    group.release(Release::Resume).unwrap();
    assert_eq!(maps(task.pid()), before);
    wait_state(task.pid(), "S");
}

#[test]
fn threads_started_meanwhile_run_anywhere() {
    let cpus = || nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    let task = Task::spawn("sleep", &["1000"]);
    let before = cpus();
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    // How it is while calls are run: bound to one.
    let bound = cpus();
    assert_eq!(remote.unbound(|_| std::thread::spawn(cpus).join().unwrap()), before);
    let count = |set: nix::sched::CpuSet| {
        (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).count()
    };
    assert_eq!((count(bound), count(cpus())), (1, 1));
    drop(remote);
    assert_eq!(cpus(), before);
    group.release(Release::Resume).unwrap();
}

#[test]
fn what_a_call_returns_is_told() {
    let task = Task::spawn("sleep", &["1000"]);
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    assert_eq!(remote.call_raw(libc::SYS_close, &[99]).unwrap(), -i64::from(libc::EBADF));
    let error = remote.call(libc::SYS_close, &[99]).unwrap_err();
    assert_eq!(error.to_string(), format!("close (system call 3) run by thread {}", task.pid()));
    assert!(matches!(error, TraceeError::Remote { source: Errno::EBADF, .. }));
    let (data, path) = (remote.data(), c"/proc/self/no such file");
    remote.write(data, path.to_bytes_with_nul()).unwrap();
    let open = [libc::AT_FDCWD.cast_unsigned().into(), data, 0, 0];
    assert_eq!(remote.call_raw(libc::SYS_openat, &open).unwrap(), -i64::from(libc::ENOENT));
    let quiet = remote.quiet_call(libc::SYS_close, [99, 0, 0, 0, 0, 0]).unwrap_err();
    assert!(matches!(quiet, TraceeError::Remote { source: Errno::EBADF, .. }));
    let error = remote.call_on(Pid::from_raw(1), libc::SYS_getpid, &[]).unwrap_err();
    assert!(matches!(error, TraceeError::Gone { .. }), "{error}");
}

/// Results and arguments pass through the data area, which is as large as it says.
#[test]
fn the_data_area() {
    let task = Task::spawn("sleep", &["1000"]);
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    let (data, len) = (remote.data(), remote.data_len());
    assert!(len >= 64 << 10);
    assert_eq!(remote.scratch().end, data + len);
    let pattern: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    remote.write(data, &pattern).unwrap();
    let mut calls = vec![Call::new(libc::SYS_getcwd, &[data, 8]); 5];
    remote.batch(&mut calls).unwrap();
    let mut back = vec![0; pattern.len()];
    remote.read(data + 4096, &mut back[4096..]).unwrap();
    assert!(back[4096..] == pattern[4096..], "the rest is untouched");
}

/// Every thread runs its own calls, at once.
#[test]
fn threads_run_their_own_calls() {
    let task = threads_of_python(50);
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    assert_eq!(group.threads().len(), 51);
    let tids: Vec<Pid> = group.threads().iter().map(rewake_tracee::Tracee::tid).collect();
    let call = Call::new(libc::SYS_gettid, &[]);
    // Together more than a table holds, the last one alone already; some have nothing to do.
    let mut work: Vec<_> = tids.iter().enumerate().map(|(i, &tid)| (tid, vec![call; i])).collect();
    work.last_mut().unwrap().1 = vec![call; 2500];
    // A thread may come up twice.
    work.push((tids[1], vec![call; 2]));
    let mut remote = group.remote().unwrap();
    remote.batch_on(&mut work).unwrap();
    for (tid, calls) in &work {
        assert!(calls.iter().all(|c| c.result() == Ok(number(*tid))), "thread {tid}");
    }
    assert_eq!(remote.call_on(tids[7], libc::SYS_gettid, &[]).unwrap(), number(tids[7]));
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "S");
}

/// After an error on one thread, none of the others is left running.
#[test]
fn an_unknown_thread_does_not_harm_the_others() {
    let task = threads_of_python(5);
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let mut work: Vec<_> = group.threads().iter().map(|t| (t.tid(), vec![Call::default()])).collect();
    work.insert(3, (Pid::from_raw(1), vec![Call::default()]));
    let error = group.remote().unwrap().batch_on(&mut work).unwrap_err();
    assert!(matches!(error, TraceeError::Gone { .. }), "{error}");
    assert_eq!(group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap(), number(task.pid()));
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "S");
}

#[test]
fn the_scratch_area_goes_where_it_is_asked_to() {
    const FREE: u64 = 0x1000_0000;
    let task = Task::spawn("sleep", &["1000"]);
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let first = group.remote().unwrap().scratch();
    let mut remote = group.remote_at(FREE).unwrap();
    assert_eq!(remote.scratch(), FREE..FREE + SCRATCH_LEN);
    assert_eq!(remote.call(libc::SYS_getpid, &[]).unwrap(), number(task.pid()));
    assert!(!maps(task.pid()).contains(&format!("{:x}-", first.start)), "the other one is gone");
    assert!(maps(task.pid()).contains(&format!("{FREE:08x}-")));
    remote.finish().unwrap();
    let taken = u64::from_str_radix(maps(task.pid()).split('-').next().unwrap(), 16).unwrap();
    let error = group.remote_at(taken).unwrap_err();
    assert!(matches!(error, TraceeError::Remote { source: Errno::EEXIST, .. }), "{error}");
}

/// The kernel would show an interrupted sleep as EINTR.
#[test]
fn a_system_call_in_progress_goes_on() {
    // nanosleep continues through the kernel's restart block, select from its changed arguments.
    let scripts = [
        "my $t = pack('qq', 0, 300_000_000); syscall(35, $t, 0); print $! + 0, \"\\n\";",
        "select(undef, undef, undef, 0.3); print $! + 0, \"\\n\";",
    ];
    for script in scripts {
        let mut task = Task::perl(&format!("print \"ready\\n\"; $! = 0; {script}"));
        assert_eq!(task.line(), "ready");
        wait_state(task.pid(), "S");
        for _ in 0..20 {
            let mut group = ThreadGroup::seize(task.pid()).unwrap();
            let mut remote = group.remote().unwrap();
            remote.call(libc::SYS_getpid, &[]).unwrap();
            remote.quiet_call(libc::SYS_getpid, [0; 6]).unwrap();
            group.release(Release::Resume).unwrap();
        }
        assert_eq!(task.line(), "0", "{script}");
    }
}

#[test]
fn registers_and_extended_state() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let (regs, mask) = (*group.leader().saved_regs(), group.leader().saved_sigmask());
    group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap();
    let leader = group.thread_mut(task.pid()).unwrap();
    assert_eq!(leader.regs().unwrap(), regs, "between calls everything is in its place");
    assert_eq!(leader.sigmask().unwrap(), mask);
    let xstate = leader.xstate().unwrap();
    assert!(xstate.len() >= rewake_tracee::XSTATE_MIN);
    leader.set_xstate(&xstate).unwrap();
    let error = leader.set_xstate(&xstate[..512]).unwrap_err();
    assert!(matches!(error, TraceeError::Ptrace { source: Errno::EFAULT, .. }), "{error}");
    let rseq = leader.rseq().expect("the C library registers one");
    assert!(rseq.ptr != 0 && rseq.size >= 32);
}
