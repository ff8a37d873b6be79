//! One writer for each file: an advisory lock that goes with the process.

use std::fs::File;
use std::io;
use std::path::Path;

/// How often a writer tries again to lock a file if only readers hold the lock, each time after [`PATIENCE`]:
/// for half a second in all. A reader of mmnpz holds the lock no longer than a system call.
#[cfg(unix)]
const MOST_ATTEMPTS: u32 = 1000;
#[cfg(unix)]
const PATIENCE: std::time::Duration = std::time::Duration::from_micros(500);

/// Held as long as a file is open for writing.
pub(crate) struct WriteLock {
    /// Whether the file system has locks, so that another writer is noticed.
    pub(crate) excludes: bool,
    #[cfg(unix)]
    place: &'static held::Place,
    #[cfg(unix)]
    ticket: held::Ticket,
}

/// Takes the lock of the file at `path`, which must be `file`; None if another writer has it.
///
/// The lock has its own descriptor, which a forked child closes at once. Otherwise a child that lives on
/// would hold the lock of a writer that is dead. A file system without locks lets every writer through, and
/// the lock says so.
#[cfg(unix)]
pub(crate) fn take(path: &Path, file: &File) -> io::Result<Option<WriteLock>> {
    use std::fs::TryLockError;
    use std::os::fd::OwnedFd;

    let other = File::open(path)?;
    if !is_same(file, &other)? {
        return Ok(None);
    }
    let mut attempts = 0;
    let excludes = loop {
        match other.try_lock() {
            Ok(()) => break true,
            Err(TryLockError::Error(_)) => break false,
            Err(TryLockError::WouldBlock) => {}
        }
        // Readers of a file without a directory hold a lock for a moment, to see whether there is a writer. A
        // shared lock therefore fails only if a writer has the file.
        if let Err(TryLockError::WouldBlock) = other.try_lock_shared() {
            return Ok(None);
        }
        other.unlock()?;
        attempts += 1;
        if attempts == MOST_ATTEMPTS {
            return Ok(None);
        }
        std::thread::sleep(PATIENCE);
    };
    let (place, ticket) = held::keep(OwnedFd::from(other));
    Ok(Some(WriteLock { excludes, place, ticket }))
}

/// Windows: the file was opened so that no other process can open it for writing.
#[cfg(not(unix))]
pub(crate) fn take(_path: &Path, _file: &File) -> io::Result<Option<WriteLock>> {
    Ok(Some(WriteLock { excludes: true }))
}

/// Whether some writer has the file open.
#[cfg(unix)]
pub(crate) fn is_taken(path: &Path) -> bool {
    File::open(path)
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
}

/// Whether some writer has an open file, of which nobody else has this descriptor.
#[cfg(unix)]
pub(crate) fn is_taken_of(file: &File) -> bool {
    let locked = file.try_lock_shared();
    let _ = file.unlock();
    matches!(locked, Err(std::fs::TryLockError::WouldBlock))
}

#[cfg(not(unix))]
pub(crate) fn is_taken_of(_file: &File) -> bool {
    false
}

/// Windows: whether some writer has the file open.
#[cfg(not(unix))]
pub(crate) fn is_taken(path: &Path) -> bool {
    std::fs::OpenOptions::new().write(true).open(path).is_err()
}

/// Whether two open files are one.
#[cfg(unix)]
pub(crate) fn is_same(one: &File, two: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (one, two) = (one.metadata()?, two.metadata()?);
    Ok((one.dev(), one.ino()) == (two.dev(), two.ino()))
}

#[cfg(unix)]
impl Drop for WriteLock {
    fn drop(&mut self) {
        if let Some(file) = self.place.take(self.ticket) {
            // A child that was forked a moment ago may still have the descriptor.
            let _ = File::from(file).unlock();
        }
    }
}

/// The child of a fork gives up the locks of its parent.
#[cfg(unix)]
pub(crate) fn give_up() {
    held::close_all();
}

/// A list of the descriptors that hold locks. A forked child can go through it, whatever other threads of the
/// parent were doing. The list never gets shorter, but places are used again.
#[cfg(unix)]
mod held {
    use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

    /// The content of a place: a descriptor in the lower half, and the serial number of its lock in the upper
    /// half. After a lock was closed, as by the child of a fork, another lock uses its place. By the serial
    /// number, the first lock knows that the place is no longer its own, even if the descriptor is the same.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Ticket(u64);

    const NONE: Ticket = Ticket(u64::MAX);

    impl Ticket {
        fn new(descriptor: RawFd) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let serial = NEXT.fetch_add(1, Ordering::Relaxed);
            // A descriptor is not negative, so no such ticket is `NONE`.
            Ticket(u64::from(serial) << 32 | u64::from(descriptor.cast_unsigned()))
        }

        fn descriptor(self) -> RawFd {
            (self.0 as u32).cast_signed()
        }
    }

    pub(super) struct Place {
        ticket: AtomicU64,
        next: *const Place,
    }

    // SAFETY:
    // - `next` is written by `keep` alone, before the place is shared, and only read from then on.
    // - `next` leads to a place that `keep` leaked, and that lives for ever.
    // - `ticket` is atomic.
    unsafe impl Sync for Place {}

    static FIRST: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());

    fn all() -> impl Iterator<Item = &'static Place> {
        let mut at = FIRST.load(Ordering::Acquire).cast_const();
        std::iter::from_fn(move || {
            // SAFETY:
            // - The pointer is null, or leads to a place that `keep` leaked, and that is never freed.
            // - `keep` completed the place before the release that this thread acquired by reading `FIRST`.
            let place = unsafe { at.as_ref() }?;
            at = place.next;
            Some(place)
        })
    }

    /// Keeps a descriptor. Returns its place, and the ticket to take it out again.
    pub(super) fn keep(descriptor: OwnedFd) -> (&'static Place, Ticket) {
        let ticket = Ticket::new(descriptor.into_raw_fd());
        let free = |place: &&Place| {
            place.ticket.compare_exchange(NONE.0, ticket.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if let Some(place) = all().find(free) {
            return (place, ticket);
        }
        let place = Box::leak(Box::new(Place { ticket: AtomicU64::new(ticket.0), next: ptr::null() }));
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            place.next = first;
            match FIRST.compare_exchange(first, &raw mut *place, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return (place, ticket),
                Err(other) => first = other,
            }
        }
    }

    /// How many places the list has, used or not.
    #[cfg(test)]
    pub(super) fn count() -> usize {
        all().count()
    }

    pub(super) fn close_all() {
        all().for_each(|place| {
            let ticket = Ticket(place.ticket.load(Ordering::Acquire));
            drop(place.take(ticket));
        });
    }

    impl Place {
        /// Takes out the descriptor with this ticket. Only the first call gets it.
        pub(super) fn take(&self, ticket: Ticket) -> Option<OwnedFd> {
            if ticket == NONE {
                return None;
            }
            self.ticket.compare_exchange(ticket.0, NONE.0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
            // SAFETY:
            // - The descriptor came from an `OwnedFd` in `keep`, which gave it up.
            // - Only one caller exchanges the ticket, so no other code owns or closes the descriptor.
            Some(unsafe { OwnedFd::from_raw_fd(ticket.descriptor()) })
        }
    }
}

// `make model` runs these under Miri.
#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, Mutex};
    use std::thread;

    use super::held;

    const THREADS: usize = 4;
    const ROUNDS: usize = if cfg!(miri) { 10 } else { 200 };

    /// The process has one list.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn descriptor() -> OwnedFd {
        std::io::pipe().unwrap().0.into()
    }

    #[test]
    fn a_descriptor_is_taken_once_and_places_are_used_again() {
        let _guard = ONE_AT_A_TIME.lock().unwrap();
        let before = held::count();
        let (barrier, taken) = (Barrier::new(THREADS), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        barrier.wait();
                        let (place, ticket) = held::keep(descriptor());
                        // Two threads take the same descriptor, and others use the place as soon as it is
                        // free.
                        let count = thread::scope(|scope| {
                            let other = scope.spawn(|| usize::from(place.take(ticket).is_some()));
                            usize::from(place.take(ticket).is_some()) + other.join().unwrap()
                        });
                        taken.fetch_add(count, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), THREADS * ROUNDS);
        assert!(held::count() <= before + THREADS, "{} places", held::count());
    }

    #[test]
    fn who_closes_all_closes_each_once() {
        let _guard = ONE_AT_A_TIME.lock().unwrap();
        let barrier = Barrier::new(THREADS);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let barrier = &barrier;
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        barrier.wait();
                        if number == 0 {
                            held::close_all();
                        } else {
                            // One of the two threads closes the descriptor. A second close would hit whatever
                            // has that number by then, and show as an error there.
                            let (place, ticket) = held::keep(descriptor());
                            drop(place.take(ticket));
                        }
                    }
                });
            }
        });
    }
}
