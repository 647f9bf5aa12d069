#![allow(unsafe_code, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::print_stdout, missing_docs)]
use rewake_memdump::*;
use std::time::Instant;
fn main() {
    let pid = nix::unistd::Pid::this();
    let n = 10_000usize;
    unsafe {
        let p = libc::mmap(std::ptr::null_mut(), n * 2 * 4096, 3, 0x22, -1, 0) as *mut u8;
        for i in 0..n {
            *p.add(i * 8192) = 1;
            libc::mprotect(p.add(i * 8192 + 4096).cast(), 4096, 1);
        }
    }
    let t = Instant::now();
    let a = areas(pid).unwrap();
    println!("smaps {} {:?}", a.len(), t.elapsed());
    let t = Instant::now();
    let m = maps(pid).unwrap();
    println!("maps {} {:?}", m.len(), t.elapsed());
    for _ in 0..3 {
        let t = Instant::now();
        let s = survey(pid, &a).unwrap();
        println!("survey {} {:?}", s.iter().map(|x| x.runs.len()).sum::<usize>(), t.elapsed());
    }
    let size = 1usize << 30;
    let addr = unsafe {
        let p = libc::mmap(std::ptr::null_mut(), size, 3, 0x22, -1, 0) as *mut u8;
        libc::madvise(p.cast(), size, libc::MADV_NOHUGEPAGE);
        for i in 0..size / 4096 {
            *p.add(i * 4096) = i as u8;
        }
        p as u64
    };
    let mut a = areas(pid).unwrap();
    a.retain(|x| x.start <= addr && addr < x.end);
    let t = Instant::now();
    let s = survey(pid, &a).unwrap();
    println!("survey 1G {:?} runs {}", t.elapsed(), s[0].runs.len());
    let plan: PagePlan = s.into_iter().flat_map(|p| p.runs).collect();
    for threads in [1, 2, 1, 2, 1, 2] {
        let out = tempfile::tempfile_in(std::env::args().nth(1).unwrap()).unwrap();
        let t = Instant::now();
        let st = capture(pid, &plan, &out, &CaptureOptions { threads, ..Default::default() }).unwrap();
        println!("capture {threads} {} {:?}", st.pages, t.elapsed());
    }
}
