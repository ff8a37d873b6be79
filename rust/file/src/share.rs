//! Sharing work among threads: those of the copy pool, and the calling one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::copy_pool;
use crate::failure::Failure;
use crate::fork;

/// How long the calling thread looks whether the others are done before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);

/// How long it sleeps at most between two questions whether to go on.
const SLEEP: Duration = Duration::from_millis(1);

/// Work on all numbers below `count`.
pub(crate) struct Share<'a> {
    pub(crate) count: usize,
    /// How many numbers a thread takes at a time.
    pub(crate) taken: usize,
    /// The most threads, the calling one included.
    pub(crate) threads: usize,
    /// Once this is set, no thread takes more.
    pub(crate) stop: &'a AtomicBool,
}

/// Has threads do `work`, each with a state of its own that `begin` makes. The calling thread asks `go_on`
/// after each turn, and while it waits for the others.
///
/// # Errors
/// [`Failure::Interrupted`], and with several threads [`Failure::Forked`] in a child that a signal handler
/// forks off: what the others had begun is not done there, and their locks stay locked.
pub(crate) fn share<S>(
    share: &Share<'_>,
    go_on: &dyn Fn() -> bool,
    begin: &(dyn Fn() -> S + Sync),
    work: &(dyn Fn(usize, &mut S) + Sync),
) -> Result<(), Failure> {
    let Share { count, taken, threads, stop } = *share;
    let (next, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let turn = |state: &mut S| {
        let start = next.fetch_add(taken, Ordering::Relaxed);
        let numbers = start.min(count)..start.saturating_add(taken).min(count);
        let is_end = numbers.is_empty() || stop.load(Ordering::Relaxed);
        // Also after a panic, or the calling thread would wait for ever.
        let _done = Counted(&turns);
        if !is_end {
            numbers.for_each(|number| work(number, state));
        }
        !is_end
    };
    let help = |_| {
        let mut state = begin();
        while turn(&mut state) {}
    };
    let forks = fork::generation();
    let asked = || match go_on() {
        // In the child, no other thread goes on, and no lock may be asked for.
        _ if threads > 1 && forks != fork::generation() => Err(Failure::Forked),
        true => Ok(()),
        false => {
            stop.store(true, Ordering::Relaxed);
            Err(Failure::Interrupted)
        }
    };
    let alone = || {
        let mut state = begin();
        while turn(&mut state) {
            asked()?;
        }
        let since = Instant::now();
        // No thread takes a turn after the last one.
        while turns.load(Ordering::Acquire) < next.load(Ordering::Relaxed) / taken {
            if since.elapsed() < PATIENCE {
                std::hint::spin_loop();
            } else {
                asked()?;
                thread::park_timeout(SLEEP);
            }
        }
        Ok(())
    };
    match threads.min(count.div_ceil(taken)) {
        0 => Ok(()),
        1 => alone(),
        threads => {
            copy_pool::together(threads - 1, &help, alone)?;
            if forks == fork::generation() { Ok(()) } else { Err(Failure::Forked) }
        }
    }
}

/// Counts a turn when it is over.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}
