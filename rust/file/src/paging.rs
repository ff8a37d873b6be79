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
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= self.bytes().len());
        if is_inside && length > 0 {
            give(self.memory(), advice, offset, length);
        }
    }

    /// Whether the system says that some of the first `SAMPLE` pages from `offset` on are not in memory.
    ///
    /// For a file of another user, the system always says that all pages are in memory.
    pub fn is_absent(&self, offset: usize, length: usize) -> bool {
        let end = offset.saturating_add(length).min(self.bytes().len());
        // Memory of someone else starts anywhere in a page, and is hardly ever on a disk.
        offset < end && !matches!(self.memory(), Memory::Lent(_)) && absent(self.start(), offset, end)
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
    };
}

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
