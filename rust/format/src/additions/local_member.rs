//! TODO.

use crate::additions::mark::{LARGE, LowWater, MemberState, mark_field};
use crate::bytes::slice;
use crate::error::ErrorKind;
use crate::zip::records::{LocalHeader, Record, SATURATED, STORED, ZIP64_EXTRA, extra_field, flags};

/// A stored member as its local header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalMember {
    /// Where the local header starts.
    pub header: u64,
    /// Where the stored bytes start.
    pub file: u64,
    /// Where they end.
    pub end: u64,
    /// Their checksum.
    pub crc: u32,
    /// General-purpose flags.
    pub flags: u16,
    name_len: u16,
}

/// A member of mmnpz as its local header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkedMember {
    /// The member.
    pub member: LocalMember,
    /// Whether it is finished.
    pub state: MemberState,
    /// All members below this byte of the file were finished when this one was begun.
    pub low_water: u64,
}

impl LocalMember {
    /// The member whose local header is at `at`, if that says how large it is. It may end behind the file.
    pub fn read(bytes: &[u8], at: u64) -> Option<Self> {
        let header = LocalHeader::read(bytes, at, ErrorKind::LocalOutside).ok()?;
        let flag_bits = header.flags.get();
        if header.method.get() != STORED
            || flag_bits & (flags::DATA_DESCRIPTOR | flags::ENCRYPTED) != 0
            || header.compressed != header.uncompressed
        {
            return None;
        }
        let name_end = at + LocalHeader::SIZE as u64 + u64::from(header.name_len.get());
        let file = name_end + u64::from(header.extra_len.get());
        let mut size = u64::from(header.compressed.get());
        if header.compressed.get() == SATURATED {
            // Section 4.5.3: in a local header both sizes are there. Only the start of it may be in the file.
            let extra = slice(bytes, &(name_end..file.min(bytes.len() as u64)))?;
            let field = extra_field(extra, ZIP64_EXTRA)?;
            size = u64::from_le_bytes(*field.first_chunk()?);
        }
        let end = file.checked_add(size)?;
        Some(LocalMember {
            header: at,
            file,
            end,
            crc: header.crc.get(),
            flags: flag_bits,
            name_len: header.name_len.get(),
        })
    }

    /// The member of mmnpz whose local header is at `at`, if its mark is right. It may end behind the file.
    pub fn marked(bytes: &[u8], at: u64) -> Option<MarkedMember> {
        let member = Self::read(bytes, at)?;
        let name = member.name(bytes);
        let extra_start = at + LocalHeader::SIZE as u64 + u64::from(member.name_len);
        // Only the start of the padding may be in the file.
        let extra = slice(bytes, &(extra_start..member.file.min(bytes.len() as u64)))?;
        let field = mark_field(extra)?;
        let found = u32::from_le_bytes(*field.first_chunk()?);
        let low_water = LowWater(field.get(4).copied().unwrap_or_default());
        let places = (at, member.file, member.end);
        let is = |state: &MemberState| found == low_water.checksum(*state, places, member.crc, name);
        let state = [MemberState::Finished, MemberState::Begun].into_iter().find(is)?;
        Some(MarkedMember { member, state, low_water: low_water.below(at) })
    }

    /// The name, as stored.
    pub fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.header + LocalHeader::SIZE as u64;
        slice(bytes, &(start..start + u64::from(self.name_len))).unwrap_or_default()
    }

    /// Whether the stored bytes have the checksum that the header says.
    pub fn is_sound(&self, bytes: &[u8]) -> bool {
        slice(bytes, &(self.file..self.end)).is_some_and(|file| crc32fast::hash(file) == self.crc)
    }

    /// Whether the local header comes after all other bytes of the member, see [`LARGE`].
    pub fn is_large(&self) -> bool {
        self.end - self.header > LARGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::placement::{Alignment, Placement};
    use crate::zip::name::StoredName;

    use MemberState::{Begun, Finished};

    fn member(at: usize, name: &str, data: &[u8], align: u64, finished: u64) -> Vec<u8> {
        let name = StoredName::new(name).unwrap();
        let align = Alignment::new(align).unwrap();
        let place = Placement::new(at as u64, &name, 0, data.len() as u64, align, finished).unwrap();
        let mut bytes = place.local_header(&name, Finished, crc32fast::hash(data));
        bytes.extend(data);
        assert_eq!(bytes.len() as u64, place.end - at as u64);
        bytes
    }

    #[test]
    fn a_mark_holds_only_where_and_as_it_was_written() {
        for (align, finished) in [(1, 100), (1, 3), (64, 100), (64, 0), (32768, 99)] {
            let mut bytes = vec![0; 100];
            bytes.extend(member(100, "ä", &[7; 300], align, finished));
            let marked = LocalMember::marked(&bytes, 100).unwrap();
            let local = marked.member;
            assert_eq!(marked.state, Finished);
            assert!(marked.low_water <= finished, "{marked:?}");
            assert_eq!(finished == 100, marked.low_water == 100);
            assert_eq!(local.name(&bytes), "ä.npy".as_bytes());
            assert_eq!(slice(&bytes, &(local.file..local.end)), Some(&[7; 300][..]));
            assert!(local.is_sound(&bytes));
            assert_eq!(local.end, bytes.len() as u64);
            // Moved by one, or with any byte of the header, the name or the mark changed.
            assert_eq!(LocalMember::marked(&bytes[1..], 99), None);
            let field = 100 + LocalHeader::SIZE + local.name(&bytes).len();
            let mark = field + 4..field + 8 + usize::from(finished < 100);
            for changed in (100..104).chain(114..field + 2).chain(mark) {
                let mut bytes = bytes.clone();
                bytes[changed] ^= 0x10;
                assert_eq!(LocalMember::marked(&bytes, 100), None, "byte {changed}");
            }
        }
    }

    #[test]
    fn a_low_water_mark_says_at_most_what_is_so() {
        for header in [0, 1, 1000, 1 << 40, (1 << 62) + 1] {
            for distance in [0, 1, 2, 3, 100, 1 << 33, (1 << 62) + 1, u64::MAX] {
                let finished = header - distance.min(header);
                let below = LowWater::new(header, finished).below(header);
                assert!(below <= finished, "{header} {distance}");
                assert!(header - below <= 2 * (header - finished), "{header} {distance}");
            }
        }
    }

    #[test]
    fn members_without_a_size_in_front_are_not_read() {
        let mut bytes = member(0, "a", &[1; 20], 1, 0);
        assert!(LocalMember::read(&bytes, 0).is_some());
        for (at, value) in [(6, 8), (6, 1), (8, 8), (18, 0xff)] {
            let before = std::mem::replace(&mut bytes[at], value);
            assert_eq!(LocalMember::read(&bytes, 0), None, "{at}");
            bytes[at] = before;
        }
    }

    #[test]
    fn a_member_that_is_begun_is_known_by_its_first_bytes() {
        for size in [100, 1 << 33] {
            let name = StoredName::new("a").unwrap();
            let place = Placement::new(0, &name, 0, size, Alignment::new(32768).unwrap(), 0).unwrap();
            let bytes = place.local_header(&name, Begun, 5);
            let state = |bytes: &[u8]| LocalMember::marked(bytes, 0).map(|marked| marked.state);
            assert_eq!((state(&bytes), state(&bytes[..100])), (Some(Begun), Some(Begun)));
            assert_eq!(state(&place.local_header(&name, Finished, 0)), Some(Finished));
            assert_eq!(state(&bytes[..33]), None);
        }
    }
}
