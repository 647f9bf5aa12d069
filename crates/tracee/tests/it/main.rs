//! Real processes under control.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;
use rewake_tracee::{Call, Release, ThreadGroup, TraceeError};

/// A child that is killed and reaped when the test ends.
struct Task(Child);

impl Task {
    fn spawn(program: &str, args: &[&str]) -> Self {
        let child = Command::new(program).args(args).stdout(Stdio::null()).spawn().unwrap();
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn maps(pid: Pid) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

/// Waits until the state letter of the task is one of `states`.
fn wait_state(pid: Pid, states: &str) {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        if rest.starts_with(|c| states.contains(c)) {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn calls_run_in_the_task_and_leave_nothing_behind() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    let before = maps(task.pid());
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let mut remote = group.remote().unwrap();
    assert_eq!(remote.call(libc::SYS_getpid, &[]).unwrap(), task.0.id().into());
    let mut calls = vec![Call::new(libc::SYS_getppid, &[]); 3000];
    calls.push(Call::new(libc::SYS_close, &[99]));
    remote.batch(&mut calls).unwrap();
    let (last, others) = calls.split_last().unwrap();
    assert!(others.iter().all(|c| c.result() == Ok(std::process::id().into())));
    assert_eq!(last.result(), Err(nix::errno::Errno::EBADF));
    group.release(Release::Resume).unwrap();
    assert_eq!(maps(task.pid()), before);
    wait_state(task.pid(), "S");
}

/// The kernel would show an interrupted sleep as EINTR; perl's sleep then returns early and prints.
#[test]
fn a_system_call_in_progress_goes_on() {
    use std::io::Read;
    let script = "$|=1; my $n = select(undef, undef, undef, 0.3); print $! + 0, \"\\n\";";
    let mut child = Command::new("perl").args(["-e", script]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    wait_state(pid, "S");
    for _ in 0..20 {
        let mut group = ThreadGroup::seize(pid).unwrap();
        group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap();
        group.release(Release::Resume).unwrap();
    }
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.wait().unwrap();
    assert_eq!(out, "0\n");
}

#[test]
fn killed_means_gone() {
    let mut task = Task::spawn("sleep", &["1000"]);
    let group = ThreadGroup::seize(task.pid()).unwrap();
    group.release(Release::Kill).unwrap();
    let status = task.0.try_wait().unwrap();
    assert!(status.is_some(), "it has ended");
}

#[test]
fn a_stopped_task_stays_stopped_and_continues() {
    use nix::sys::signal::{Signal, kill};
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    kill(task.pid(), Signal::SIGSTOP).unwrap();
    wait_state(task.pid(), "T");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    assert_eq!(group.leader().stop_signal(), Some(libc::SIGSTOP));
    assert_eq!(group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap(), task.0.id().into());
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "T");
    kill(task.pid(), Signal::SIGCONT).unwrap();
    wait_state(task.pid(), "S");
}

#[test]
fn left_stopped() {
    let task = Task::spawn("sleep", &["1000"]);
    let group = ThreadGroup::seize(task.pid()).unwrap();
    group.release(Release::Stop).unwrap();
    wait_state(task.pid(), "T");
}

#[test]
fn what_cannot_be_seized_is_told() {
    let mut zombie = Task::spawn("true", &[]);
    wait_state(zombie.pid(), "Z");
    assert!(matches!(ThreadGroup::seize(zombie.pid()), Err(TraceeError::Zombie { .. })));
    zombie.0.wait().unwrap();
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

fn mask_line(pid: Pid, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find(|l| l.starts_with(name)).unwrap().to_owned()
}

/// A trap makes the kernel reset an ignored or blocked SIGTRAP; the program must not notice.
#[test]
fn handling_of_sigtrap_is_untouched() {
    let scripts = [
        "$SIG{TRAP} = 'IGNORE';",
        "$SIG{TRAP} = sub { print 'trapped' };",
        "use POSIX; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(5));",
        "use POSIX; $SIG{TRAP} = 'IGNORE'; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(5));",
    ];
    for script in scripts {
        let script = format!("{script} $0 = 'ready'; sleep 1000;");
        let task = Task::spawn("perl", &["-e", &script]);
        while std::fs::read_to_string(format!("/proc/{}/comm", task.pid())).unwrap() != "ready\n" {
            std::thread::yield_now();
        }
        wait_state(task.pid(), "S");
        let lines = || ["SigBlk", "SigIgn", "SigCgt"].map(|name| mask_line(task.pid(), name));
        let before = lines();
        let mut group = ThreadGroup::seize(task.pid()).unwrap();
        group.remote().unwrap().call(libc::SYS_getpid, &[]).unwrap();
        group.release(Release::Resume).unwrap();
        assert_eq!(lines(), before, "{script}");
        wait_state(task.pid(), "S");
    }
}

/// Every thread runs its own calls, at once.
#[test]
fn threads_run_their_own_calls() {
    let script = "import threading\nfor i in range(50): threading.Thread(target=threading.Event().wait, daemon=True).start()\nopen('/proc/self/comm','w').write('ready')\nthreading.Event().wait()";
    let task = Task::spawn("python3", &["-c", script]);
    while std::fs::read_to_string(format!("/proc/{}/comm", task.pid())).unwrap() != "ready\n" {
        std::thread::yield_now();
    }
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    assert_eq!(group.threads().len(), 51);
    let tids: Vec<Pid> = group.threads().iter().map(rewake_tracee::Tracee::tid).collect();
    let call = Call::new(libc::SYS_gettid, &[]);
    let mut work: Vec<_> = tids.iter().map(|&tid| (tid, vec![call; 40])).collect();
    group.remote().unwrap().batch_on(&mut work).unwrap();
    for (tid, calls) in &work {
        assert!(calls.iter().all(|c| c.result() == Ok(u64::try_from(tid.as_raw()).unwrap())));
    }
    group.release(Release::Resume).unwrap();
}
