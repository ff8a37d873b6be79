//! Advice to the operating system on the use of a map. On systems without such advice, nothing happens.

use crate::mapping::{Map, Memory};

/// How a process will use the pages of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// In no particular order: the system reads some pages ahead.
    Normal,
    /// In random order: the system reads no page ahead.
    Random,
    /// From start to end: the system reads many pages ahead.
    Sequential,
    /// Soon: the system starts to read at once.
    WillNeed,
    /// Not for now: the process gives up the pages.
    DontNeed,
}

impl Advice {
    /// All kinds of advice, by their names.
    pub const NAMES: [(&str, Advice); 5] = [
        ("normal", Advice::Normal),
        ("random", Advice::Random),
        ("sequential", Advice::Sequential),
        ("willneed", Advice::WillNeed),
        ("dontneed", Advice::DontNeed),
    ];

    /// The advice of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(other, _)| *other == name).map(|(_, advice)| *advice)
    }
}

impl Map {
    /// Advises the system on `length` bytes from `offset` on. The system may ignore advice: this ignores its
    /// errors, and ranges that are not in the map.
    pub fn advise(&self, advice: Advice, offset: usize, length: usize) {
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= self.len());
        if is_inside && length > 0 {
            give(self.memory(), advice, offset, length);
        }
    }

    /// Whether the system says that some of the first `SAMPLE` pages from `offset` on are not in memory.
    ///
    /// For a file of another user, the system always says that all pages are in memory.
    pub fn is_absent(&self, offset: usize, length: usize) -> bool {
        let end = offset.saturating_add(length).min(self.len());
        // Memory of someone else starts anywhere in a page, and is hardly ever on a disk.
        offset < end
            && match self.memory() {
                Memory::Lent(_) => false,
                Memory::Unmapped(file, _) => would_wait(file, offset) || would_wait(file, end - 1),
                _ => absent(self.start(), offset, end),
            }
    }
}

#[cfg(unix)]
fn give(memory: &Memory, advice: Advice, offset: usize, length: usize) {
    let checked = match advice {
        Advice::Normal => memmap2::Advice::Normal,
        Advice::Random => memmap2::Advice::Random,
        Advice::Sequential => memmap2::Advice::Sequential,
        Advice::WillNeed => memmap2::Advice::WillNeed,
        Advice::DontNeed => {
            // Pages that a program has written to would be lost.
            let (Memory::Shared(map) | Memory::Private(map)) = memory else { return };
            let unchecked = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: a map of a file that is never written to (`mapping::map`), so that the next access
            // reads the pages from the file again, with the same content.
            let _ = unsafe { map.unchecked_advise_range(unchecked, offset, length) };
            return;
        }
    };
    let _ = match memory {
        Memory::Shared(map) | Memory::Private(map) => map.advise_range(checked, offset, length),
        Memory::Copied(map) => map.advise_range(checked, offset, length),
        Memory::Lent(_) => Ok(()),
        Memory::Unmapped(file, _) => {
            advise_file(file, advice, offset, length);
            Ok(())
        }
    };
}

/// Advice on a file that is not mapped.
#[cfg(target_os = "linux")]
fn advise_file(file: &std::fs::File, advice: Advice, offset: usize, length: usize) {
    use std::os::fd::AsRawFd;

    let advice = match advice {
        Advice::Normal => libc::POSIX_FADV_NORMAL,
        Advice::Random => libc::POSIX_FADV_RANDOM,
        Advice::Sequential => libc::POSIX_FADV_SEQUENTIAL,
        Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
        Advice::DontNeed => return,
    };
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else { return };
    // SAFETY: the descriptor is open as long as `file` is borrowed, and the call uses no memory.
    unsafe { libc::posix_fadvise64(file.as_raw_fd(), offset, length, advice) };
}

/// Whether a read of the byte at this place of a file would wait for the disk, as far as the system tells.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn would_wait(file: &std::fs::File, offset: usize) -> bool {
    use std::os::fd::AsRawFd;

    let mut byte = 0_u8;
    let to = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Not by the function of the C library, which old ones do not have.
    // SAFETY: the descriptor is open as long as `file` is borrowed; `to` is one byte, which is there. The
    // place is in the first of the two halves, which has 64 bits.
    let read = unsafe {
        libc::syscall(libc::SYS_preadv2, file.as_raw_fd(), &raw const to, 1, offset, 0, libc::RWF_NOWAIT)
    };
    read < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn would_wait(_file: &std::fs::File, _offset: usize) -> bool {
    false
}

#[cfg(all(unix, not(target_os = "linux")))]
fn advise_file(_file: &std::fs::File, _advice: Advice, _offset: usize, _length: usize) {}

#[cfg(not(unix))]
fn give(_memory: &Memory, _advice: Advice, _offset: usize, _length: usize) {}

/// The system is asked about at most this many pages.
#[cfg(target_os = "linux")]
const SAMPLE: usize = 16;

#[cfg(target_os = "linux")]
fn absent(start: *const u8, offset: usize, end: usize) -> bool {
    // SAFETY: asks for a constant.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    // A map starts at a page.
    let first = offset / page * page;
    let count = (end - first).div_ceil(page).min(SAMPLE);
    let mut pages = [0_u8; SAMPLE];
    // SAFETY: the range lies in the map, rounded to whole pages, all of which belong to it; `pages` has a
    // byte for each.
    let result = unsafe {
        libc::mincore(start.wrapping_add(first).cast_mut().cast(), count * page, pages.as_mut_ptr().cast())
    };
    result == 0 && pages.iter().take(count).any(|page| page & 1 == 0)
}

#[cfg(not(target_os = "linux"))]
fn absent(_start: *const u8, _offset: usize, _end: usize) -> bool {
    false
}
