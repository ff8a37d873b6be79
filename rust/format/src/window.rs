//! The window through which this crate reads a file: the parts of the file that the caller has.
//!
//! This crate opens no file. A caller that has mapped a file gives all of its bytes. Any other caller gives
//! the parts that it has fetched. A read of another range ends with [`Missing`]: the caller fetches that
//! range and calls again. So bytes that were not fetched are never taken for zeros, nor for the end of the
//! file.
//!
//! A file can have holes, which read as zeros. A read of a hole through a map takes a page of memory in a
//! file system like tmpfs, and ends the process if no page is left. In other file systems it takes time for
//! nothing. So code that goes through a whole file goes through its data only.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};

use crate::bytes::slice;
use crate::error::{ErrorKind, Missing, Result};

/// Long reads ask the caller whether to go on every time they have read this many bytes.
pub const POLL_BYTES: u64 = 1 << 26;

/// Some bytes of a file, and where they start.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// Where the bytes start in the file.
    pub at: u64,
    /// The bytes.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Part<'a> {
    /// Bytes of someone else.
    pub fn new(at: u64, bytes: &'a [u8]) -> Self {
        Part { at, bytes: Cow::Borrowed(bytes) }
    }
}

/// Parts of a file, in ascending order, and inside the file.
#[derive(Debug)]
enum Parts<'a> {
    /// Those of someone else, for a moment.
    Borrowed(&'a [Part<'a>]),
    /// Those that are kept.
    Owned(Vec<Part<'a>>),
}

impl<'a> Deref for Parts<'a> {
    type Target = [Part<'a>];

    fn deref(&self) -> &[Part<'a>] {
        match self {
            Parts::Borrowed(parts) => parts,
            Parts::Owned(parts) => parts,
        }
    }
}

/// A caller that fetches what is missing at once.
pub trait Fetch: fmt::Debug + Sync {
    /// The bytes of a range, which is not empty and lies inside the file.
    ///
    /// # Errors
    /// If they cannot be fetched. The caller knows why.
    fn fetch(&self, range: Range<u64>) -> Result<&[u8], Missing>;

    /// Calls `find` with the bytes of such a range, piece after piece, each with up to `overlap` bytes of the
    /// next one, until it finds something. Gives back where that is. The bytes are not kept.
    ///
    /// # Errors
    /// As for [`Fetch::fetch`].
    fn search(
        &self,
        range: Range<u64>,
        overlap: u64,
        find: &mut dyn FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Option<u64>, Missing>;
}

/// The parts of a file that were fetched.
#[derive(Debug)]
pub struct Fetched<'a> {
    parts: Parts<'a>,
    len: u64,
    /// Who fetches the others, if they are not to be reported as missing.
    others: Option<&'a dyn Fetch>,
}

impl<'a> Fetched<'a> {
    /// Parts in ascending order of a file of `len` bytes.
    pub fn new(parts: &'a [Part<'a>], len: u64) -> Self {
        Fetched { parts: Parts::Borrowed(parts), len, others: None }
    }

    /// The same, to be kept.
    pub fn owned(parts: Vec<Part<'a>>, len: u64) -> Self {
        Fetched { parts: Parts::Owned(parts), len, others: None }
    }

    /// These parts, and who fetches the others.
    pub fn and<'b>(&'b self, others: &'b dyn Fetch) -> Fetched<'b> {
        Fetched { parts: Parts::Borrowed(&self.parts), len: self.len, others: Some(others) }
    }

    /// How long the file is.
    pub fn file_len(&self) -> u64 {
        self.len
    }
}

/// All bytes of a file, or the parts of it that were fetched.
///
/// A read of a map costs no more than a read of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// All bytes of a map, holes included. Empty if parts were fetched.
    bytes: &'a [u8],
    /// The holes, in ascending order and without overlap.
    holes: &'a [Range<u64>],
    /// The parts that were fetched, if the file is not mapped.
    fetched: Option<&'a Fetched<'a>>,
}

impl<'a> From<&'a [u8]> for Window<'a> {
    /// All bytes of a file without holes.
    fn from(bytes: &'a [u8]) -> Self {
        Self::whole(bytes, &[])
    }
}

impl<'a> From<&'a Vec<u8>> for Window<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::from(&bytes[..])
    }
}

impl<'a> Window<'a> {
    /// All bytes of a file with these holes, which are in ascending order and do not overlap.
    #[inline]
    pub fn whole(bytes: &'a [u8], holes: &'a [Range<u64>]) -> Self {
        Window { bytes, holes, fetched: None }
    }

    /// The parts of a file that were fetched.
    pub fn of_fetched(fetched: &'a Fetched<'a>) -> Self {
        Window { bytes: &[], holes: &[], fetched: Some(fetched) }
    }

    /// The same window of a file that has these holes, which are in ascending order and do not overlap.
    #[must_use]
    pub fn with_holes(self, holes: &'a [Range<u64>]) -> Self {
        Window { holes, ..self }
    }

    /// How long the file is.
    #[inline]
    pub fn len(&self) -> u64 {
        self.fetched.map_or(self.bytes.len() as u64, |fetched| fetched.len)
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of a range. None if the range is not all inside the file.
    ///
    /// # Errors
    /// If the range is inside the file, and was not fetched.
    #[inline]
    pub fn get(&self, range: Range<u64>) -> Result<Option<&'a [u8]>, Missing> {
        match (slice(self.bytes, &range), self.fetched) {
            (None, Some(fetched)) => fetched.get(range),
            (bytes, _) => Ok(bytes),
        }
    }

    /// The bytes of a range, as far as the range is inside the file.
    ///
    /// # Errors
    /// If any of these bytes was not fetched.
    #[inline]
    pub fn get_inside(&self, range: Range<u64>) -> Result<&'a [u8], Missing> {
        let end = range.end.min(self.len());
        Ok(self.get(range.start.min(end)..end)?.unwrap_or_default())
    }

    /// Where `find` finds something in a range, as far as that is inside the file. It is called with all of
    /// the bytes, or piece after piece, each with up to `overlap` bytes of the next one.
    ///
    /// # Errors
    /// If any of these bytes was not fetched.
    pub(crate) fn search(
        &self,
        range: Range<u64>,
        overlap: u64,
        find: &mut dyn FnMut(&[u8]) -> Option<usize>,
    ) -> Result<Option<u64>, Missing> {
        let end = range.end.min(self.len());
        let range = range.start.min(end)..end;
        if let Some(fetched) = self.fetched
            && let Some(others) = fetched.others
            && fetched.known(&range).is_none()
            && !range.is_empty()
        {
            return others.search(range, overlap, find);
        }
        Ok(find(self.get_inside(range.clone())?).map(|at| range.start + at as u64))
    }

    /// The next data at or behind this byte.
    pub fn data_from(&self, at: u64) -> Option<Range<u64>> {
        let mut next = self.holes.iter().skip(self.holes.partition_point(|hole| hole.end <= at)).peekable();
        let mut start = at;
        while let Some(hole) = next.next_if(|hole| hole.start <= start) {
            start = hole.end;
        }
        let end = next.peek().map_or(self.len(), |hole| hole.start).min(self.len());
        (start < end).then_some(start..end)
    }

    /// The data in a range, one stretch after the other.
    pub fn data_in(self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let data = self.data_from(at).filter(|data| data.start < range.end)?;
            at = data.end;
            Some(data.start..data.end.min(range.end))
        })
    }

    /// The file as if it ended at the first hole at or behind this byte: a read from this byte on then looks
    /// at no hole. Where parts are fetched, it does not end there: holes are zeros.
    #[must_use]
    pub fn until_hole(&self, at: u64) -> Self {
        let hole = self.holes.get(self.holes.partition_point(|hole| hole.end <= at));
        let end = hole.map_or(usize::MAX, |hole| usize::try_from(hole.start.max(at)).unwrap_or(usize::MAX));
        Window { bytes: self.bytes.get(..end).unwrap_or(self.bytes), ..*self }
    }

    /// Whether all bytes of the file are zeros: after a power failure, the disk may have no more of a file
    /// than its size.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] and [`ErrorKind::Missing`].
    pub fn is_blank(&self, mut keep_going: impl FnMut() -> bool) -> Result<bool> {
        for step in self.data_in(0..self.len()).flat_map(steps) {
            if self.search(step, 0, &mut |bytes| bytes.iter().position(|&byte| byte != 0))?.is_some() {
                return Ok(false);
            }
            poll(&mut keep_going)?;
        }
        Ok(true)
    }

    /// The CRC-32 of a range, in which holes count as zeros. None if the range is not all inside the file.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] and [`ErrorKind::Missing`].
    pub fn crc(&self, range: &Range<u64>, mut keep_going: impl FnMut() -> bool) -> Result<Option<u32>> {
        if range.start > range.end || range.end > self.len() {
            return Ok(None);
        }
        let mut crc = crc32fast::Hasher::new();
        let mut at = range.start;
        for step in self.data_in(range.clone()).flat_map(steps) {
            if step.start > at {
                crc.combine(&of_zeros(step.start - at));
            }
            self.search(step.clone(), 0, &mut |bytes| {
                crc.update(bytes);
                None
            })?;
            at = step.end;
            if step.end < range.end {
                poll(&mut keep_going)?;
            }
        }
        if at < range.end {
            crc.combine(&of_zeros(range.end - at));
        }
        Ok(Some(crc.finalize()))
    }
}

impl<'a> Fetched<'a> {
    /// As [`Window::get`].
    #[cold]
    fn get(&'a self, range: Range<u64>) -> Result<Option<&'a [u8]>, Missing> {
        if range.start > range.end || range.end > self.len {
            return Ok(None);
        }
        if range.is_empty() {
            return Ok(Some(&[]));
        }
        match (self.known(&range), self.others) {
            (None, Some(others)) => others.fetch(range).map(Some),
            (bytes, _) => bytes.map(Some).ok_or(Missing(range)),
        }
    }

    /// The bytes of a range, if they are among the parts.
    fn known(&self, range: &Range<u64>) -> Option<&[u8]> {
        let behind = self.parts.partition_point(|part| part.at <= range.start);
        let part = self.parts.get(behind.checked_sub(1)?)?;
        slice(&part.bytes, &(range.start - part.at..range.end - part.at))
    }
}

/// A range in steps of [`POLL_BYTES`].
fn steps(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(POLL_BYTES as usize).map(move |at| at..end.min(at + POLL_BYTES))
}

fn poll(keep_going: &mut impl FnMut() -> bool) -> Result<()> {
    if keep_going() { Ok(()) } else { Err(ErrorKind::Interrupted.into()) }
}

/// The CRC-32 of `count` zeros, in as many steps as `count` has bits.
pub(crate) fn of_zeros(mut count: u64) -> crc32fast::Hasher {
    let mut all = crc32fast::Hasher::new();
    let mut power = crc32fast::Hasher::new();
    power.update(&[0]);
    while count > 0 {
        if count & 1 == 1 {
            all.combine(&power);
        }
        power.combine(&power.clone());
        count >>= 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_all_but_the_holes() {
        let bytes: Vec<u8> = (0..100).collect();
        let holes = [10..20, 20..30, 50..60, 90..100];
        let file = Window::whole(&bytes, &holes);
        let all: Vec<_> = file.data_in(0..100).collect();
        assert_eq!(all, [0..10, 30..50, 60..90]);
        assert_eq!(file.data_in(15..70).collect::<Vec<_>>(), [30..50, 60..70]);
        for at in 0..110 {
            let in_hole = holes.iter().any(|hole| hole.contains(&at));
            let data = file.data_from(at);
            assert_eq!(data.as_ref().is_some_and(|data| data.start == at), !in_hole && at < 100, "{at}");
            let until = file.until_hole(at).len();
            assert!((at..until).all(|at| !holes.iter().any(|hole| hole.contains(&at))), "{at}");
            assert_eq!(until > at, !in_hole && at < 100, "{at}");
        }
        assert_eq!(Window::from(&bytes).data_from(7), Some(7..100));
        assert_eq!(Window::from(&bytes).until_hole(7).len(), 100);
    }

    #[test]
    fn a_hole_counts_as_zeros() {
        let mut bytes = vec![7; 1000];
        let holes = [0..100, 300..301, 990..1000];
        for hole in &holes {
            // A read of a hole would find these bytes.
            bytes[hole.start as usize..hole.end as usize].fill(9);
        }
        let mut zeros = bytes.clone();
        for hole in &holes {
            zeros[hole.start as usize..hole.end as usize].fill(0);
        }
        let file = Window::whole(&bytes, &holes);
        for range in [0..1000, 50..80, 90..300, 300..301, 301..301, 995..1000, 200..999] {
            let expected = crc32fast::hash(&zeros[range.start as usize..range.end as usize]);
            assert_eq!(file.crc(&range, || true).unwrap(), Some(expected), "{range:?}");
        }
        assert_eq!(file.crc(&(0..1001), || true).unwrap(), None);
        assert!(!file.is_blank(|| true).unwrap());
        let halves = [0..500, 500..1000];
        assert!(Window::whole(&bytes, &halves).is_blank(|| true).unwrap());
        // More zeros than a test could go through.
        assert_eq!(of_zeros(1 << 50).finalize(), of_zeros((1 << 50) - 1 + 1).finalize());
    }

    #[test]
    fn what_was_not_fetched_is_missing_and_not_the_end() {
        let bytes: Vec<u8> = (0..100).collect();
        let part = |range: Range<usize>| Part::new(range.start as u64, &bytes[range]);
        let parts = [part(10..20), part(20..25), part(40..60), part(99..100)];
        let fetched = Fetched::new(&parts, 100);
        let window = Window::of_fetched(&fetched);
        for start in 0..=100 {
            for end in start..=100 {
                let has = |part: &Part<'_>| part.at <= start && end <= part.at + part.bytes.len() as u64;
                let is_there = start == end || parts.iter().any(has);
                match window.get(start..end) {
                    Ok(found) => {
                        assert!(is_there, "{start}..{end}");
                        assert_eq!(found, Some(&bytes[start as usize..end as usize]));
                    }
                    Err(missing) => {
                        assert!(!is_there);
                        assert_eq!(missing, Missing(start..end));
                    }
                }
            }
            assert_eq!(window.get(start..101), Ok(None));
            assert_eq!(window.get(start + 1..start), Ok(None));
            assert_eq!(window.get(start..u64::MAX), Ok(None));
        }
        assert_eq!(window.get_inside(99..200), Ok(&bytes[99..]));
        assert_eq!(window.get_inside(98..200), Err(Missing(98..100)));
        assert_eq!(window.get_inside(200..300), Ok(&[][..]));
        assert_eq!(window.crc(&(40..60), || true).unwrap(), Some(crc32fast::hash(&bytes[40..60])));
        let missing = window.crc(&(40..61), || true).unwrap_err();
        assert_eq!(missing.kind, ErrorKind::Missing(40..61));
        assert!(window.is_blank(|| true).is_err());
    }
}
