//! A process of a given size, for benches: `rewake-load READY [--memory BYTES] [--threads N] [--mappings N]
//! [--descriptors N] [--writes BYTES] [--huge BYTES]`, the last of memory in huge pages. It writes to the FIFO `READY` once everything is there, and then only waits, or
//! writes so many bytes a second to its memory, a page after the other.
#![allow(clippy::print_stderr, reason = "what is wrong with the arguments is told to whoever typed them")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};

/// Small, so that a thousand of them are threads and not memory.
const STACK_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Size {
    memory: usize,
    threads: usize,
    mappings: usize,
    descriptors: usize,
    writes: usize,
    huge: usize,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((ready, size)) = parse(&args) else {
        eprintln!(
            "usage: rewake-load READY [--memory BYTES] [--threads N] [--mappings N] [--descriptors N] [--writes BYTES] [--huge BYTES]"
        );
        return ExitCode::from(2);
    };
    match hold(Path::new(ready), &size) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("rewake-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Option<(&str, Size)> {
    let (ready, rest) = args.split_first()?;
    let mut size = Size::default();
    for pair in rest.chunks(2) {
        let [name, value] = pair else { return None };
        let value = value.parse().ok()?;
        match name.as_str() {
            "--memory" => size.memory = value,
            "--threads" => size.threads = value,
            "--mappings" => size.mappings = value,
            "--descriptors" => size.descriptors = value,
            "--writes" => size.writes = value,
            "--huge" => size.huge = value,
            _ => return None,
        }
    }
    Some((ready, size))
}

fn hold(ready: &Path, size: &Size) -> io::Result<std::convert::Infallible> {
    let mut memory = noise(size.memory);
    map(size.mappings)?;
    touch_huge(size.huge)?;
    let directory = ready.parent().unwrap_or(Path::new("."));
    let files: Vec<File> = (0..size.descriptors)
        .map(|n| {
            let mut file = File::create(directory.join(format!("file-{n}")))?;
            file.write_all(b"some content")?;
            Ok(file)
        })
        .collect::<io::Result<_>>()?;
    for _ in 1..size.threads {
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
            loop {
                std::thread::park();
            }
        })?;
    }
    fs::write(ready, "ready")?;
    if size.writes > 0 && !memory.is_empty() {
        write_on(&mut memory, size.writes);
    }
    loop {
        std::thread::park();
        std::hint::black_box((&memory, &files));
    }
}

/// Memory without a page that is like another.
fn noise(bytes: usize) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
    .take(bytes / size_of::<u64>())
    .collect()
}

const PAGE_BYTES: usize = 4096;

/// Changes pages of `memory` for ever, so many bytes of them a second.
fn write_on(memory: &mut [u64], bytes_a_second: usize) {
    const TICKS: usize = 1000;
    let pages_a_tick = bytes_a_second.div_ceil(PAGE_BYTES * TICKS);
    let tick = Duration::from_secs(1) / u32::try_from(TICKS).expect("a small number");
    let mut next = Instant::now();
    let words = PAGE_BYTES / size_of::<u64>();
    let mut at = 0;
    loop {
        for _ in 0..pages_a_tick {
            if let Some(word) = memory.get_mut(at) {
                *word = word.wrapping_add(1);
            }
            at = if at + words < memory.len() { at + words } else { 0 };
        }
        std::hint::black_box(&memory);
        // What it is late it does not catch up with: after a stop it goes on as before.
        next = next.max(Instant::now()) + tick;
        // A rate is what this load is: so many pages in a time.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Mappings of a page each, every second one read-only, or the kernel would make one of them.
#[expect(unsafe_code, reason = "mapping memory")]
fn map(mappings: usize) -> io::Result<()> {
    let page = std::num::NonZeroUsize::new(4096).expect("it is not zero");
    for n in 0..mappings {
        let write = n % 2 == 0;
        let prot = if write { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: the kernel chooses a place where nothing is.
        let at = unsafe { mmap_anonymous(None, page, prot, MapFlags::MAP_PRIVATE) }?;
        if write {
            // SAFETY: a writable page that nobody else knows of.
            unsafe { at.cast::<usize>().write(n) };
        }
    }
    Ok(())
}

/// Memory for which the kernel is asked for huge pages, touched once.
#[expect(unsafe_code, reason = "mapping memory")]
fn touch_huge(bytes: usize) -> io::Result<()> {
    let Some(len) = std::num::NonZeroUsize::new(bytes) else { return Ok(()) };
    let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses a place where nothing is.
    let start = unsafe { mmap_anonymous(None, len, prot, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: advice for the mapping just made, which changes nothing in it. A kernel without huge pages refuses.
    let _ = unsafe { madvise(start, bytes, MmapAdvise::MADV_HUGEPAGE) };
    for at in (0..bytes).step_by(PAGE_BYTES) {
        // SAFETY: inside the mapping.
        let byte = unsafe { start.cast::<u8>().add(at) };
        // SAFETY: the mapping is writable and known to nobody else.
        unsafe { byte.write(1) };
    }
    Ok(())
}
