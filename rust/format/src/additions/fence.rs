//! Fences: entries without a name, which lead readers without a directory across room, index and seal.

use zerocopy::IntoBytes;

use crate::zip::encode::{DATE, MADE_BY_UNIX, VERSION};
use crate::zip::records::{CentralHeader, Record, STORED};

/// The length of a fence without its extra field.
pub(crate) const FENCE: u64 = CentralHeader::SIZE as u64;

/// A longer room has one fence only: each fence fills a page of the hole.
pub(crate) const MOST_FENCED: u64 = 1 << 26;

/// The distance from one fence in a room to the next, apart from the first fence, which stands where the
/// members end.
const STEP: u64 = 1 << 16;

/// The fences between the last member, which ends at `next`, and the directory at byte `directory`, with
/// their places. Index and seal begin at `head`, with a fence of their own if `is_fenced`. No fences where
/// there is no room for one.
///
/// Programs that go through an archive without its directory expect an entry behind the last member, and some
/// complain of anything else. A fence is the header of an entry without a name; all bytes up to the
/// directory, or up to the next fence, are its extra field. When members are added, only the first fence
/// moves. Of the others, this gives those in front of `reached`.
pub(crate) fn fences(
    next: u64,
    (head, is_fenced): (u64, bool),
    directory: u64,
    reached: u64,
) -> Vec<(Vec<u8>, u64)> {
    if next.saturating_add(FENCE) > head {
        return Vec::new();
    }
    let behind = if is_fenced { head } else { directory };
    if behind - next <= FENCE + u64::from(u16::MAX) {
        return vec![(fence(behind - next - FENCE), next)];
    }
    if head - next > MOST_FENCED {
        return vec![(fence(0), next)];
    }
    let last = if is_fenced { head } else { head - FENCE };
    if last < next + FENCE {
        // An index in one piece that is too long for an extra field. mmnpz writes no such index.
        return vec![(fence(0), next)];
    }
    let first = last - (last - next - FENCE) / STEP * STEP;
    let mut fences = vec![(fence(first - next - FENCE), next)];
    let mut at = first;
    while at < last && at < reached {
        fences.push((fence(STEP - FENCE), at));
        at += STEP;
    }
    if !is_fenced && last < reached {
        fences.push((fence(directory - last - FENCE), last));
    }
    fences
}

/// A fence whose extra field has `extra` bytes, or none if an extra field cannot be that long.
pub(crate) fn fence(extra: u64) -> Vec<u8> {
    let extra_len = u16::try_from(extra).unwrap_or_default();
    let header = CentralHeader {
        signature: CentralHeader::SIGNATURE.into(),
        version_made_by: (MADE_BY_UNIX | VERSION).into(),
        version_needed: VERSION.into(),
        flags: 0.into(),
        method: STORED.into(),
        time: 0.into(),
        date: DATE.into(),
        crc: 0.into(),
        compressed: 0.into(),
        uncompressed: 0.into(),
        name_len: 0.into(),
        extra_len: extra_len.into(),
        comment_len: 0.into(),
        disk: 0.into(),
        internal_attributes: 0.into(),
        external_attributes: 0.into(),
        local_offset: 0.into(),
    };
    header.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the fences lead a reader that starts at `next`.
    fn led(fences: &[(Vec<u8>, u64)], next: u64) -> u64 {
        fences.iter().fold(next, |at, (fence, place)| {
            assert_eq!(*place, at);
            at + FENCE + u64::from(u16::from_le_bytes([fence[30], fence[31]]))
        })
    }

    #[test]
    fn fences_lead_to_the_directory_or_the_first_block_of_an_index() {
        let far = MOST_FENCED;
        for is_fenced in [false, true] {
            for room in
                [0, 45, 46, 92, 1000, 65_490, 65_581, 65_582, 65_600, 131_000, 131_162, 1 << 20, far, far + 1]
            {
                for behind in [96, 100, 65_489] {
                    let (next, head) = (500, 500 + room);
                    let all = fences(next, (head, is_fenced), head + behind, u64::MAX);
                    assert_eq!(all.is_empty(), room < FENCE, "{room}");
                    assert!(all.iter().all(|(_, place)| place + FENCE <= head));
                    let goal = if is_fenced { head } else { head + behind };
                    // An index that begins with a fence needs no fence in front of it.
                    let is_led = (FENCE..=MOST_FENCED).contains(&room) || (is_fenced && room == 0);
                    assert_eq!(led(&all, next) == goal, is_led, "{is_fenced} {room} {behind}");
                }
            }
        }
    }

    #[test]
    fn as_members_are_added_only_the_first_fence_moves() {
        let head = (1 << 20, true);
        let all = fences(500, head, 1 << 21, u64::MAX);
        // An index in one piece, longer than any that mmnpz writes.
        assert_eq!(led(&fences(500, (570, false), 1 << 20, u64::MAX), 500), 546);
        for next in [501, 70_000, 131_026, 131_072, 900_000, (1 << 20) - 46] {
            let first = fences(next, head, 1 << 21, next);
            assert_eq!(first.len(), 1);
            let behind = led(&first, next);
            let others: Vec<_> = all.iter().filter(|(_, place)| *place >= behind).cloned().collect();
            assert_eq!(led(&others, behind), head.0, "{next}");
            assert_eq!(fences(next, head, 1 << 21, u64::MAX)[1..], others);
        }
    }
}
