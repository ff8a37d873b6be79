//! Sharing work among threads: those of the copy pool, and the calling one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::copy_pool;
use crate::failure::Failure;
use crate::fork;

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
/// after each turn.
///
/// # Errors
/// [`Failure::Interrupted`], and [`Failure::Forked`] in a child that a signal handler forks off: what other
/// threads had begun is not done there.
pub(crate) fn share<S>(
    share: &Share<'_>,
    go_on: &dyn Fn() -> bool,
    begin: &(dyn Fn() -> S + Sync),
    work: &(dyn Fn(usize, &mut S) + Sync),
) -> Result<(), Failure> {
    let Share { count, taken, threads, stop } = *share;
    let next = AtomicUsize::new(0);
    let turn = |state: &mut S| {
        let start = next.fetch_add(taken, Ordering::Relaxed);
        let numbers = start.min(count)..start.saturating_add(taken).min(count);
        let is_end = numbers.is_empty() || stop.load(Ordering::Relaxed);
        if !is_end {
            numbers.for_each(|number| work(number, state));
        }
        !is_end
    };
    let forks = fork::generation();
    let help = |_| {
        let mut state = begin();
        while turn(&mut state) {}
    };
    let alone = || {
        let mut state = begin();
        while turn(&mut state) {
            if !go_on() {
                stop.store(true, Ordering::Relaxed);
                return Err(Failure::Interrupted);
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
