//! A member as its local header describes it, with its mark if mmnpz wrote it.

use crate::additions::mark::{LARGE, LowWater, MemberRange, MemberState, mark_field};
use crate::error::Missing;
use crate::window::Window;
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

/// The checksum of a mark, and where the checksum is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) at: u64,
    pub(crate) check: [u8; 4],
}

impl LocalMember {
    /// The member whose local header is at `at`, if the header says how large the member is. The member may
    /// reach past the end of the file.
    ///
    /// # Errors
    /// If the bytes of the header were not fetched.
    pub fn read(window: Window<'_>, at: u64) -> Result<Option<Self>, Missing> {
        let Some(header) = LocalHeader::find(window, at)? else { return Ok(None) };
        let flag_bits = header.flags.get();
        if header.method.get() != STORED
            || flag_bits & (flags::DATA_DESCRIPTOR | flags::ENCRYPTED) != 0
            || header.compressed != header.uncompressed
        {
            return Ok(None);
        }
        let name_end = at + LocalHeader::SIZE as u64 + u64::from(header.name_len.get());
        let file = name_end + u64::from(header.extra_len.get());
        let mut size = u64::from(header.compressed.get());
        if header.compressed.get() == SATURATED {
            // Section 4.5.3: in a local header, the field has both sizes. The file may end inside the extra
            // field.
            let field = extra_field(window.get_inside(name_end..file)?, ZIP64_EXTRA);
            let Some(whole) = field.and_then(|field| field.first_chunk()) else { return Ok(None) };
            size = u64::from_le_bytes(*whole);
        }
        Ok(file.checked_add(size).map(|end| LocalMember {
            header: at,
            file,
            end,
            crc: header.crc.get(),
            flags: flag_bits,
            name_len: header.name_len.get(),
        }))
    }

    /// The member of mmnpz whose local header is at `at`, if its mark is right. The member may reach past the
    /// end of the file.
    ///
    /// # Errors
    /// If the bytes of the header were not fetched.
    pub fn marked(window: Window<'_>, at: u64) -> Result<Option<MarkedMember>, Missing> {
        let Some(member) = Self::read(window, at)? else { return Ok(None) };
        let extra_start = at + LocalHeader::SIZE as u64 + u64::from(member.name_len);
        // The file may end inside the padding.
        let extra = window.get_inside(extra_start..member.file)?;
        Ok(member.as_marked(member.name(window)?, extra))
    }

    /// The member with its mark, if the mark is among these extra fields, and is right.
    fn as_marked(self, name: &[u8], extra: &[u8]) -> Option<MarkedMember> {
        let (member, at) = (self, self.header);
        let field = mark_field(extra)?;
        let found = u32::from_le_bytes(*field.first_chunk()?);
        let low_water = LowWater(field.get(4).copied().unwrap_or_default());
        let range = member.range();
        let is = |state: &MemberState| found == low_water.checksum(*state, range, member.crc, name);
        let state = [MemberState::Finished, MemberState::Begun].into_iter().find(is)?;
        Some(MarkedMember { member, state, low_water: low_water.below(at) })
    }

    /// The checksum of a mark that says that this member is finished, and where it goes, if the header has a
    /// mark. What the mark says of other members stays.
    pub(crate) fn remark(&self, window: Window<'_>) -> Result<Option<Remark>, Missing> {
        let name = self.name(window)?;
        let extra_start = self.header + LocalHeader::SIZE as u64 + u64::from(self.name_len);
        let extra = window.get_inside(extra_start..self.file)?;
        Ok(mark_field(extra).filter(|field| field.len() >= 4).map(|field| {
            let low_water = LowWater(field.get(4).copied().unwrap_or_default());
            let check = low_water.checksum(MemberState::Finished, self.range(), self.crc, name);
            let at = field.as_ptr().addr() - extra.as_ptr().addr();
            Remark { at: extra_start + at as u64, check: check.to_le_bytes() }
        }))
    }

    fn range(&self) -> MemberRange {
        MemberRange { header: self.header, file: self.file, end: self.end }
    }

    /// The name, as stored.
    ///
    /// # Errors
    /// If its bytes were not fetched.
    pub fn name<'a>(&self, window: Window<'a>) -> Result<&'a [u8], Missing> {
        let start = self.header + LocalHeader::SIZE as u64;
        Ok(window.get(start..start + u64::from(self.name_len))?.unwrap_or_default())
    }

    /// Whether the stored bytes have the checksum that the header says.
    ///
    /// # Errors
    /// If they were not fetched.
    pub fn is_sound(&self, window: Window<'_>) -> Result<bool, Missing> {
        Ok(window.get(self.file..self.end)?.is_some_and(|file| crc32fast::hash(file) == self.crc))
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
            let marked = LocalMember::marked((&bytes).into(), 100).unwrap().unwrap();
            let local = marked.member;
            assert_eq!(marked.state, Finished);
            assert!(marked.low_water <= finished, "{marked:?}");
            assert_eq!(finished == 100, marked.low_water == 100);
            let file = Window::from(&bytes);
            assert_eq!(local.name(file), Ok("ä.npy".as_bytes()));
            assert_eq!(file.get(local.file..local.end), Ok(Some(&[7; 300][..])));
            assert_eq!(local.is_sound(file), Ok(true));
            assert_eq!(local.end, bytes.len() as u64);
            // A member that was moved by one byte, or with a change in any byte of the header, the name or
            // the mark.
            assert_eq!(LocalMember::marked(bytes[1..].into(), 99), Ok(None));
            let field = 100 + LocalHeader::SIZE + local.name(file).unwrap().len();
            let mark = field + 4..field + 8 + usize::from(finished < 100);
            for changed in (100..104).chain(114..field + 2).chain(mark) {
                let mut bytes = bytes.clone();
                bytes[changed] ^= 0x10;
                assert_eq!(LocalMember::marked((&bytes).into(), 100), Ok(None), "byte {changed}");
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
        assert!(LocalMember::read((&bytes).into(), 0).unwrap().is_some());
        for (at, value) in [(6, 8), (6, 1), (8, 8), (18, 0xff)] {
            let before = std::mem::replace(&mut bytes[at], value);
            assert_eq!(LocalMember::read((&bytes).into(), 0), Ok(None), "{at}");
            bytes[at] = before;
        }
    }

    #[test]
    fn a_member_that_is_begun_is_known_by_its_first_bytes() {
        for size in [100, 1 << 33] {
            let name = StoredName::new("a").unwrap();
            let place = Placement::new(0, &name, 0, size, Alignment::new(32768).unwrap(), 0).unwrap();
            let bytes = place.local_header(&name, Begun, 5);
            let state =
                |bytes: &[u8]| LocalMember::marked(bytes.into(), 0).unwrap().map(|marked| marked.state);
            assert_eq!((state(&bytes), state(&bytes[..100])), (Some(Begun), Some(Begun)));
            assert_eq!(state(&place.local_header(&name, Finished, 0)), Some(Finished));
            assert_eq!(state(&bytes[..33]), None);
        }
    }
}
