//! Reading a file that is not mapped: what the format crate asks for is read when it asks.
//!
//! What was read of the directory when the file was opened is kept, and is not read again: a writer may have
//! overwritten it since. The headers and the items of members stay where they are, and are read when they are
//! needed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use elsa::sync::FrozenVec;
use mmnpz_format::window::{Fetch, Fetched, Part};
use mmnpz_format::{Missing, Window};

use crate::failure::Failure;
use crate::pread::{cut_short, read_exact_at, read_up_to};

/// The parts of a file that are kept.
pub(crate) type Kept = Fetched<'static>;

/// How many bytes are read at a time, if no more are asked for: the headers of a member.
const HEADERS: u64 = 1 << 12;

/// The same where a directory is read, or looked for.
const DIRECTORY: u64 = 1 << 16;

/// The same once there were `MANY` requests, where one does not follow the other: then the local headers of
/// a file without a directory are read, and all that is read of them is held.
const SCATTERED: u64 = 1 << 10;

/// A directory is found by fewer requests.
const MANY: usize = 16;

/// The same where one request follows the other: each read is twice as long as the one before, up to this.
const MOST: u64 = 1 << 23;

/// How many bytes may be held at once. More are needed only for a directory of some ten million members, or
/// to look for as many without a directory.
const LIMIT: u64 = 1 << 32;

/// Parts of a file of `len` bytes, to be kept. What lies side by side becomes one part: no range of it is
/// then read again.
pub(crate) fn kept(mut parts: Vec<Part<'static>>, len: u64) -> Kept {
    parts.sort_by_key(|part| part.at);
    let mut all: Vec<Part<'static>> = Vec::with_capacity(parts.len());
    for part in parts {
        let end = all.last().map(|last| last.at + last.bytes.len() as u64);
        match all.last_mut().zip(end.filter(|&end| part.at <= end)) {
            Some((last, end)) => {
                let new = part.bytes.get((end - part.at) as usize..).unwrap_or_default();
                last.bytes.to_mut().extend_from_slice(new);
            }
            None => all.push(part),
        }
    }
    Fetched::owned(all, len)
}

/// Reads what some work needs of a file, and holds it until the work is done.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    file: &'a File,
    len: u64,
    /// How many bytes are read at a time, at least.
    least: u64,
    parts: FrozenVec<Box<Part<'static>>>,
    places: Mutex<Places>,
    bytes: AtomicU64,
}

/// Where the parts start, and what went wrong.
#[derive(Debug, Default)]
struct Places {
    numbers: BTreeMap<u64, usize>,
    /// Where the last read ended, and how long it was.
    last: (u64, u64),
    failed: Option<io::Error>,
}

impl<'a> Reading<'a> {
    /// For a directory.
    pub(crate) fn of_directory(file: &'a File, len: u64) -> Self {
        Self::new(file, len, DIRECTORY)
    }

    /// For the headers of members.
    pub(crate) fn of_headers(file: &'a File, len: u64) -> Self {
        Self::new(file, len, HEADERS)
    }

    fn new(file: &'a File, len: u64, least: u64) -> Self {
        let (parts, places) = (FrozenVec::default(), Mutex::default());
        Reading { file, len, least, parts, places, bytes: AtomicU64::new(0) }
    }

    /// Does work with what was kept, and with what is read for it.
    ///
    /// # Errors
    /// Those of the work, and of the system.
    pub(crate) fn with<T>(
        &self,
        kept: &Kept,
        work: impl FnOnce(Window<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let done = work(Window::of_fetched(&kept.and(self)));
        match (done, self.places().failed.take()) {
            (Err(_), Some(error)) => Err(error.into()),
            (done, _) => done,
        }
    }

    /// As [`Reading::with`], with nothing that was kept.
    ///
    /// # Errors
    /// Those of the work, and of the system.
    pub(crate) fn alone<T>(&self, work: impl FnOnce(Window<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        self.with(&Fetched::owned(Vec::new(), self.len), work)
    }

    /// All that was read.
    pub(crate) fn finish(self) -> Vec<Part<'static>> {
        self.parts.into_vec().into_iter().map(|part| *part).collect()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a range, if they were read.
    fn held(&self, range: &Range<u64>) -> Option<&[u8]> {
        let number = self.places().numbers.range(..=range.start).next_back().map(|(_, &number)| number);
        self.known(number?, range)
    }

    /// The bytes of a range, if they are in this part, which does not start behind it.
    fn known(&self, number: usize, range: &Range<u64>) -> Option<&[u8]> {
        let part = self.parts.get(number)?;
        let end = range.end.checked_sub(part.at)?;
        part.bytes.get((range.start - part.at) as usize..usize::try_from(end).ok()?)
    }

    fn read(&self, range: &Range<u64>) -> io::Result<&[u8]> {
        let (end, before) = self.places().last;
        let follows = (end.saturating_sub(before)..=end.saturating_add(before)).contains(&range.start);
        let least = if self.parts.len() < MANY { self.least } else { SCATTERED };
        let block = if follows { (2 * before).clamp(least, MOST) } else { least };
        let wanted = range.start.saturating_add(block).min(self.len).max(range.end);
        let size = wanted - range.start;
        if self.bytes.fetch_add(size, Ordering::Relaxed) + size > LIMIT {
            return Err(io::Error::other(
                "to look for its members takes more than 4 GiB of memory: use mmap_mode=\"r\"",
            ));
        }
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let size = usize::try_from(size).map_err(|_| no_memory())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| no_memory())?;
        bytes.resize(size, 0);
        // More than what was asked for need not be there.
        let read = read_up_to(self.file, &mut bytes, range.start)?;
        if (read as u64) < range.end - range.start {
            return Err(cut_short());
        }
        bytes.truncate(read);
        let number = self.parts.push_get_index(Box::new(Part { at: range.start, bytes: bytes.into() }));
        let mut places = self.places();
        // A part inside of this one would hide it from ranges that begin behind the start of that.
        let inside: Vec<u64> = places.numbers.range(range.start..wanted).map(|(&start, _)| start).collect();
        for start in inside {
            let end = places.numbers.get(&start).and_then(|&number| self.parts.get(number));
            if end.is_some_and(|part| start + part.bytes.len() as u64 <= wanted) {
                places.numbers.remove(&start);
            }
        }
        places.numbers.insert(range.start, number);
        places.last = (wanted, wanted - range.start);
        drop(places);
        self.known(number, range).ok_or_else(no_memory)
    }
}

impl Fetch for Reading<'_> {
    fn fetch(&self, range: Range<u64>) -> Result<&[u8], Missing> {
        if let Some(bytes) = self.held(&range) {
            return Ok(bytes);
        }
        self.read(&range).map_err(|error| {
            self.places().failed = Some(error);
            Missing(range)
        })
    }

    fn search(
        &self,
        range: Range<u64>,
        overlap: u64,
        find: &mut dyn FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Option<u64>, Missing> {
        if let Some(bytes) = self.held(&range) {
            return Ok(find(bytes).map(|at| range.start + at as u64));
        }
        let mut piece = Vec::new();
        let (mut at, mut block) = (range.start, DIRECTORY);
        while at < range.end {
            let end = at.saturating_add(block).min(range.end);
            piece.resize((end.saturating_add(overlap).min(range.end) - at) as usize, 0);
            if let Err(error) = read_exact_at(self.file, &mut piece, at) {
                self.places().failed = Some(error);
                return Err(Missing(range));
            }
            if let Some(found) = find(&piece) {
                return Ok(Some(at + found as u64));
            }
            (at, block) = (end, (2 * block).min(MOST));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    /// Ranges that overlap, touch, and lie apart, in all orders.
    fn ranges(len: u64) -> impl Iterator<Item = Range<u64>> {
        (0..400_u64).map(move |number| {
            let start = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % len;
            start..(start + 1 + number.pow(2)).min(len)
        })
    }

    #[test]
    fn what_was_read_is_kept_and_not_read_again() {
        let bytes = noise(3_000_000);
        let mut file = file(&bytes);
        let read = |window: Window<'_>, range: Range<u64>| {
            let found = window.get(range.clone()).unwrap().unwrap();
            assert_eq!(found, &bytes[range.start as usize..range.end as usize], "{range:?}");
        };
        let reading = Reading::of_directory(&file, 3_000_000);
        let all = reading.alone(|window| {
            ranges(window.len()).for_each(|range| read(window, range));
            Ok(())
        });
        all.unwrap();
        let kept = kept(reading.finish(), 3_000_000);
        let small = Reading::of_headers(&file, 3_000_000);
        let last = small.alone(|window| {
            read(window, 2_999_990..3_000_000);
            Ok(())
        });
        last.unwrap();
        // Somebody has overwritten the file.
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&vec![0; 3_000_000]).unwrap();
        ranges(3_000_000).for_each(|range| read(Window::of_fetched(&kept), range));
        let reading = Reading::of_headers(&file, 3_000_000);
        let all = reading.with(&kept, |window| {
            ranges(3_000_000).for_each(|range| read(window, range));
            Ok(())
        });
        all.unwrap();
        assert_eq!(reading.parts.len(), 0);
    }

    #[test]
    fn what_is_found_lies_anywhere_in_the_pieces() {
        let mut bytes = vec![0; 1 << 20];
        for at in [0, 65_533, 65_534, 65_535, 65_536, 300_000, (1 << 20) - 3] {
            bytes[at..at + 3].copy_from_slice(b"abc");
            let file = file(&bytes);
            let reading = Reading::of_directory(&file, 1 << 20);
            let mut find = |piece: &[u8]| piece.windows(3).position(|three| three == b"abc");
            assert_eq!(reading.search(0..1 << 20, 2, &mut find), Ok(Some(at as u64)));
            assert_eq!(reading.search(at as u64 + 1..1 << 20, 2, &mut find), Ok(None));
            bytes.fill(0);
        }
        let mut total = 0;
        let file = file(&bytes);
        let reading = Reading::of_directory(&file, 1 << 20);
        let mut count = |piece: &[u8]| {
            total += piece.len();
            None
        };
        assert_eq!(reading.search(5..1 << 20, 0, &mut count), Ok(None));
        assert_eq!(total, (1 << 20) - 5);
    }

    #[test]
    fn what_is_missing_is_an_error_only_if_it_was_asked_for() {
        let file = file(&noise(100_000));
        let reading = Reading::of_directory(&file, 200_000);
        reading.alone(|window| Ok(window.get(90_000..100_000)?.map(drop))).unwrap();
        let failed = reading.alone(|window| Ok(window.get(90_000..100_001)?.map(drop))).unwrap_err();
        assert!(failed.to_string().contains("cut short"), "{failed}");
        // The error belongs to the work that met it.
        reading.alone(|window| Ok(window.get(0..10)?.map(drop))).unwrap();
    }
}
