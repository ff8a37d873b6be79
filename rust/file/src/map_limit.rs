//! How many memory maps a process can still make.
//!
//! Linux limits them (`vm.max_map_count`, 65,530 by default). A process that has used them all can allocate
//! no more memory: the kernel refuses to extend a map, too. NumPy then raises `MemoryError`, and Rust ends
//! the process. So mmnpz refuses a reader that would leave too few. The kernel tells the number of maps only
//! as a list of all of them, which takes milliseconds to read when it matters. Instead, mmnpz makes as many
//! maps as it wants to have left, and removes them.

use std::io;

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many maps a reader leaves to the rest of the process.
#[cfg(target_os = "linux")]
const RESERVE: usize = 256;

/// How many readers are opened between two tries. A try makes this many maps and the reserve, in half a
/// millisecond.
#[cfg(target_os = "linux")]
const STEP: usize = 256;

/// How many readers can be opened before the next try. A reader that is closed gives its place back, so that
/// only a process with ever more open readers tries at all.
#[cfg(target_os = "linux")]
static UNTRIED: AtomicUsize = AtomicUsize::new(STEP);

/// The right to one map, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim(());

impl Claim {
    /// Claims a map.
    ///
    /// # Errors
    /// `ENOMEM` if too few would be left.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> io::Result<Self> {
        // Relaxed: no other memory depends on this number.
        let one_less = |untried: usize| untried.checked_sub(1);
        if UNTRIED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            if !can_map(RESERVE + STEP) {
                return Err(io::Error::from_raw_os_error(libc::ENOMEM));
            }
            // Threads that try at once may all set this, and then take a few maps from the reserve.
            UNTRIED.store(STEP - 1, Ordering::Relaxed);
        }
        Ok(Claim(()))
    }

    /// Other systems have no such limit.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Claim(()))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Claim {
    fn drop(&mut self) {
        UNTRIED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether `count` more maps can be made: makes and removes them.
#[cfg(target_os = "linux")]
#[cold]
fn can_map(count: usize) -> bool {
    use std::ptr;

    // SAFETY: asks for a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let size = count * page;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: new memory at an address that the kernel chooses, which no code touches. Its size is not 0.
    let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return false;
    }
    // Pages with other rights than their neighbours are maps of their own.
    let are_made = (1..count).step_by(2).all(|number| {
        // SAFETY: a page of the memory above, of which no other code knows.
        unsafe { libc::mprotect(start.wrapping_byte_add(number * page), page, libc::PROT_READ) == 0 }
    });
    // SAFETY: all of the memory above, and nothing else.
    unsafe { libc::munmap(start, size) };
    are_made
}
