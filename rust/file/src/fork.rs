//! The fork generation: tells whether this process is a fork of the one that opened a file.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static HANDLERS: OnceLock<&[fn()]> = OnceLock::new();

/// The fork generation of this process: every forked child increments it. It is cheaper than the process id,
/// which takes a system call.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has every forked child increment its generation and call these handlers. A handler must take no lock and
/// no memory of the heap: in a child of a process with many threads, neither is safe.
pub(crate) fn install(handlers: &'static [fn()]) {
    #[cfg(unix)]
    {
        extern "C" fn in_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
            HANDLERS.get().into_iter().copied().flatten().for_each(|handler| handler());
        }
        if HANDLERS.set(handlers).is_ok() {
            // SAFETY: the handler is a function of this library, which is never unloaded (Python keeps
            // extension modules). It loads and stores atomics, and calls functions that close descriptors and
            // forget threads, without a lock or memory of the heap, by the contract of this function: that is
            // safe in a child of a process with many threads.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        }
    }
    #[cfg(not(unix))]
    let _ = HANDLERS.set(handlers);
}
