//! What the operating system is told of how a map will be used. Nothing where there is no such thing to tell.

use crate::mapping::Map;

/// How the pages of a map will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// As the system thinks best.
    Normal,
    /// Here and there: nothing is read ahead.
    Random,
    /// From start to end: much is read ahead.
    Sequential,
    /// Soon: reading starts at once.
    WillNeed,
    /// Not any more, for now: the process lets go of them.
    DontNeed,
}

impl Advice {
    /// All of them, by their names.
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
    /// Gives the system advice on `length` bytes from `offset` on. Whether it takes it is its own affair:
    /// errors are left aside, as are ranges that are not in the map.
    pub fn advise(&self, advice: Advice, offset: usize, length: usize) {
        let is_inside = offset.checked_add(length).is_some_and(|end| end <= self.bytes().len());
        if is_inside && length > 0 {
            give(self.mapped(), advice, offset, length);
        }
    }

    /// Whether the bytes that are looked at, at most `SAMPLE` pages from `offset` on, are known not to be
    /// in memory.
    ///
    /// The system may say that all are: of a file that is not the user's own it always does.
    pub fn is_absent(&self, offset: usize, length: usize) -> bool {
        let end = offset.saturating_add(length).min(self.bytes().len());
        offset < end && absent(self.start(), offset, end)
    }
}

#[cfg(unix)]
fn give(map: &memmap2::Mmap, advice: Advice, offset: usize, length: usize) {
    let checked = match advice {
        Advice::Normal => memmap2::Advice::Normal,
        Advice::Random => memmap2::Advice::Random,
        Advice::Sequential => memmap2::Advice::Sequential,
        Advice::WillNeed => memmap2::Advice::WillNeed,
        Advice::DontNeed => {
            let unchecked = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map shares the pages of its file and is never written to (`mapping::map`), so that
            // what was let go of is read from the file again, with the same content, when it is touched next.
            let _ = unsafe { map.unchecked_advise_range(unchecked, offset, length) };
            return;
        }
    };
    let _ = map.advise_range(checked, offset, length);
}

#[cfg(not(unix))]
fn give(_map: &memmap2::Mmap, _advice: Advice, _offset: usize, _length: usize) {}

/// At most this many pages are looked at.
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
