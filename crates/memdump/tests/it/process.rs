//! A program nobody here wrote, waiting for input, and what happens when it dies.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use rewake_memdump::{
    Area, CaptureError, CaptureOptions, Choice, PagePlan, PageScanner, ProcMem, RemoteMemory, areas, capture,
    choice, maps, same_mappings, survey,
};

/// `cat`, stopped when it has echoed a line, so that it changes nothing any more.
struct Cat(Child);

impl Cat {
    fn start() -> Self {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat is everywhere");
        child.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let cat = Self(child);
        kill(cat.pid(), Signal::SIGSTOP).unwrap();
        waitid(Id::Pid(cat.pid()), WaitPidFlag::WSTOPPED).unwrap();
        cat
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    fn plan(&self, areas: &[Area]) -> PagePlan {
        survey(self.pid(), areas).unwrap().into_iter().flat_map(|pages| pages.runs).collect()
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_whole_process_is_captured() {
    let cat = Cat::start();
    let areas = areas(cat.pid()).unwrap();
    assert!(same_mappings(&areas, &maps(cat.pid()).unwrap()));
    let plan = cat.plan(&areas);
    assert!(plan.total_pages() > 10);
    let memory = ProcMem::open(cat.pid()).unwrap();
    for threads in [1, 2] {
        let out = tempfile::tempfile().unwrap();
        let options = CaptureOptions { threads, buffer_bytes: 16 << 10, progress: None };
        let stats = capture(cat.pid(), &plan, &out, &options).unwrap();
        assert_eq!(stats.bytes, out.metadata().unwrap().len());
        for run in plan.runs() {
            let len = usize::try_from(run.pages * 4096).unwrap();
            let (mut stored, mut live) = (vec![0; len], vec![0; len]);
            out.read_exact_at(&mut stored, run.file_offset).unwrap();
            assert_eq!(memory.read_at(run.start, &mut live).unwrap(), len);
            assert!(stored == live, "{:#x}", run.start);
        }
    }
}

#[test]
fn a_survey_of_all_is_the_surveys_of_each_in_either_way() {
    let cat = Cat::start();
    let areas = areas(cat.pid()).unwrap();
    let all = survey(cat.pid(), &areas).unwrap();
    let mut table = PageScanner::with_table(cat.pid()).unwrap();
    let sees_frames = nix::unistd::geteuid().is_root();
    if !sees_frames {
        println!("skipped: only root can tell the page of zeros in the table");
    }
    for (index, (pages, area)) in all.iter().zip(&areas).enumerate() {
        let alone = survey(cat.pid(), std::slice::from_ref(area)).unwrap().remove(0);
        assert_eq!((pages.area, &pages.runs, &pages.guards), (index, &alone.runs, &alone.guards), "{area:?}");
        if let Choice::Pages(query) = choice(area)
            && sees_frames
        {
            assert_eq!(table.scan(area.range(), &query).unwrap(), pages.runs, "{area:?}");
        }
    }
    assert_eq!(all.len(), areas.len());
}

#[test]
fn a_zombie_has_no_memory() {
    let mut cat = Cat::start();
    let list = areas(cat.pid()).unwrap();
    let plan = cat.plan(&list);
    cat.0.kill().unwrap();
    waitid(Id::Pid(cat.pid()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    let error = areas(cat.pid()).unwrap_err();
    assert!(matches!(error, CaptureError::NoMemory { .. } | CaptureError::Died { .. }), "{error:?}");
    let out = tempfile::tempfile().unwrap();
    let error = capture(cat.pid(), &plan, &out, &CaptureOptions::default()).unwrap_err();
    // The files of a process without memory belong to root.
    let hidden = matches!(error, CaptureError::Proc { .. }) && !nix::unistd::geteuid().is_root();
    assert!(hidden || matches!(error, CaptureError::Died { .. }), "{error:?}");
    assert_eq!(out.metadata().unwrap().len(), 0);
}

#[test]
fn a_process_that_dies_in_between_is_told() {
    let mut cat = Cat::start();
    let list = areas(cat.pid()).unwrap();
    let plan = cat.plan(&list);
    let pid = cat.pid();
    let mut fast = PageScanner::open(pid).unwrap();
    let mut slow = PageScanner::with_table(pid).unwrap();
    let memory = ProcMem::open(pid).unwrap();
    cat.0.kill().unwrap();
    cat.0.wait().unwrap();
    let died = |error: CaptureError| assert!(matches!(error, CaptureError::Died { .. }), "{error:?}");
    died(areas(pid).unwrap_err());
    died(maps(pid).unwrap_err());
    died(survey(pid, &list).unwrap_err());
    died(capture(pid, &plan, &tempfile::tempfile().unwrap(), &CaptureOptions::default()).unwrap_err());
    let error = memory.read_at(plan.runs()[0].start, &mut [0; 8]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    let query = rewake_memdump::PageQuery::default();
    for scanner in [&mut fast, &mut slow] {
        let scanned = scanner.scan(list[0].range(), &query);
        assert!(matches!(scanned, Err(CaptureError::Died { .. })), "{scanned:?}");
    }
}

#[test]
fn a_process_of_our_own_uid_or_root_is_needed() {
    if !nix::unistd::geteuid().is_root() {
        let error = areas(Pid::from_raw(1)).unwrap_err();
        assert!(matches!(error, CaptureError::Proc { .. }), "{error:?}");
    } else {
        println!("skipped: root may read every process");
    }
}
