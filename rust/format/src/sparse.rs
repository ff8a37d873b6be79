//! The bytes of a file that has holes.
//!
//! A hole reads as zeros. On a file system in memory, looking at one through a map takes a page, which ends
//! the process where there is none left; elsewhere it takes time for nothing. So whoever goes through a whole
//! file goes through its data only.

use std::ops::Range;

use crate::error::{ErrorKind, Result};

/// The caller is asked whether to go on each time so many bytes were read.
pub const POLL_BYTES: u64 = 1 << 26;

/// The bytes of a file, and which of them are known to be in holes.
#[derive(Debug, Clone, Copy)]
pub struct Sparse<'a> {
    /// All bytes, those in holes included.
    pub bytes: &'a [u8],
    /// In ascending order, and apart from one another.
    holes: &'a [Range<u64>],
}

impl<'a> From<&'a [u8]> for Sparse<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Sparse { bytes, holes: &[] }
    }
}

impl<'a> From<&'a Vec<u8>> for Sparse<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::from(&bytes[..])
    }
}

impl<'a> Sparse<'a> {
    /// The bytes of a file with these holes, in ascending order and apart from one another.
    pub fn new(bytes: &'a [u8], holes: &'a [Range<u64>]) -> Self {
        Sparse { bytes, holes }
    }

    /// How long the file is.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
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

    /// The data in a range, part by part.
    pub fn data_in(self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let data = self.data_from(at).filter(|data| data.start < range.end)?;
            at = data.end;
            Some(data.start..data.end.min(range.end))
        })
    }

    /// The bytes up to the first hole at or behind this byte: what is read from there on is in no hole.
    pub fn until_hole(&self, at: u64) -> &'a [u8] {
        let hole = &self.holes.get(self.holes.partition_point(|hole| hole.end <= at));
        let end = hole.map_or(self.len(), |hole| hole.start.max(at).min(self.len()));
        // No more than the length of a slice.
        &self.bytes[..end as usize]
    }

    /// The bytes of a range that is all data.
    pub fn slice(&self, range: &Range<u64>) -> Option<&'a [u8]> {
        self.bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    /// Whether there is nothing at all in the file: no more than its size may be on the disk after a power
    /// failure.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub fn is_blank(&self, mut keep_going: impl FnMut() -> bool) -> Result<bool> {
        for part in self.data_in(0..self.len()).flat_map(parts) {
            if self.slice(&part).is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0)) {
                return Ok(false);
            }
            poll(&mut keep_going)?;
        }
        Ok(true)
    }

    /// The CRC-32 of a range, in which holes count as zeros; none if it is not all in the file.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub fn crc(&self, range: &Range<u64>, mut keep_going: impl FnMut() -> bool) -> Result<Option<u32>> {
        if range.start > range.end || range.end > self.len() {
            return Ok(None);
        }
        let mut crc = crc32fast::Hasher::new();
        let mut at = range.start;
        for part in self.data_in(range.clone()).flat_map(parts) {
            if part.start > at {
                crc.combine(&of_zeros(part.start - at));
            }
            crc.update(self.slice(&part).unwrap_or_default());
            at = part.end;
            if part.end < range.end {
                poll(&mut keep_going)?;
            }
        }
        if at < range.end {
            crc.combine(&of_zeros(range.end - at));
        }
        Ok(Some(crc.finalize()))
    }
}

/// A range in parts of [`POLL_BYTES`].
fn parts(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(POLL_BYTES as usize).map(move |at| at..end.min(at + POLL_BYTES))
}

fn poll(keep_going: &mut impl FnMut() -> bool) -> Result<()> {
    if keep_going() { Ok(()) } else { Err(ErrorKind::Interrupted.into()) }
}

/// The CRC-32 of so many zeros, in as many steps as their number has bits.
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
        let file = Sparse::new(&bytes, &holes);
        let all: Vec<_> = file.data_in(0..100).collect();
        assert_eq!(all, [0..10, 30..50, 60..90]);
        assert_eq!(file.data_in(15..70).collect::<Vec<_>>(), [30..50, 60..70]);
        for at in 0..110 {
            let in_hole = holes.iter().any(|hole| hole.contains(&at));
            let data = file.data_from(at);
            assert_eq!(data.as_ref().is_some_and(|data| data.start == at), !in_hole && at < 100, "{at}");
            let until = file.until_hole(at).len() as u64;
            assert!((at..until).all(|at| !holes.iter().any(|hole| hole.contains(&at))), "{at}");
            assert_eq!(until > at, !in_hole && at < 100, "{at}");
        }
        assert_eq!(Sparse::from(&bytes).data_from(7), Some(7..100));
        assert_eq!(Sparse::from(&bytes).until_hole(7), &bytes[..]);
    }

    #[test]
    fn a_hole_counts_as_zeros() {
        let mut bytes = vec![7; 1000];
        let holes = [0..100, 300..301, 990..1000];
        for hole in &holes {
            // What a map would show if somebody looked.
            bytes[hole.start as usize..hole.end as usize].fill(9);
        }
        let mut zeros = bytes.clone();
        for hole in &holes {
            zeros[hole.start as usize..hole.end as usize].fill(0);
        }
        let file = Sparse::new(&bytes, &holes);
        for range in [0..1000, 50..80, 90..300, 300..301, 301..301, 995..1000, 200..999] {
            let expected = crc32fast::hash(&zeros[range.start as usize..range.end as usize]);
            assert_eq!(file.crc(&range, || true).unwrap(), Some(expected), "{range:?}");
        }
        assert_eq!(file.crc(&(0..1001), || true).unwrap(), None);
        assert!(!file.is_blank(|| true).unwrap());
        let halves = [0..500, 500..1000];
        assert!(Sparse::new(&bytes, &halves).is_blank(|| true).unwrap());
        // Far more than could be gone through.
        assert_eq!(of_zeros(1 << 50).finalize(), of_zeros((1 << 50) - 1 + 1).finalize());
    }
}
