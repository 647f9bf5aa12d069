//! A process of a given size, for benches: `rewake-load READY [--memory BYTES] [--threads N] [--mappings N]
//! [--descriptors N]`. It writes to the FIFO `READY` once everything is there, and then only waits.
#![allow(clippy::print_stderr, reason = "what is wrong with the arguments is told to whoever typed them")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// Small, so that a thousand of them are threads and not memory.
const STACK_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Size {
    memory: usize,
    threads: usize,
    mappings: usize,
    descriptors: usize,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((ready, size)) = parse(&args) else {
        eprintln!("usage: rewake-load READY [--memory BYTES] [--threads N] [--mappings N] [--descriptors N]");
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
            _ => return None,
        }
    }
    Some((ready, size))
}

fn hold(ready: &Path, size: &Size) -> io::Result<std::convert::Infallible> {
    let memory = noise(size.memory);
    map(size.mappings)?;
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
