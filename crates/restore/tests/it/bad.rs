//! What goes wrong is told, and changes nothing.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;
use rewake_dump::{DumpError, DumpOptions, dump};
use rewake_restore::{RestoreError, RestoreOptions, restore};
use rewake_testkit::{Workload, kernel_test};

use super::{PATIENCE, chain, verdict, wait_state};

pub(crate) fn refused(pid: Pid) -> String {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let error = dump(&DumpOptions::new(pid, &images)).unwrap_err();
    assert!(
        !images.exists() && std::fs::read_dir(dir.path()).unwrap().next().is_none(),
        "something was left"
    );
    chain(&error)
}

kernel_test! {
    fn what_is_no_process_cannot_be_dumped() {
        assert!(refused(Pid::this()).contains("the dumper itself"));
        let mut gone = Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(gone.id()).unwrap());
        wait_state(pid, 'Z');
        assert!(refused(pid).contains("zombie"), "{}", refused(pid));
        gone.wait().unwrap();
        assert!(refused(pid).contains("No such file"), "{}", refused(pid));
    }
}

kernel_test! {
    fn a_changed_library_is_not_restored_onto() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut command = Command::new(&program);
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        wait_state(pid, 'S');
        let images = dir.path().join("images");
        dump(&DumpOptions::new(pid, &images)).unwrap();
        child.wait().unwrap();
        let mut bytes = std::fs::read(&program).unwrap();
        bytes.push(0);
        std::fs::remove_file(&program).unwrap();
        std::fs::write(&program, &bytes).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = restore(&RestoreOptions::new(&images)).unwrap_err();
        assert!(matches!(&error, RestoreError::Files { report } if report.to_string().contains("program")), "{error}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a process was created");
    }
}

kernel_test! {
    fn truncated_and_foreign_images_restore_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let images = dir.path().join("images");
        dump(&DumpOptions::new(workload.pid(), &images)).unwrap();
        workload.wait_end(PATIENCE).unwrap();
        let pid = workload.pid();
        for name in ["inventory.img".to_owned(), "files.img".to_owned(), format!("core-{pid}.img"), format!("mm-{pid}.img"), format!("pagemap-{pid}.img"), "pages-1.img".to_owned()] {
            let path = images.join(&name);
            let whole = std::fs::read(&path).unwrap();
            for bytes in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], b"not an image at all"] {
                std::fs::write(&path, bytes).unwrap();
                let error = restore(&RestoreOptions::new(&images)).unwrap_err();
                assert!(chain(&error).contains(&name), "{name}: {}", chain(&error));
                assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{name}: a process was created");
            }
            std::fs::write(&path, &whole).unwrap();
        }
        restore(&RestoreOptions::new(&images)).unwrap();
        assert_eq!(verdict(&Workload::adopt(pid, dir.path()).unwrap()), "PASS");
    }
}

kernel_test! {
    fn a_full_disk_leaves_nothing_and_the_process_running() {
        use nix::mount::{MsFlags, mount, umount};
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("small");
        std::fs::create_dir(&small).unwrap();
        mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let error = dump(&DumpOptions::new(workload.pid(), small.join("images"))).unwrap_err();
        assert!(chain(&error).contains("No space left"), "{}", chain(&error));
        assert!(!matches!(error, DumpError::Obstacles { .. }));
        assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0, "something was left");
        umount(&small).unwrap();
        assert_eq!(verdict(&workload), "PASS");
    }
}

kernel_test! {
    fn file_locks_are_refused_by_descriptor_whoever_took_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("locked");
        // The first process takes the lock, and ends; the second has inherited it and never asked for one.
        let script = "import fcntl,os,sys,time\nf=open(sys.argv[1],'w'); fcntl.flock(f,fcntl.LOCK_EX)\nif os.fork(): os._exit(0)\nos.setsid()\nopen(sys.argv[1]+'.pid','w').write(str(os.getpid()))\nos.rename(sys.argv[1]+'.pid',sys.argv[1]+'.ready')\ntime.sleep(1000)";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        command.spawn().unwrap().wait().unwrap();
        let ready = dir.path().join("locked.ready");
        while !ready.exists() {
            std::thread::yield_now();
        }
        let pid = Pid::from_raw(std::fs::read_to_string(&ready).unwrap().parse().unwrap());
        let said = refused(pid);
        assert!(said.contains("descriptor 3 (") && said.contains("FLOCK"), "{said}");
        let listed = rewake_dump::preflight(&DumpOptions::new(pid, "nowhere")).unwrap();
        assert!(listed.iter().any(|obstacle| obstacle.reason.contains("FLOCK")), "{listed:?}");
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

kernel_test! {
    fn a_local_descriptor_table_is_refused_and_the_process_goes_on() {
        const MODIFY_LDT: i64 = 154;
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        // struct user_desc: entry, base, limit, flags of a 32-bit data segment.
        let script = format!("import ctypes,os,struct,sys,time\ndone=ctypes.CDLL(None).syscall({MODIFY_LDT},1,struct.pack('IIII',0,0,0xfffff,0x51),16)\nopen(sys.argv[1]+'.made','w').write(str(done))\nos.rename(sys.argv[1]+'.made',sys.argv[1])\ntime.sleep(1000)");
        let mut command = Command::new("python3");
        command.args(["-c", &script]).arg(&ready).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        rewake_testkit::detach(&mut command);
        let mut child = command.spawn().unwrap();
        while !ready.exists() {
            std::thread::yield_now();
        }
        // A kernel built without it has nothing that could be lost.
        if std::fs::read_to_string(&ready).unwrap() == "0" {
            let said = refused(Pid::from_raw(child.id().cast_signed()));
            assert!(said.contains("modify_ldt"), "{said}");
        }
        assert!(child.try_wait().unwrap().is_none(), "it goes on");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A process that has done `what` with `f`, the file at `path`, which is its descriptor 3.
fn python(path: &Path, what: &str) -> (Child, Pid) {
    let script = format!(
        "import ctypes,fcntl,os,resource,struct,subprocess,sys,threading,time\nf=open(sys.argv[1])\n{what}\nopen(sys.argv[1]+'.made','w').close()\nos.rename(sys.argv[1]+'.made',sys.argv[1]+'.ready')\ntime.sleep(1000)"
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]).arg(path).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    rewake_testkit::detach(&mut command);
    let mut child = command.spawn().unwrap();
    let ready = path.with_extension("ready");
    while !ready.exists() {
        assert!(child.try_wait().unwrap().is_none(), "python3 ended");
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(child.id().cast_signed());
    (child, pid)
}

/// More descriptors than preflight looks at closely.
const MANY: &str =
    "resource.setrlimit(resource.RLIMIT_NOFILE,(2000,2000)); more=[open('/dev/null') for _ in range(1100)]";

kernel_test! {
    fn locks_and_leases_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind, call) in [
            ("flock", "FLOCK", "fcntl.flock(f,fcntl.LOCK_SH)"),
            ("posix", "POSIX", "fcntl.lockf(f,fcntl.LOCK_SH,3,5)"),
            // Type (of reading), whence, start, length, pid.
            ("open-file", "OFDLCK", "fcntl.fcntl(f,37,struct.pack('hhqqi4x',0,0,0,0,0))"),
            ("lease", "LEASE", "fcntl.fcntl(f,fcntl.F_SETLEASE,fcntl.F_RDLCK)"),
        ] {
            for (number, more) in ["", MANY].into_iter().enumerate() {
                let file = dir.path().join(format!("{name}-{number}"));
                std::fs::write(&file, "content").unwrap();
                let (mut child, pid) = python(&file, &format!("{more}\n{call}"));
                let said = refused(pid);
                child.kill().unwrap();
                child.wait().unwrap();
                assert!(said.contains("descriptor 3 (") && said.contains(kind), "{more}: {said}");
            }
        }
    }
}

kernel_test! {
    fn a_path_that_does_not_lead_to_the_file_is_refused_among_few_and_many() {
        let dir = tempfile::tempdir().unwrap();
        for (number, more) in ["", MANY].into_iter().enumerate() {
            let file = dir.path().join(format!("{number}"));
            std::fs::write(&file, "content").unwrap();
            std::fs::hard_link(&file, file.with_extension("other")).unwrap();
            let (mut child, pid) = python(&file, &format!("{more}\nos.unlink(sys.argv[1])"));
            let said = refused(pid);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(said.contains("descriptor 3 (") && said.contains("was removed"), "{more}: {said}");
        }
    }
}

kernel_test! {
    fn children_are_refused_whichever_thread_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let start = "child=lambda: subprocess.Popen(['sleep','1000'],process_group=0)";
        for (name, thread) in [
            ("first", "child()"),
            ("second", "t=threading.Thread(target=lambda: (child(), e.set(), time.sleep(1000))); t.daemon=True; e=threading.Event(); t.start(); e.wait()"),
        ] {
            let file = dir.path().join(name);
            std::fs::write(&file, "").unwrap();
            let (mut child, pid) = python(&file, &format!("{start}\n{thread}"));
            let said = refused(pid);
            let listed = rewake_dump::preflight(&DumpOptions::new(pid, "nowhere")).unwrap();
            let [obstacle] = listed.as_slice() else { panic!("{listed:?}") };
            let theirs = obstacle.object.strip_prefix("child ").unwrap().parse().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            nix::sys::signal::kill(Pid::from_raw(theirs), nix::sys::signal::Signal::SIGKILL).unwrap();
            assert!(said.contains(&obstacle.object), "{name}: {said}");
        }
    }
}

kernel_test! {
    fn a_process_that_traces_another_is_refused() {
        const PTRACE_SEIZE: u32 = 0x4206;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tracer");
        std::fs::write(&file, "").unwrap();
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let seize = format!("assert ctypes.CDLL(None).ptrace({PTRACE_SEIZE},{},0,0)==0", other.id());
        let (mut child, pid) = python(&file, &seize);
        let said = refused(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(said.contains("traces another process"), "{said}");
    }
}

kernel_test! {
    /// The signal of a lease that is broken would end it.
    fn a_leased_file_is_not_opened_by_a_dump() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("leased");
        std::fs::write(&file, [1; 5000]).unwrap();
        let (mut child, pid) = python(&file, "f=open(sys.argv[1],'r+'); fcntl.fcntl(f,fcntl.F_SETLEASE,fcntl.F_WRLCK)");
        let mut options = DumpOptions::new(pid, dir.path().join("images"));
        options.after = rewake_dump::After::LeaveRunning;
        options.file_locks = true;
        dump(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(child.try_wait().unwrap().is_none(), "it was ended");
        let info = |fd: u32| std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        assert!((3..9).any(|fd| info(fd).contains("LEASE  ACTIVE")), "the lease is gone");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

kernel_test! {
    fn a_lock_that_somebody_took_meanwhile_is_told_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let workload = Workload::spawn("file-locks", dir.path()).unwrap();
        let (pid, images) = (workload.pid(), dir.path().join("images"));
        let mut options = DumpOptions::new(pid, &images);
        options.file_locks = true;
        dump(&options).unwrap();
        workload.wait_end(PATIENCE).unwrap();
        let file = std::fs::File::open(dir.path().join("exclusive")).unwrap();
        file.lock().unwrap();
        match restore(&RestoreOptions::new(&images)) {
            Err(RestoreError::Locked { path }) => assert_eq!(path.file_name().unwrap(), "exclusive"),
            other => panic!("{other:?}"),
        }
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "something is left");
        file.unlock().unwrap();
        restore(&RestoreOptions::new(&images)).unwrap();
        assert_eq!(verdict(&Workload::adopt(pid, dir.path()).unwrap()), "PASS");
    }
}

kernel_test! {
    fn a_full_disk_leaves_no_copy_of_the_process() {
        use nix::mount::{MsFlags, mount, umount};
        let dir = tempfile::tempdir().unwrap();
        let small = dir.path().join("small");
        std::fs::create_dir(&small).unwrap();
        mount(Some("tmpfs"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=8k")).unwrap();
        let workload = Workload::spawn("minimal", dir.path()).unwrap();
        let pid = workload.pid();
        let mut options = DumpOptions::new(pid, small.join("images"));
        options.after = rewake_dump::After::LeaveRunning;
        options.snapshot = true;
        let error = dump(&options).unwrap_err();
        assert!(chain(&error).contains("No space left"), "{}", chain(&error));
        assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0, "something was left");
        umount(&small).unwrap();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        assert_eq!(children, "", "a copy, or what remains of one, is left in the process");
        assert_eq!(verdict(&workload), "PASS");
    }
}
