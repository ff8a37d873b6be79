//! The mark in a member's local header: whether the member is finished, and what it says of those below it.

use crate::additions::checksum::{step, through};

/// The extra field with a mark. The central directory has another field under this number, see
/// [`crate::additions::array_field`].
pub const MARK_EXTRA: u16 = 0x6d6d;

/// What precedes the content of every extra field: its number and its length.
const EXTRA_HEAD: u64 = 4;

/// The smallest mark: the head of the field and the checksum.
const MARK_MIN: u64 = EXTRA_HEAD + 4;

/// A member of more than this many bytes, headers included, is *large*: its local header says that it is
/// finished only once all of its bytes are in the file. A smaller one may be written in one piece, of which a
/// kill can leave a part.
pub const LARGE: u64 = 1 << 20;

/// Where a member lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRange {
    /// Where its local header starts.
    pub header: u64,
    /// Where its stored bytes start.
    pub file: u64,
    /// Where they end.
    pub end: u64,
}

/// What a mark says of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Its range is reserved, and its bytes need not be there.
    Begun,
    /// Its checksum is in the header. If it is not large, its bytes need not all be there.
    Finished,
}

/// How far below a member's local header its low-water mark is: nothing, or a power of two. Rounding up only
/// makes the mark say less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowWater(pub(crate) u8);

impl LowWater {
    /// That of a member at `header`, if all members in front of `finished` are finished.
    pub fn new(header: u64, finished: u64) -> Self {
        match header.saturating_sub(finished) {
            0 => LowWater(0),
            // At most 2**63, which no file reaches: then it vouches for nothing.
            distance => {
                LowWater(distance.checked_next_power_of_two().map_or(63, u64::trailing_zeros).max(1) as u8)
            }
        }
    }

    /// The byte below which all members were finished when the one at `header` was begun.
    pub(crate) fn below(self, header: u64) -> u64 {
        match self.0 {
            0 => header,
            power => header.saturating_sub(1 << power.min(63)),
        }
    }

    /// The least number of bytes of the extra field that holds it.
    pub fn field_len(self) -> u64 {
        MARK_MIN + u64::from(self.0 > 0)
    }

    /// Writes the extra field that marks a member into `out`, which is all of the field and zeroed: what the
    /// mark does not need is padding.
    pub fn write(self, checksum: u32, out: &mut [u8]) {
        let length = out.len().saturating_sub(EXTRA_HEAD as usize) as u16;
        let mut all = [0; MARK_MIN as usize + 1];
        all[..2].copy_from_slice(&MARK_EXTRA.to_le_bytes());
        all[2..4].copy_from_slice(&length.to_le_bytes());
        all[4..8].copy_from_slice(&checksum.to_le_bytes());
        all[8] = self.0;
        let length = all.len().min(out.len());
        out[..length].copy_from_slice(&all[..length]);
    }

    /// The checksum of the mark of a member in this range, with this CRC-32. Of a member that is begun, the
    /// CRC-32 does not count.
    pub fn checksum(self, state: MemberState, range: MemberRange, crc: u32, name: &[u8]) -> u32 {
        let (kind, crc) = match state {
            MemberState::Begun => (1, 0),
            MemberState::Finished => (2, crc),
        };
        checksum(u64::from(self.0) << 8 | kind, range, crc, name)
    }
}

/// A checksum of numbers and a name. It is computed for every member. A second CRC-32 cost 2 % of writing a
/// small array; this mixer costs 0.4 %.
pub(crate) fn checksum(kind: u64, range: MemberRange, crc: u32, name: &[u8]) -> u32 {
    let MemberRange { header, file, end } = range;
    let numbers = [kind, header, file, end, u64::from(crc), name.len() as u64];
    let state = numbers.into_iter().fold(0, step);
    // The upper half: every bit of the words has reached it.
    (through(state, name) >> 32) as u32
}

/// What there is of the content of the field with the mark, which is the last one.
pub(crate) fn mark_field(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let (head, rest) = extra.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if head[..2] == MARK_EXTRA.to_le_bytes() {
            return Some(&rest[..length.min(rest.len())]);
        }
        extra = rest.get(length..)?;
    }
}
