//! One writer for each file: an advisory lock that goes with the process.

use std::fs::File;
use std::io;
use std::path::Path;

/// A writer that only readers keep from the lock looks again this often, each time after [`PATIENCE`]: for
/// half a second in all. No reader holds it for longer than a system call, unless it is another program's.
#[cfg(unix)]
const MOST_ATTEMPTS: u32 = 1000;
#[cfg(unix)]
const PATIENCE: std::time::Duration = std::time::Duration::from_micros(500);

/// Held as long as a file is open for writing.
pub(crate) struct WriteLock {
    #[cfg(unix)]
    descriptor: &'static held::Descriptor,
}

/// Takes the lock of the file at `path`, which must be `file`; None if another writer has it.
///
/// The lock belongs to a descriptor of its own, which a forked child closes at once: a child that lives on
/// would otherwise hold the lock of a writer that is dead. A file system without locks lets every writer
/// through.
#[cfg(unix)]
pub(crate) fn take(path: &Path, file: &File) -> io::Result<Option<WriteLock>> {
    use std::fs::TryLockError;
    use std::os::fd::OwnedFd;

    let other = File::open(path)?;
    if !is_same(file, &other)? {
        return Ok(None);
    }
    let mut attempts = 0;
    while let Err(TryLockError::WouldBlock) = other.try_lock() {
        // Readers of a file without a directory hold a lock for a moment, to see whether there is a writer.
        // They share it, and let others share it; a writer does not.
        if let Err(TryLockError::WouldBlock) = other.try_lock_shared() {
            return Ok(None);
        }
        other.unlock()?;
        attempts += 1;
        if attempts == MOST_ATTEMPTS {
            return Ok(None);
        }
        std::thread::sleep(PATIENCE);
    }
    Ok(Some(WriteLock { descriptor: held::keep(OwnedFd::from(other)) }))
}

/// Windows: the file was opened so that nobody else can open it for writing.
#[cfg(not(unix))]
pub(crate) fn take(_path: &Path, _file: &File) -> io::Result<Option<WriteLock>> {
    Ok(Some(WriteLock {}))
}

/// Whether some writer has the file open.
#[cfg(unix)]
pub(crate) fn is_taken(path: &Path) -> bool {
    File::open(path)
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock)))
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
        if let Some(file) = self.descriptor.take() {
            // A child that was forked at a bad moment may have the descriptor, too.
            let _ = File::from(file).unlock();
        }
    }
}

/// The child of a fork gives up the locks of its parent.
#[cfg(unix)]
pub(crate) fn give_up() {
    held::close_all();
}

/// The descriptors that hold locks, in a list that a forked child can go through whatever other threads were
/// doing. It never gets shorter: places are used again.
#[cfg(unix)]
mod held {
    use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
    use std::ptr;
    use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

    const NONE: i32 = -1;

    pub(super) struct Descriptor {
        number: AtomicI32,
        next: *const Descriptor,
    }

    // SAFETY: `next` is set before the descriptor is shared, and leads to one that lives for ever.
    unsafe impl Sync for Descriptor {}

    static FIRST: AtomicPtr<Descriptor> = AtomicPtr::new(ptr::null_mut());

    fn all() -> impl Iterator<Item = &'static Descriptor> {
        let mut at = FIRST.load(Ordering::Acquire).cast_const();
        std::iter::from_fn(move || {
            // SAFETY: null, or one that was leaked in `keep`.
            let descriptor = unsafe { at.as_ref() }?;
            at = descriptor.next;
            Some(descriptor)
        })
    }

    pub(super) fn keep(descriptor: OwnedFd) -> &'static Descriptor {
        let number = descriptor.into_raw_fd();
        let free = |place: &&Descriptor| {
            place.number.compare_exchange(NONE, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        if let Some(place) = all().find(free) {
            return place;
        }
        let place = Box::leak(Box::new(Descriptor { number: AtomicI32::new(number), next: ptr::null() }));
        let mut first = FIRST.load(Ordering::Acquire);
        loop {
            place.next = first;
            match FIRST.compare_exchange(first, &raw mut *place, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return place,
                Err(other) => first = other,
            }
        }
    }

    pub(super) fn close_all() {
        all().for_each(|descriptor| drop(descriptor.take()));
    }

    impl Descriptor {
        /// The descriptor, for the first who asks.
        pub(super) fn take(&self) -> Option<OwnedFd> {
            let number = self.number.swap(NONE, Ordering::AcqRel);
            // SAFETY: the number came from an OwnedFd in `keep`, and only one caller gets it from the swap.
            (number != NONE).then(|| unsafe { OwnedFd::from_raw_fd(number) })
        }
    }
}
