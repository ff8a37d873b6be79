//! Having the system read what is needed of a map, all of it at once and before a program touches it.
//!
//! A page that is not in memory costs a page fault, which waits for the disk. So code that is going to read
//! many places first tells the system of all of them, unless a look at a few places shows that they are in
//! memory.

use std::time::{Duration, Instant};

use crate::failure::{Failure, KeepGoing, check};
use crate::items::Extent;
use crate::mapping::Map;
use crate::paging::Advice;

/// How many bytes the system is asked for by one call.
pub(crate) const STEP: usize = 1 << 22;

/// The time between two questions whether to go on.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// At least this many places are looked at, if there are as many.
pub(crate) const LOOKS: usize = 2;

/// Of more places, one in this many is looked at.
const LOOK_EACH: usize = 16;

/// The headers of a member with an ordinary `.npy` header have at most this many bytes.
const HEADERS: usize = 512;

/// Places that are no further apart than this are read with what is between them. Disks and networks take
/// about as long for a request as for some more bytes, and many allow only so many requests a second.
const NEAR: usize = 1 << 14;

/// Bytes of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where they start.
    pub offset: usize,
    /// How many there are.
    pub bytes: usize,
}

impl Map {
    /// Whether a place lies in the file.
    #[inline]
    pub fn has(&self, place: Place) -> bool {
        place.offset.checked_add(place.bytes).is_some_and(|end| end <= self.len())
    }

    /// Whether an address is in the map, or where the map ends.
    #[inline]
    pub fn contains(&self, address: *const u8) -> bool {
        // A file that is not mapped has no addresses.
        (self.start().addr()..=self.start().addr() + self.bytes().len()).contains(&address.addr())
    }

    /// Where an address is in the map. One that is not gives the end of the file, where nothing is.
    #[inline]
    pub fn offset_of(&self, address: *const u8) -> usize {
        if self.contains(address) { address.addr() - self.start().addr() } else { self.len() }
    }

    /// Whether some of an array's items lie in the map.
    pub fn overlaps(&self, extent: &Extent) -> bool {
        let (start, bytes) = (self.start().addr(), self.bytes().len());
        Extent { addresses: start..start + bytes, bytes }.overlaps(extent)
    }

    /// The place of an array's items, if all of them lie in the map.
    pub fn place_of(&self, extent: &Extent) -> Option<Place> {
        let offset = extent.addresses.start.checked_sub(self.start().addr())?;
        let end = offset.checked_add(extent.addresses.len())?;
        (end <= self.bytes().len()).then_some(Place { offset, bytes: extent.addresses.len() })
    }

    /// The place of the headers of a member whose local header starts at this byte.
    pub fn headers_at(&self, local_header: u64) -> Option<Place> {
        let offset = usize::try_from(local_header).ok()?;
        let left = self.len().checked_sub(offset).filter(|&left| left > 0)?;
        Some(Place { offset, bytes: HEADERS.min(left) })
    }
}

/// Whether some of the places are not in memory, judged by `looks` of them.
pub(crate) fn is_cold(map: &Map, places: &[Place], looks: usize) -> bool {
    let last = places.len().saturating_sub(1);
    let mut numbers = (0..looks).map(|look| last * look / looks.saturating_sub(1).max(1));
    numbers.any(|number| places.get(number).is_some_and(|place| map.is_absent(place.offset, place.bytes)))
}

/// Whether some of the places are not in memory, judged by a few of them.
pub fn are_cold(map: &Map, places: &[Place]) -> bool {
    is_cold(map, places, LOOKS.max(places.len() / LOOK_EACH))
}

/// The places to ask the system for, in the order in which they lie, so that what lies side by side is one
/// request.
pub(crate) fn merged(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_unstable_by_key(|place| place.offset);
    places.dedup_by(|next, last| {
        let end = last.offset + last.bytes;
        let is_near = next.offset <= end.saturating_add(NEAR);
        if is_near {
            last.bytes = end.max(next.offset + next.bytes) - last.offset;
        }
        is_near
    });
    places
}

/// Has the system read places.
///
/// # Errors
/// [`Failure::Interrupted`].
pub fn fetch(map: &Map, places: &[Place], keep_going: KeepGoing<'_>) -> Result<(), Failure> {
    let mut polled = Instant::now();
    let are_there = |place: &Place| place.bytes > 0 && map.has(*place);
    for place in merged(places.iter().copied().filter(are_there).collect()) {
        let end = place.offset + place.bytes;
        for offset in (place.offset..end).step_by(STEP) {
            map.advise(Advice::WillNeed, offset, STEP.min(end - offset));
            if polled.elapsed() > POLL {
                check(keep_going)?;
                polled = Instant::now();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Ranges = &'static [(usize, usize)];

    #[test]
    fn what_lies_side_by_side_is_one_request() {
        let places = |ranges: &[(usize, usize)]| -> Vec<Place> {
            ranges.iter().map(|&(start, end)| Place { offset: start, bytes: end - start }).collect()
        };
        let near = 100 + NEAR;

        let near_and_far: [(usize, usize); 2] = [(0, 100), (near + 1, near + 5)];
        assert_eq!(merged(places(&[near_and_far[1], near_and_far[0]])), places(&near_and_far));
        assert_eq!(merged(places(&[(near, near + 5), (0, 100)])), places(&[(0, near + 5)]));
        let cases: [(Ranges, Ranges); 4] = [
            (&[], &[]),
            (&[(200, 300), (0, 100), (100, 200)], &[(0, 300)]),
            (&[(10, 20), (0, 100), (50, 60), (90, 120)], &[(0, 120)]),
            (&[(usize::MAX - 9, usize::MAX), (5, 6)], &[(5, 6), (usize::MAX - 9, usize::MAX)]),
        ];
        for (given, expected) in cases {
            assert_eq!(merged(places(given)), places(expected), "{given:?}");
        }
    }
}
