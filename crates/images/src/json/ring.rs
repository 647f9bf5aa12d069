//! Threads that get jobs in turn, and whose results come back in the order of the jobs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

/// Jobs that wait for one thread, besides the one it works on.
const WAITING: usize = 1;

/// More would only wait for whoever hands out the jobs.
const MOST_THREADS: usize = 4;

pub(super) struct Ring<Job, Done> {
    threads: Vec<(SyncSender<Job>, Receiver<Done>)>,
    sent: usize,
    received: usize,
}

impl<Job: Send, Done: Send> Ring<Job, Done> {
    /// One thread for each processor, each doing its own `work`; `None` where there is only one.
    pub(super) fn start<'scope, W>(scope: &'scope Scope<'scope, '_>, work: impl Fn() -> W) -> Option<Self>
    where
        W: FnMut(Job) -> Done + Send + 'scope,
        Job: 'scope,
        Done: 'scope,
    {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        if count < 2 {
            return None;
        }
        let mut threads = Vec::new();
        for _ in 0..count {
            let (jobs, their_jobs) = sync_channel(WAITING);
            let (their_results, results) = sync_channel(WAITING + 1);
            let mut work = work();
            let run = move || {
                for job in their_jobs {
                    if their_results.send(work(job)).is_err() {
                        break;
                    }
                }
            };
            if std::thread::Builder::new().spawn_scoped(scope, run).is_err() {
                // As many as the limits let us have.
                break;
            }
            threads.push((jobs, results));
        }
        (!threads.is_empty()).then_some(Self { threads, sent: 0, received: 0 })
    }

    /// Whether a result must be taken before the next job is given.
    pub(super) fn is_full(&self) -> bool {
        self.sent - self.received >= self.threads.len() * (WAITING + 1)
    }

    pub(super) fn give(&mut self, job: Job) {
        if let Some((jobs, _)) = self.threads.get(self.sent % self.threads.len())
            && jobs.send(job).is_ok()
        {
            self.sent += 1;
        }
    }

    /// The result of the oldest job whose result was not taken yet; `None` if there is no such job.
    pub(super) fn take(&mut self) -> Option<Done> {
        if self.received == self.sent {
            return None;
        }
        let (_, results) = self.threads.get(self.received % self.threads.len())?;
        self.received += 1;
        results.recv().ok()
    }
}
