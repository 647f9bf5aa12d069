//! `rewake demo`: a program is checkpointed, killed and woken up again, before your eyes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rewake_dump::DumpOptions;
use rewake_images::Checkpoint;
use rewake_restore::RestoreOptions;

/// Checkpoint a program, kill it, and wake it up again
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep the checkpoint here instead of removing it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Be the program of the demonstration
    #[arg(long, hide = true)]
    program: bool,
}

pub(crate) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<u8> {
    if args.program {
        return program::run();
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo needs root: it controls a process and chooses its pid"
    );
    let work = Work::new()?;
    let images = args.keep.clone().unwrap_or_else(|| work.0.join("checkpoint"));
    let mut program = Program::start(&work.0)?;
    let before = program.report()?;
    writeln!(
        out,
        "A program runs as pid {}: threads that count, a heap, an open file, a pipe, a timer.",
        program.pid
    )?;
    writeln!(out, "  it says        {before}")?;

    let dumped = rewake_dump::dump(&DumpOptions::new(program.pid, &images))?;
    program.reap()?;
    writeln!(
        out,
        "\nDumped in {:.1} ms (frozen for {:.1} ms) and killed.",
        ms(dumped.total),
        ms(dumped.frozen)
    )?;
    show(&images, out)?;

    let restored = rewake_restore::restore(&RestoreOptions::new(&images))?;
    let after = program.report()?;
    writeln!(out, "\nRestored in {:.1} ms, as pid {} again.", ms(restored.total), restored.pid)?;
    writeln!(out, "  it says        {after}")?;
    let verdict = program.finish()?;
    writeln!(out, "  at its end     {verdict}")?;
    ensure!(verdict.starts_with("all is well"), "the program lost something: {verdict}");
    writeln!(out, "\nIt went on where it was.")?;
    Ok(crate::DONE)
}

fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What is in the checkpoint.
fn show(images: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(images)?;
    for task in checkpoint.tasks()? {
        let core = checkpoint.core(task.pid.into())?;
        let name = core.tc.map(|tc| tc.comm).unwrap_or_default();
        let mut tree = termtree::Tree::new(format!("{} {name}", task.pid));
        for tid in task.threads.iter().filter(|&&tid| tid != task.pid) {
            let core = checkpoint.core(u64::from(*tid))?;
            let name = core.thread_core.and_then(|thread| thread.comm).unwrap_or_default();
            tree.push(format!("thread {tid} {name}"));
        }
        let pages = checkpoint.memory(task.pid.into())?.pages();
        tree.push(format!("{pages} pages of memory, {:.1} MiB", mib(pages * rewake_images::PAGE_SIZE)));
        write!(out, "{tree}")?;
    }
    let (mut files, mut bytes) = (0, 0);
    for (_, _, path) in checkpoint.images()? {
        files += 1;
        bytes += fs::metadata(path)?.len();
    }
    writeln!(out, "{files} images, {:.1} MiB, in {}", mib(bytes), images.display())?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A directory that goes away with the demonstration.
struct Work(PathBuf);

impl Work {
    fn new() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("rewake-demo-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, told what to do by signals, heard through a file.
struct Program {
    pid: Pid,
    child: Option<Child>,
    said: PathBuf,
    heard: usize,
    done: bool,
}

impl Program {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let said = dir.join("said");
        let file = fs::File::create(&said)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo", "--program"]).current_dir(dir).process_group(0);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(file);
        let child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        Ok(Self { pid, child: Some(child), said, heard: 0, done: false })
    }

    /// The next line it says.
    fn hear(&mut self) -> anyhow::Result<String> {
        let begun = std::time::Instant::now();
        loop {
            let file = BufReader::new(fs::File::open(&self.said)?);
            let text: Vec<String> = file.lines().collect::<Result<_, _>>()?;
            let whole = fs::read(&self.said)?.ends_with(b"\n");
            if let Some(line) = text.get(self.heard).filter(|_| whole || text.len() > self.heard + 1) {
                self.heard += 1;
                return Ok(line.clone());
            }
            if begun.elapsed().as_secs() > 20 || kill(self.pid, None).is_err() {
                bail!("the program went silent");
            }
            std::thread::yield_now();
        }
    }

    fn report(&mut self) -> anyhow::Result<String> {
        if self.heard == 0 {
            // Its first line says that it is ready for questions.
            self.hear()?;
        }
        kill(self.pid, Signal::SIGUSR1)?;
        self.hear()
    }

    fn finish(&mut self) -> anyhow::Result<String> {
        kill(self.pid, Signal::SIGTERM)?;
        let verdict = self.hear()?;
        nix::sys::wait::waitpid(self.pid, None)?;
        self.done = true;
        Ok(verdict)
    }

    /// Takes note of the end of the original.
    fn reap(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.done && kill(self.pid, Signal::SIGKILL).is_ok() {
            let _ = nix::sys::wait::waitpid(self.pid, None);
        }
    }
}

/// What is checkpointed: it counts, and answers signals.
mod program {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
    use std::thread;

    use nix::sys::signal::{SigEvent, SigSet, SigevNotify, SigmaskHow, Signal, sigprocmask};
    use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
    use nix::time::ClockId;

    static COUNTS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
    static END: AtomicBool = AtomicBool::new(false);

    /// Counts for itself and for all to see; both must agree in the end.
    fn count(shared: &AtomicU64) -> bool {
        let mut own = 0;
        while !END.load(SeqCst) {
            own += 1;
            shared.store(own, SeqCst);
            thread::yield_now();
        }
        shared.load(SeqCst) == own
    }

    pub(super) fn run() -> anyhow::Result<u8> {
        close_foreign()?;
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGUSR1, Signal::SIGTERM, Signal::SIGALRM] {
            signals.add(signal);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
        let heap: Vec<u64> = (0..1 << 20).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let mut file =
            File::options().read(true).write(true).create(true).truncate(true).open("demo-file")?;
        file.write_all(b"written before")?;
        let (from, to) = nix::unistd::pipe()?;
        nix::unistd::write(&to, b"in flight")?;
        let counters: Vec<_> = COUNTS.iter().map(|shared| thread::spawn(|| count(shared))).collect();
        let _timer = alarm()?;
        let mut out = std::io::stdout();
        writeln!(out, "ready")?;
        let mut ticks = 0_u64;
        loop {
            match signals.wait()? {
                Signal::SIGALRM => ticks += 1,
                Signal::SIGUSR1 => {
                    let counts: Vec<u64> = COUNTS.iter().map(|c| c.load(SeqCst)).collect();
                    writeln!(out, "counted to {counts:?}, {ticks} ticks of the timer")?;
                }
                _ => break,
            }
        }
        END.store(true, SeqCst);
        let counted = counters.into_iter().all(|counter| counter.join().unwrap_or(false));
        let intact = (0..1 << 20).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).eq(heap);
        let mut queued = [0; 9];
        let piped = nix::unistd::read(&from, &mut queued)? == 9 && &queued == b"in flight";
        file.write_all(b" and after")?;
        file.rewind()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let written = text == "written before and after";
        let ticked = ticks > 0;
        if counted && intact && piped && written && ticked {
            writeln!(out, "all is well: counters, 8 MiB of heap, file, pipe and timer")?;
        } else {
            writeln!(
                out,
                "lost: counted {counted}, heap {intact}, pipe {piped}, file {written}, timer {ticked}"
            )?;
        }
        Ok(crate::DONE)
    }

    /// Starts a timer that ticks every five milliseconds, as long as it is kept.
    fn alarm() -> nix::Result<Timer> {
        let signal = SigevNotify::SigevSignal { signal: Signal::SIGALRM, si_value: 0 };
        let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(signal))?;
        let interval = std::time::Duration::from_millis(5);
        timer.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty())?;
        Ok(timer)
    }

    /// Whoever started the demonstration may have left descriptors open; they would lead out of the process.
    fn close_foreign() -> anyhow::Result<()> {
        let names: Vec<_> =
            std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name()).collect();
        for fd in names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()).filter(|&fd| fd > 2) {
            // The one the list was read from is closed already.
            let _ = nix::unistd::close(fd);
        }
        Ok(())
    }
}
