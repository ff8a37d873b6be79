//! The mark in a local header: whether the member is finished, and below which byte all members were finished
//! when it was begun.

use crate::additions::checksum::{step, through};

/// The extra field with a mark. The central directory has another field under this number, see
/// [`crate::additions::array_field`].
pub const MARK_EXTRA: u16 = 0x6d6d;

/// The head of every extra field: its number and its length.
const EXTRA_HEAD: u64 = 4;

/// The smallest mark: the head of the field and the checksum.
const MARK_MIN: u64 = EXTRA_HEAD + 4;

/// A member of more than this many bytes, headers included, is *large*: its local header says that it is
/// finished only once all of its bytes are in the file. A smaller member may be written in one piece, of
/// which a kill can leave only a part.
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
    /// Its range is reserved. Its bytes need not be in the file.
    Begun,
    /// Its checksum is in the header. If the member is not large, some of its bytes may still be missing.
    Finished,
}

/// How far a member's low-water mark is below its local header: 0, or a power of two. The distance is rounded
/// up: the mark then covers fewer members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LowWater(pub(crate) u8);

impl LowWater {
    /// The low-water mark of a member at `header`, if all members in front of `finished` are finished.
    pub fn new(header: u64, finished: u64) -> Self {
        match header.saturating_sub(finished) {
            0 => LowWater(0),
            // At most 2**63, which no file reaches. A mark with that distance covers no member.
            distance => {
                LowWater(distance.checked_next_power_of_two().map_or(63, u64::trailing_zeros).max(1) as u8)
            }
        }
    }

    /// The byte below which all members were finished when the member at `header` was begun.
    pub(crate) fn below(self, header: u64) -> u64 {
        match self.0 {
            0 => header,
            power => header.saturating_sub(1 << power.min(63)),
        }
    }

    /// The least number of bytes of an extra field that holds this mark.
    pub fn field_len(self) -> u64 {
        MARK_MIN + u64::from(self.0 > 0)
    }

    /// Writes a mark into `out`, which is the whole extra field, filled with zeros. The bytes that the mark
    /// does not need are padding.
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

    /// The checksum of the mark of a member with this range and this CRC-32. For a member that is begun, the
    /// CRC-32 does not count.
    pub fn checksum(self, state: MemberState, range: MemberRange, crc: u32, name: &[u8]) -> u32 {
        let (kind, crc) = match state {
            MemberState::Begun => (1, 0),
            MemberState::Finished => (2, crc),
        };
        checksum(u64::from(self.0) << 8 | kind, range, crc, name)
    }
}

/// A checksum of numbers and a name, computed for every member. A second CRC-32 cost 2 % of the time to write
/// a small array; this mixer costs 0.4 %.
pub(crate) fn checksum(kind: u64, range: MemberRange, crc: u32, name: &[u8]) -> u32 {
    let MemberRange { header, file, end } = range;
    let numbers = [kind, header, file, end, u64::from(crc), name.len() as u64];
    let state = numbers.into_iter().fold(0, step);
    // The upper half: every bit of the words has reached it.
    (through(state, name) >> 32) as u32
}

/// The content of the extra field with the mark, as far as it is in the file. It is the last field.
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
