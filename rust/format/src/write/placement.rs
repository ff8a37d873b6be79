//! Where a member goes, and the bytes of its headers.
//!
//! A member of mmnpz is stored, has its size in the local header, starts where the one before it ends, and
//! has its *array* (not its `.npy` header) at a multiple of the alignment. The padding is part of the extra
//! field with the member's mark ([`crate::additions::mark`]), which every zip tool skips. Sizes and offsets
//! take zip64 fields only where 32 bits do not hold them (APPNOTE 4.3.9.2, 4.5.3).

use zerocopy::IntoBytes;

use crate::additions::array_field::{self, ArrayField};
use crate::additions::checkpoint;
use crate::additions::mark::{LARGE, LowWater, MemberRange, MemberState};
use crate::error::{Error, ErrorKind, Result};
use crate::recover::partial::Partial;
use crate::zip::encode::{
    DATE, LOCAL_ZIP64_LEN, needs_zip64, saturating, version, write_central, write_zip64_extra,
};
use crate::zip::name::StoredName;
use crate::zip::records::{LocalHeader, Record, STORED};

/// The largest alignment that is offered: an extra field can hold the padding for it, as it has at most 65535
/// bytes.
const MAX_ALIGNMENT: u64 = 1 << 15;

/// No offset in an archive may exceed what a file system's signed offsets hold.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// A power of two to whose multiples array data is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alignment(u64);

impl Alignment {
    /// Checks the number of bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Alignment`] unless it is a power of two up to 32768.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes.is_power_of_two() && bytes <= MAX_ALIGNMENT {
            Ok(Alignment(bytes))
        } else {
            Err(ErrorKind::Alignment(bytes).into())
        }
    }

    /// The number of bytes.
    pub(crate) fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// The place of a member in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Where the local header starts.
    pub header: u64,
    /// Where the `.npy` file starts.
    pub file: u64,
    /// Where it ends, and the next member may start.
    pub end: u64,
    /// The length of the extra fields, padding included.
    extra_len: u64,
    low_water: LowWater,
}

impl Placement {
    /// Places, at byte `at`, an `.npy` file of `size` bytes whose first `npy_header` bytes are its header;
    /// all members in front of byte `finished` are finished.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if it would end beyond 2**63.
    pub fn new(
        at: u64,
        name: &StoredName,
        npy_header: u64,
        size: u64,
        alignment: Alignment,
        finished: u64,
    ) -> Result<Self> {
        let zip64_len = if needs_zip64(size) { LOCAL_ZIP64_LEN } else { 0 };
        Self::with_room(at, name, (npy_header, size), alignment, finished, zip64_len)
    }

    /// As [`Placement::new`], for a member that [can grow](Placement::resized): its local header has room for
    /// any size, and for [checkpoints](crate::additions::checkpoint).
    ///
    /// # Errors
    /// Those.
    pub fn growing(
        at: u64,
        name: &StoredName,
        npy_header: u64,
        size: u64,
        alignment: Alignment,
        finished: u64,
    ) -> Result<Self> {
        Self::with_room(
            at,
            name,
            (npy_header, size),
            alignment,
            finished,
            LOCAL_ZIP64_LEN + checkpoint::room(npy_header),
        )
    }

    /// The place of an array of the first `count` rows of a stream that was not finished, under this name.
    /// None if there is no room for the name.
    pub fn of_rows(rows: &Partial, name: &StoredName, count: u64) -> Option<Self> {
        let fixed = LocalHeader::SIZE as u64 + u64::from(name.len());
        // It vouches for no other member.
        let low_water = LowWater::new(rows.header, 0);
        let end = rows.data.checked_add(count.checked_mul(rows.row)?)?;
        let least = low_water.field_len() + if needs_zip64(end - rows.file) { LOCAL_ZIP64_LEN } else { 0 };
        let extra_len = (rows.file - rows.header).checked_sub(fixed).filter(|&length| length >= least)?;
        Some(Placement { header: rows.header, file: rows.file, end, extra_len, low_water })
    }

    /// A place with this much room for extra fields, in addition to the mark.
    fn with_room(
        at: u64,
        name: &StoredName,
        (npy_header, size): (u64, u64),
        alignment: Alignment,
        finished: u64,
        room: u64,
    ) -> Result<Self> {
        let low_water = LowWater::new(at, finished);
        let fixed = LocalHeader::SIZE as u64 + u64::from(name.len());
        let too_large = || Error::from(ErrorKind::TooLarge);
        let least = low_water.field_len() + room;
        let unpadded = at.checked_add(fixed + least + npy_header).ok_or_else(too_large)?;
        let extra_len = least + (unpadded.wrapping_neg() & (alignment.0 - 1));
        let file = at.checked_add(fixed + extra_len).ok_or_else(too_large)?;
        let end = file.checked_add(size).filter(|&end| end <= MAX_OFFSET).ok_or_else(too_large)?;
        Ok(Placement { header: at, file, end, extra_len, low_water })
    }

    /// The place of the same member with another end, if it [can grow](Placement::growing).
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if that is beyond 2**63.
    pub fn resized(&self, end: u64) -> Result<Self> {
        if end > MAX_OFFSET { Err(ErrorKind::TooLarge.into()) } else { Ok(Placement { end, ..*self }) }
    }

    /// Whether the member is written in pieces, so that its local header says last that it is finished.
    pub fn is_large(&self) -> bool {
        self.end - self.header > LARGE
    }

    /// The checksum of its mark.
    fn mark(&self, name: &StoredName, state: MemberState, crc: u32) -> u32 {
        let range = MemberRange { header: self.header, file: self.file, end: self.end };
        self.low_water.checksum(state, range, crc, name.bytes())
    }

    fn size(&self) -> u64 {
        self.end - self.file
    }

    /// Writes the local header into `out`, which holds the bytes from [`Placement::header`] to
    /// [`Placement::file`], zeroed. That of a member that is begun has no CRC-32 yet.
    pub fn write_local(&self, name: &StoredName, state: MemberState, crc: u32, out: &mut [u8]) {
        let zip64 = needs_zip64(self.size());
        let zip64_len = if zip64 { LOCAL_ZIP64_LEN } else { 0 };
        let crc = if state == MemberState::Begun { 0 } else { crc };
        let header = LocalHeader {
            signature: LocalHeader::SIGNATURE.into(),
            version_needed: version(zip64).into(),
            flags: name.flags.into(),
            method: STORED.into(),
            time: 0.into(),
            date: DATE.into(),
            crc: crc.into(),
            compressed: saturating(self.size()).into(),
            uncompressed: saturating(self.size()).into(),
            name_len: name.len().into(),
            // Less than MAX_ALIGNMENT and a few bytes more.
            extra_len: (self.extra_len as u16).into(),
        };
        let (fixed, rest) = out.split_at_mut(LocalHeader::SIZE);
        fixed.copy_from_slice(header.as_bytes());
        let (stored_name, extra) = rest.split_at_mut(name.bytes.len());
        stored_name.copy_from_slice(&name.bytes);
        let (zip64_extra, mark) = extra.split_at_mut(zip64_len as usize);
        if zip64 {
            let mut field = Vec::with_capacity(zip64_extra.len());
            write_zip64_extra(&[self.size(), self.size()], &mut field);
            zip64_extra.copy_from_slice(&field);
        }
        self.low_water.write(self.mark(name, state, crc), mark);
    }

    /// The bytes of the local header, all of those from [`Placement::header`] to [`Placement::file`].
    pub fn local_header(&self, name: &StoredName, state: MemberState, crc: u32) -> Vec<u8> {
        let mut bytes = vec![0; (self.file - self.header) as usize];
        self.write_local(name, state, crc, &mut bytes);
        bytes
    }

    /// Appends the central header, with what it says of the array; `prefix_len` is what stands in front of
    /// the archive.
    pub fn write_central(
        &self,
        name: &StoredName,
        crc: u32,
        prefix_len: i64,
        array_field: Option<&ArrayField>,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        write_central(self.header, self.size(), crc, (&name.bytes, name.flags), prefix_len, out);
        if let Some(array_field) = array_field {
            array_field::append(array_field, self.file - self.header, out, start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zip::encode::end_records;
    use proptest::prelude::*;

    #[test]
    fn alignments_are_powers_of_two_up_to_32768() {
        for bytes in (0..=15).map(|power| 1 << power) {
            assert!(Alignment::new(bytes).is_ok());
        }
        for bytes in [0, 3, 63, 65, 1 << 16, u64::MAX] {
            assert_eq!(Alignment::new(bytes).unwrap_err().kind, ErrorKind::Alignment(bytes));
        }
    }

    #[test]
    fn members_beyond_the_largest_offset_are_refused() {
        let name = StoredName::new("a").unwrap();
        let align = Alignment(64);
        for (at, size) in [(MAX_OFFSET, 128), (0, u64::MAX - 100), (u64::MAX, 128), (u64::MAX - 200, 128)] {
            assert_eq!(
                Placement::new(at, &name, 128, size, align, at).unwrap_err().kind,
                ErrorKind::TooLarge
            );
        }
    }

    #[test]
    fn zip64_only_where_32_bits_do_not_hold() {
        let name = StoredName::new("a").unwrap();
        let limit = u64::from(u32::MAX);
        for (size, local) in [(limit - 1, false), (limit, true)] {
            let place = Placement::new(0, &name, 128, size, Alignment(1), 0).unwrap();
            let mut bytes = place.local_header(&name, MemberState::Finished, 0);
            assert_eq!(bytes.len(), if local { 43 + 20 } else { 43 });
            bytes.clear();
            place.write_central(&name, 0, 0, None, &mut bytes);
            assert_eq!(bytes.len(), if local { 51 + 20 } else { 51 });
        }
        for (at, extra) in [(limit - 1, 0), (limit, 12)] {
            let place = Placement::new(at, &name, 128, 128, Alignment(1), at).unwrap();
            let mut bytes = Vec::new();
            place.write_central(&name, 0, 0, None, &mut bytes);
            assert_eq!(bytes.len(), 51 + extra);
        }
        for (count, size, offset, zip64) in [
            (65_535, 0, 0, false),
            (65_536, 0, 0, true),
            (0, limit, 0, true),
            (0, limit - 1, limit - 1, false),
            (0, 0, limit, true),
        ] {
            assert_eq!(end_records(count, size, offset, b"hi").len(), if zip64 { 100 } else { 24 });
        }
    }

    proptest! {
        #[test]
        fn data_is_aligned_and_headers_fill_their_range(
            at in 0..1u64 << 40,
            name in "[a-zé]{0,80}",
            npy_header in (1..40u64).prop_map(|n| n * 16),
            size in prop_oneof![0..1u64 << 20, u64::from(u32::MAX) - 10..u64::from(u32::MAX) + 10],
            power in 0..=15u32,
            behind in prop_oneof![Just(0), 1..1u64 << 36],
        ) {
            let name = StoredName::new(&name).unwrap();
            let align = 1u64 << power;
            let place = Placement::new(at, &name, npy_header, size, Alignment(align), at.saturating_sub(behind)).unwrap();
            prop_assert_eq!((place.file + npy_header) % align, 0);
            prop_assert_eq!(place.header, at);
            prop_assert_eq!(place.end, place.file + size);
            let fixed = 30 + name.bytes.len() as u64 + if needs_zip64(size) { 20 } else { 0 };
            prop_assert!(place.file - at < fixed + 9 + align, "no more padding than needed");
            let bytes = place.local_header(&name, MemberState::Finished, 7);
            prop_assert_eq!(bytes.len() as u64, place.file - place.header);
            // The extra fields parse to their end.
            let mut extra = &bytes[30 + name.bytes.len()..];
            while let Some((head, rest)) = extra.split_first_chunk::<4>() {
                extra = &rest[usize::from(u16::from_le_bytes([head[2], head[3]]))..];
            }
            prop_assert!(extra.is_empty());
        }
    }
}
