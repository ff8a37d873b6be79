//! Whether this process is a fork of the one that opened a file.

use std::sync::atomic::{AtomicU64, Ordering};

static FORKS: AtomicU64 = AtomicU64::new(0);

/// A number that is another one in each fork of a process. Cheaper than asking for the process id, which is a
/// system call.
pub(crate) fn count() -> u64 {
    #[cfg(unix)]
    {
        static REGISTER: std::sync::Once = std::sync::Once::new();
        extern "C" fn in_child() {
            FORKS.fetch_add(1, Ordering::Relaxed);
            crate::lock::give_up();
            crate::helpers::give_up();
        }
        REGISTER.call_once(|| {
            // SAFETY: the handler is a function of this library, which is never unloaded (Python keeps extension
            // modules). It counts, closes descriptors and forgets threads, without a lock or memory of the heap: that is
            // safe in a child of a process with many threads.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
    }
    FORKS.load(Ordering::Relaxed)
}

/// Whether a Python object that threads share, made when the count was `forks`, may be locked for ever here.
///
/// Lists and dicts of free-threaded Python have locks. All threads are stopped for a fork, but one that waits for
/// such a lock may be handed it just then, and there is no such thread in the child.
pub(crate) fn may_be_locked(forks: u64) -> bool {
    cfg!(Py_GIL_DISABLED) && forks != count()
}
