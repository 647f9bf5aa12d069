//! How far a command is, on a terminal, and its end by a signal.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rewake_dump::Progress;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What takes less time than this has no bar.
const SHORT: Duration = Duration::from_millis(100);

/// A bar on standard error, if that is a terminal.
#[derive(Debug)]
pub(crate) struct Watcher {
    bar: ProgressBar,
    begun: Instant,
    /// It has not been shown yet, and is to be.
    waiting: AtomicBool,
    stop: Arc<AtomicBool>,
}

impl Watcher {
    /// A bar that says `what` is done. Results that go into a pipe as JSON are read by a program: then nobody looks.
    pub(crate) fn new(what: &'static str, json: bool) -> Arc<Self> {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()).with_message(what);
        let style =
            ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta}");
        let bar = bar.with_style(style.expect("the template is sound"));
        let looked_at = std::io::stderr().is_terminal() && (!json || std::io::stdout().is_terminal());
        let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        Arc::new(Self { bar, begun, waiting: AtomicBool::new(looked_at), stop })
    }

    /// From here on, signals that ask this program to end ask the work to be given up instead.
    pub(crate) fn until_signal(self: Arc<Self>) -> anyhow::Result<Arc<Self>> {
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&self.stop))?;
        }
        Ok(self)
    }

    /// From here on, such a signal also cuts `stream`: nothing else ends waiting for the other side.
    pub(crate) fn cut_on_signal(&self, stream: TcpStream) -> anyhow::Result<()> {
        let stop = Arc::clone(&self.stop);
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                stop.store(true, Ordering::Relaxed);
                // It is cut already if that fails.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        Ok(())
    }
}

impl Progress for Watcher {
    fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.waiting.load(Ordering::Relaxed)
            && self.begun.elapsed() > SHORT
            && self.waiting.swap(false, Ordering::Relaxed)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.force_draw();
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A file that is read from its beginning to its end, with a bar.
#[derive(Debug)]
pub(crate) struct Watched {
    file: File,
    bar: Option<Arc<Watcher>>,
}

impl Watched {
    /// A bar that says `what` is done, if it `is_looked_at` at all.
    pub(crate) fn new(what: &'static str, is_looked_at: bool, file: File) -> Self {
        let bar = is_looked_at.then(|| Watcher::new(what, false));
        if let (Some(bar), Ok(meta)) = (&bar, file.metadata()) {
            bar.expect(meta.len());
        }
        Self { file, bar }
    }
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buf)?;
        if let Some(bar) = &self.bar {
            bar.done(count as u64);
        }
        Ok(count)
    }
}
