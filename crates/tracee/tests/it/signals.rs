//! Signals that come, wait or are handled while a process is held.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use rewake_tracee::{Call, PendingQueue, Release, ThreadGroup};

use crate::process::{Task, has_signal, status, wait_state};

/// Some calls, by a trap each and without.
fn disturb(group: &mut ThreadGroup) {
    let mut remote = group.remote().unwrap();
    let pid = u64::try_from(remote.pid().as_raw()).unwrap();
    for _ in 0..3 {
        assert_eq!(remote.call(libc::SYS_getpid, &[]).unwrap(), pid);
        assert_eq!(remote.quiet_call(libc::SYS_getpid, [0; 6]).unwrap(), pid);
    }
}

/// A trap makes the kernel reset an ignored or blocked SIGTRAP; the program must not notice.
#[test]
fn handling_of_sigtrap_is_untouched() {
    let scripts = [
        "$SIG{TRAP} = 'IGNORE';",
        "$SIG{TRAP} = sub { print 'trapped' };",
        "sigprocmask(SIG_BLOCK, POSIX::SigSet->new(5));",
        "$SIG{TRAP} = 'IGNORE'; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(5));",
    ];
    for script in scripts {
        let mut task = Task::perl(&format!("{script} print \"ready\\n\"; <STDIN>; print \"on\\n\";"));
        assert_eq!(task.line(), "ready");
        let lines = || ["SigBlk", "SigIgn", "SigCgt"].map(|name| status(task.pid(), name));
        let before = lines();
        let mut group = ThreadGroup::seize(task.pid()).unwrap();
        disturb(&mut group);
        let mut remote = group.remote().unwrap();
        let data = remote.data();
        remote.call(libc::SYS_rt_sigaction, &[5, 0, data, 8]).unwrap();
        let mut handler = [0; 8];
        remote.read(data, &mut handler).unwrap();
        let ignored = u64::from_ne_bytes(handler) == libc::SIG_IGN as u64;
        assert_eq!(ignored, script.contains("IGNORE"), "{script}: seen from inside");
        group.release(Release::Resume).unwrap();
        assert_eq!(lines(), before, "{script}");
        task.say("");
        assert_eq!(task.line(), "on", "{script}");
    }
}

/// A blocked SIGTRAP of the program's own is taken for none of ours.
#[test]
fn a_pending_sigtrap_stays_pending() {
    // Sent to the process, and to the thread.
    for (send, mask, queue) in [
        ("kill TRAP => $$", "ShdPnd", PendingQueue::Process),
        ("syscall(200, $$ + 0, 5) == 0 or die $!", "SigPnd", PendingQueue::Thread),
    ] {
        let mut task = Task::perl(&format!(
            "my $n = 0; $SIG{{TRAP}} = sub {{ $n++ }}; my $set = POSIX::SigSet->new(5);
             sigprocmask(SIG_BLOCK, $set); {send}; print \"ready\\n\"; <STDIN>;
             sigprocmask(SIG_UNBLOCK, $set); print \"$n\\n\";"
        ));
        assert_eq!(task.line(), "ready");
        assert!(has_signal(task.pid(), mask, libc::SIGTRAP), "{send}");
        let mut group = ThreadGroup::seize(task.pid()).unwrap();
        let before = group.leader().pending(queue).unwrap();
        assert_eq!(before.len(), 1);
        disturb(&mut group);
        assert_eq!(group.leader().pending(queue).unwrap(), before, "{send}: also while it is held");
        group.release(Release::Resume).unwrap();
        assert!(has_signal(task.pid(), mask, libc::SIGTRAP), "{send}");
        task.say("");
        assert_eq!(task.line(), "1", "{send}");
    }
}

/// One that somebody sends meanwhile reaches the program's handler, once.
#[test]
fn a_sigtrap_of_others_is_delivered() {
    let mut task = Task::perl("$SIG{TRAP} = sub { print \"trapped\\n\" }; print \"ready\\n\"; 1 while 1;");
    assert_eq!(task.line(), "ready");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    disturb(&mut group);
    task.signal(Signal::SIGTRAP);
    disturb(&mut group);
    group.release(Release::Resume).unwrap();
    assert_eq!(task.line(), "trapped");
    task.signal(Signal::SIGTERM);
    assert_eq!(task.line(), "", "no more");
}

/// The kernel prefers a synchronous signal to the trap that ends a remote call, though it is blocked.
#[test]
fn a_pending_synchronous_signal_stays_pending() {
    // SI_KERNEL, which a thread may send to itself.
    let mut task = Task::perl(
        "sigprocmask(SIG_BLOCK, POSIX::SigSet->new(7, 11));
         for my $s (11, 7) { syscall(297, $$ + 0, $$ + 0, $s, pack('iiiiQ14', $s, 0, 128, 0, 0x1234, (0) x 13)) == 0 or die $! }
         print \"ready\\n\"; <STDIN>; print \"on\\n\";",
    );
    assert_eq!(task.line(), "ready");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    let sorted = |group: &ThreadGroup| {
        let mut infos = group.leader().pending(PendingQueue::Thread).unwrap();
        infos.sort_by_key(|info| info.0);
        infos
    };
    let before = sorted(&group);
    assert_eq!(before.iter().map(|i| (i.signal(), i.code())).collect::<Vec<_>>(), [(7, 128), (11, 128)]);
    disturb(&mut group);
    assert_eq!(sorted(&group), before);
    group.release(Release::Resume).unwrap();
    assert!(has_signal(task.pid(), "SigPnd", 11) && has_signal(task.pid(), "SigPnd", 7));
    task.say("");
    assert_eq!(task.line(), "on");
}

#[test]
fn signals_that_come_meanwhile_are_delivered() {
    let mut task = Task::python(
        "
import signal
usr1 = 0
def handler(*_):
    global usr1
    usr1 += 1
signal.signal(signal.SIGUSR1, handler)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
print('ready')
for _ in range(5): signal.sigwaitinfo([signal.SIGRTMIN])
while not usr1: pass
print(usr1)
",
    );
    assert_eq!(task.line(), "ready");
    let realtime = || {
        // nix knows no real-time signals, kill(1) does.
        let sent = std::process::Command::new("kill").args(["-s", "RTMIN", &task.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    realtime();
    task.signal(Signal::SIGUSR1);
    for _ in 0..4 {
        disturb(&mut group);
        realtime();
    }
    assert_eq!(group.leader().pending(PendingQueue::Process).unwrap().len(), 6);
    group.release(Release::Resume).unwrap();
    assert_eq!(task.line(), "1");
}

/// Signals hit every moment of stopping and letting go, and none is lost.
#[test]
fn a_storm_of_signals() {
    let mut task = Task::python(
        "
import os, signal
os.set_blocking(1, False)
signal.signal(signal.SIGUSR1, lambda *_: None)
print('ready')
# From here on, a byte for every signal that is caught.
signal.set_wakeup_fd(1)
print('steady')
while True: pass
",
    );
    assert_eq!(task.line(), "ready");
    assert_eq!(task.line(), "steady");
    let (pid, done) = (task.pid(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                kill(pid, Signal::SIGUSR1).unwrap();
                assert_eq!(task.byte(), Some(10), "the signal was caught");
            }
        });
        for _ in 0..1000 {
            let mut group = ThreadGroup::seize(pid).unwrap();
            let mut calls = vec![Call::new(libc::SYS_getpid, &[]); 20];
            group.remote().unwrap().batch(&mut calls).unwrap();
            assert!(calls.iter().all(|c| c.result() == Ok(u64::try_from(pid.as_raw()).unwrap())));
            group.release(Release::Resume).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let patience = Instant::now() + Duration::from_secs(10);
        while !storm.is_finished() && Instant::now() < patience {
            std::thread::yield_now();
        }
        // If a signal was lost, this ends the wait for it.
        kill(pid, Signal::SIGKILL).unwrap();
    });
}

#[test]
fn a_stopped_task_stays_stopped_and_continues() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    task.signal(Signal::SIGSTOP);
    wait_state(task.pid(), "T");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    assert_eq!(group.leader().stop_signal(), Some(libc::SIGSTOP));
    assert!(group.leader().is_group_stopped());
    disturb(&mut group);
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "T");
    task.signal(Signal::SIGCONT);
    wait_state(task.pid(), "S");
}

#[test]
fn a_stop_that_comes_meanwhile_takes_effect() {
    let task = Task::spawn("sleep", &["1000"]);
    wait_state(task.pid(), "S");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    disturb(&mut group);
    task.signal(Signal::SIGSTOP);
    disturb(&mut group);
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "T");
    task.signal(Signal::SIGCONT);
    wait_state(task.pid(), "S");
}

#[test]
fn a_continue_that_comes_meanwhile_takes_effect() {
    let task = Task::spawn("sleep", &["1000"]);
    task.signal(Signal::SIGSTOP);
    wait_state(task.pid(), "T");
    let mut group = ThreadGroup::seize(task.pid()).unwrap();
    disturb(&mut group);
    task.signal(Signal::SIGCONT);
    disturb(&mut group);
    group.release(Release::Resume).unwrap();
    wait_state(task.pid(), "S");
}
