//! Taking hold of processes, and letting go of them.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rewake_tracee::{Release, ThreadGroup, TraceeError};

use crate::process::{Task, maps, state, wait_state};

const THREADS: &str = "
import threading
go = threading.Event()
results = []
def work(i):
    go.wait()
    results.append(i)
threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
for t in threads: t.start()
print('ready')
input()
go.set()
for t in threads: t.join()
print(sum(results))
";

#[test]
fn all_threads_stand_and_go_on() {
    let mut task = Task::python(THREADS);
    assert_eq!(task.line(), "ready");
    let group = ThreadGroup::seize(task.pid()).unwrap();
    assert_eq!(group.pid(), task.pid());
    assert_eq!(group.threads().len(), 21);
    assert_eq!(group.leader().tid(), task.pid());
    assert!(group.threads().iter().all(|t| state(t.tid()) == 't' && !t.is_group_stopped()));
    group.release(Release::Resume).unwrap();
    task.say("go");
    assert_eq!(task.line(), "190");
    assert!(task.wait().success());
}

/// Threads come and go while they are being listed.
#[test]
fn threads_that_come_and_go() {
    let mut task = Task::python(
        "
import threading
stop = False
def churn():
    while not stop:
        t = threading.Thread(target=int)
        t.start()
        t.join()
threads = [threading.Thread(target=churn) for _ in range(4)]
for t in threads: t.start()
print('ready')
input()
stop = True
for t in threads: t.join()
print('done')
",
    );
    assert_eq!(task.line(), "ready");
    for _ in 0..100 {
        let mut group = ThreadGroup::seize(task.pid()).unwrap();
        let listed = std::fs::read_dir(format!("/proc/{}/task", task.pid())).unwrap();
        let mut listed: Vec<i32> =
            listed.map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        let mut held: Vec<i32> = group.threads().iter().map(|t| t.tid().as_raw()).collect();
        listed.sort_unstable();
        held.sort_unstable();
        assert_eq!(held, listed, "none is left running");
        group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap();
        group.release(Release::Resume).unwrap();
    }
    task.say("stop");
    assert_eq!(task.line(), "done");
}

#[test]
fn what_cannot_be_seized_is_told() {
    let mut zombie = Task::spawn("true", &[]);
    wait_state(zombie.pid(), "Z");
    assert!(matches!(ThreadGroup::seize(zombie.pid()), Err(TraceeError::Zombie { .. })));
    zombie.wait();
    assert!(matches!(ThreadGroup::seize(zombie.pid()), Err(TraceeError::Gone { .. })));
    assert!(matches!(ThreadGroup::seize(Pid::this()), Err(TraceeError::Myself { .. })));
    let task = Task::spawn("sleep", &["1000"]);
    let _first = ThreadGroup::seize(task.pid()).unwrap();
    let second = ThreadGroup::seize(task.pid()).unwrap_err();
    assert!(
        matches!(second, TraceeError::Traced { tracer, .. } if tracer == nix::unistd::gettid()),
        "{second}"
    );
}

#[test]
fn a_thread_is_not_a_process() {
    let mut task = Task::python(THREADS);
    assert_eq!(task.line(), "ready");
    let group = ThreadGroup::seize(task.pid()).unwrap();
    let tid = group.threads().last().unwrap().tid();
    drop(group);
    let error = ThreadGroup::seize(tid).unwrap_err();
    assert!(matches!(error, TraceeError::NotAProcess { process, .. } if process == task.pid()), "{error}");
}

#[test]
fn a_kernel_thread_is_told() {
    let kthreadd = Pid::from_raw(2);
    match std::fs::read_to_string("/proc/2/comm") {
        Ok(name) if name == "kthreadd\n" => {
            let error = ThreadGroup::seize(kthreadd).unwrap_err();
            assert!(matches!(error, TraceeError::KernelThread { .. }), "{error}");
        }
        _ => println!("skipped: no thread of the kernel is visible here"),
    }
}

#[test]
fn dropped_it_goes_on() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    let before = maps(task.pid());
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    group.remote().unwrap();
    assert_ne!(maps(task.pid()), before, "the scratch area is there");
    drop(group);
    assert_eq!(maps(task.pid()), before);
    wait_state(task.pid(), "S");
}

/// Whoever holds it may be killed: between remote calls, nothing is left that harms the program.
#[test]
fn survives_the_death_of_its_holder() {
    let mut task = Task::python(THREADS);
    assert_eq!(task.line(), "ready");
    wait_state(task.pid(), "S");
    let mut holder = Task::program("hold");
    holder.say(&task.pid().to_string());
    holder.line_after("holding");
    assert_eq!(state(task.pid()), 't');
    holder.signal(Signal::SIGKILL);
    holder.wait();
    wait_state(task.pid(), "S");
    task.say("go");
    assert_eq!(task.line(), "190");
    assert!(task.wait().success());
}

#[test]
fn killed_means_gone() {
    let mut task = Task::python(THREADS);
    assert_eq!(task.line(), "ready");
    let group = ThreadGroup::seize(task.pid()).unwrap();
    group.release(Release::Kill).unwrap();
    assert!(task.try_wait().is_some(), "it has ended, and can be waited for");
}

#[test]
fn killed_means_gone_for_a_stranger() {
    let mut parent = Task::perl("my $p = fork // die; if (!$p) { pause while 1 } print \"$p\\n\"; <STDIN>;");
    let child = Pid::from_raw(parent.line().parse().unwrap());
    let group = ThreadGroup::seize(child).unwrap();
    group.release(Release::Kill).unwrap();
    assert!("ZX".contains(state(child)), "only its parent has still to notice");
}

/// Somebody else kills it while it is held.
#[test]
fn killed_by_others() {
    use std::os::unix::process::ExitStatusExt;
    let mut task = Task::python(THREADS);
    assert_eq!(task.line(), "ready");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    group.remote().unwrap();
    task.signal(Signal::SIGKILL);
    let error = group.release(Release::Resume).unwrap_err();
    assert!(matches!(error, TraceeError::Died { .. }), "{error}");
    assert_eq!(task.wait().signal(), Some(libc::SIGKILL));
}

#[test]
fn left_stopped() {
    let task = Task::spawn("sleep", &["1000"]);
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    group.remote().unwrap();
    group.release(Release::Stop).unwrap();
    wait_state(task.pid(), "T");
    task.signal(Signal::SIGCONT);
    wait_state(task.pid(), "S");
}

/// Remote calls are not judged by the program's own filter; where that cannot be had, they are not made.
#[test]
fn a_program_under_seccomp() {
    // Strict mode: any call but read, write and exit kills it.
    let mut task = Task::perl(
        "syscall(157, 22, 1, 0, 0, 0); syswrite STDOUT, \"ready\\n\"; sysread STDIN, my $b, 9;
         syswrite STDOUT, $b; sysread STDIN, $b, 9;",
    );
    assert_eq!(task.line(), "ready");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let pid = group.remote().and_then(|mut remote| remote.call(libc::SYS_getpid, &[]));
    match pid {
        Ok(pid) => assert_eq!(pid, u64::try_from(task.pid().as_raw()).unwrap()),
        Err(TraceeError::Seccomp { tid }) if !nix::unistd::geteuid().is_root() => {
            assert_eq!(tid, task.pid());
        }
        Err(error) => panic!("{error}"),
    }
    group.release(Release::Resume).unwrap();
    task.say("alive");
    assert_eq!(task.line(), "alive");
}

#[test]
fn a_program_that_handles_system_calls_itself() {
    // PR_SET_SYSCALL_USER_DISPATCH, with a selector that lets all calls through for now.
    let mut task = Task::perl(
        "my $selector = \"\\0\"; my $set = syscall(157, 59, 1, 0, 0, $selector); syswrite STDOUT, \"$set\\n\";
         sysread STDIN, my $b, 9; syswrite STDOUT, $b; sysread STDIN, $b, 9;",
    );
    let set = task.line() == "0";
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    match group.remote().map(drop) {
        Err(TraceeError::UserDispatch { tid }) => assert_eq!((tid, set), (task.pid(), true)),
        other => assert!(other.is_ok() && !set, "{other:?}"),
    }
    group.release(Release::Resume).unwrap();
    task.say("alive");
    assert_eq!(task.line(), "alive");
}
