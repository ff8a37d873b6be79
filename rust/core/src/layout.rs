//! Where a member goes, and the bytes of its headers.
//!
//! A member of mmnpz is stored, has its size in the local header, starts where the one before it ends, and has its
//! *array* (not its `.npy` header) at a multiple of the alignment. The padding is part of the extra field with the
//! member's mark ([`crate::mark`]), which every zip tool skips. Sizes and offsets take zip64 fields only where 32 bits
//! do not hold them (APPNOTE 4.3.9.2, 4.5.3).

use zerocopy::IntoBytes;

use crate::error::{Error, ErrorKind, Result};
use crate::hint::{self, Hint};
use crate::mark::{LARGE, LowWater, MemberState};
use crate::name::EXTENSION;
use crate::zip::{
    CentralHeader, EndRecord, LocalHeader, Record, SATURATED, STORED, ZIP64_EXTRA, Zip64EndRecord,
    Zip64Locator, flags,
};

/// The local header's zip64 field always holds both sizes.
const LOCAL_ZIP64_LEN: u64 = 20;
/// The largest alignment that is offered: an extra field can hold the padding for it, as it has at most 65535 bytes.
const MAX_ALIGNMENT: u64 = 1 << 15;
/// No offset in an archive may exceed what a file system's signed offsets hold.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// Version 2.0 of the standard: what stored files in folders need.
const VERSION: u16 = 20;
/// Version 4.5: zip64.
const VERSION_ZIP64: u16 = 45;
/// "Made by" Unix, so that the attributes below are read as a mode.
const MADE_BY_UNIX: u16 = 3 << 8;
/// A regular file that its owner may write and all may read.
const ATTRIBUTES: u32 = 0o100_644 << 16;
/// 1 January 1980, the first date there is: the same arrays give the same archive.
const DATE: u16 = 1 << 5 | 1;

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
}

/// The name of a member as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredName {
    bytes: Vec<u8>,
    flags: u16,
}

impl StoredName {
    /// The stored name of the array `name`: UTF-8, flagged as such where it is not ASCII.
    ///
    /// # Errors
    /// If it is too long for a ZIP record or contains a NUL.
    #[inline]
    pub fn new(name: &str) -> Result<Self> {
        let bytes = [name.as_bytes(), EXTENSION.as_bytes()].concat();
        if u16::try_from(bytes.len()).is_err() {
            return Err(ErrorKind::NameTooLong { length: bytes.len() }.into());
        }
        if name.contains('\0') {
            return Err(ErrorKind::NameWithNul.into());
        }
        let flags = if bytes.is_ascii() { 0 } else { flags::UTF8 };
        Ok(StoredName { bytes, flags })
    }

    /// The name without its extension.
    pub fn array_name(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - EXTENSION.len()]
    }

    /// The whole name.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its length; less than 2**16 by construction.
    fn len(&self) -> u16 {
        self.bytes.len() as u16
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
    /// The length of the extra field with the mark, padding included.
    mark_len: u64,
    low_water: LowWater,
}

impl Placement {
    /// Places, at byte `at`, an `.npy` file of `size` bytes whose first `npy_header` bytes are its header; all members
    /// in front of byte `finished` are finished.
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
        let low_water = LowWater::new(at, finished);
        let fixed = LocalHeader::SIZE as u64 + u64::from(name.len());
        let fixed = if needs_zip64(size) { fixed + LOCAL_ZIP64_LEN } else { fixed };
        let too_large = || Error::from(ErrorKind::TooLarge);
        let least = low_water.field_len();
        let unpadded = at.checked_add(fixed + least + npy_header).ok_or_else(too_large)?;
        let mark_len = least + (unpadded.wrapping_neg() & (alignment.0 - 1));
        let file = at.checked_add(fixed + mark_len).ok_or_else(too_large)?;
        let end = file.checked_add(size).filter(|&end| end <= MAX_OFFSET).ok_or_else(too_large)?;
        Ok(Placement { header: at, file, end, mark_len, low_water })
    }

    /// Whether the member is written in pieces, so that its local header says last that it is finished.
    pub fn is_large(&self) -> bool {
        self.end - self.header > LARGE
    }

    /// The checksum of its mark.
    fn mark(&self, name: &StoredName, state: MemberState, crc: u32) -> u32 {
        self.low_water.checksum(state, (self.header, self.file, self.end), crc, name.bytes())
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
            extra_len: ((self.mark_len + zip64_len) as u16).into(),
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

    /// Appends the central header, with what it says of the array; `shift` is what stands in front of the archive.
    pub fn write_central(
        &self,
        name: &StoredName,
        crc: u32,
        shift: i64,
        hint: Option<&Hint>,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        write_central(self.header, self.size(), crc, (&name.bytes, name.flags), shift, out);
        if let Some(hint) = hint {
            hint::append(hint, self.file - self.header, out, start);
        }
    }
}

/// How long the local header of a member is that has no other field than that for zip64, if all of it has `whole` bytes.
pub(crate) fn local_len(name_len: usize, whole: u64) -> u64 {
    let zip64_len = if needs_zip64(whole) { LOCAL_ZIP64_LEN } else { 0 };
    LocalHeader::SIZE as u64 + name_len as u64 + zip64_len
}

/// The local header of such a member, of which `size` bytes are stored.
pub(crate) fn plain_local(name: &[u8], size: u64, whole: u64, crc: u32) -> Vec<u8> {
    let zip64 = needs_zip64(whole);
    let stored = if zip64 { SATURATED } else { saturating(size) };
    let header = LocalHeader {
        signature: LocalHeader::SIGNATURE.into(),
        version_needed: version(zip64).into(),
        flags: 0.into(),
        method: STORED.into(),
        time: 0.into(),
        date: DATE.into(),
        crc: crc.into(),
        compressed: stored.into(),
        uncompressed: stored.into(),
        name_len: (name.len() as u16).into(),
        extra_len: if zip64 { LOCAL_ZIP64_LEN as u16 } else { 0 }.into(),
    };
    let mut out = [header.as_bytes(), name].concat();
    if zip64 {
        write_zip64_extra(&[size, size], &mut out);
    }
    out
}

/// Appends the central header of a stored member of `size` bytes whose local header is at byte `header` of the
/// file; `name` is as stored, with the general-purpose flags.
#[inline]
pub fn write_central(
    header: u64,
    size: u64,
    crc: u32,
    (name, flag_bits): (&[u8], u16),
    shift: i64,
    out: &mut Vec<u8>,
) {
    let offset = header.saturating_add_signed(shift.saturating_neg());
    let mut large = Vec::new();
    if needs_zip64(size) {
        large.extend([size, size]);
    }
    if needs_zip64(offset) {
        large.push(offset);
    }
    let zip64 = !large.is_empty();
    let record = CentralHeader {
        signature: CentralHeader::SIGNATURE.into(),
        version_made_by: (MADE_BY_UNIX | version(zip64)).into(),
        version_needed: version(zip64).into(),
        flags: flag_bits.into(),
        method: STORED.into(),
        time: 0.into(),
        date: DATE.into(),
        crc: crc.into(),
        compressed: saturating(size).into(),
        uncompressed: saturating(size).into(),
        // Came from a name's own length field, or has passed StoredName::new.
        name_len: (name.len() as u16).into(),
        extra_len: if zip64 { 4 + 8 * large.len() as u16 } else { 0 }.into(),
        comment_len: 0.into(),
        disk: 0.into(),
        internal_attributes: 0.into(),
        external_attributes: ATTRIBUTES.into(),
        local_offset: saturating(offset).into(),
    };
    out.extend_from_slice(record.as_bytes());
    out.extend_from_slice(name);
    if zip64 {
        write_zip64_extra(&large, out);
    }
}

/// The length of a fence without its extra field.
pub(crate) const FENCE: u64 = CentralHeader::SIZE as u64;

/// Over a longer way there is one fence only, as each of them takes a page of a hole.
pub(crate) const MOST_FENCED: u64 = 1 << 26;

/// Fences in a room are so far from one another, but for the first, which is where the members end.
const STEP: u64 = 1 << 16;

/// What stands behind the last member, which ends at `next`, if a directory follows at `directory` and what vouches for that
/// begins at `head`, with a fence if it `is_fenced`; with the places. None where there is no room for it.
///
/// Programs that go through an archive without its directory want the header of an entry there, and some complain of
/// anything else. A fence is one of an entry that has no name, and whose extra field is what is between the last member and
/// the directory. If one extra field cannot be that long, fences follow one another. As members are added, all but the first
/// stay where they are: of these, there are only those in front of `reached`.
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
        // An index that is too long for this, which nobody writes.
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

/// A fence with so many bytes behind it; with none if they do not fit into its extra field.
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

/// The records behind a directory of `count` entries at archive offset `offset`: the zip64 ones where they are
/// needed, then the end record and the archive comment.
pub fn end_records(count: u64, size: u64, offset: u64, comment: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(98 + comment.len());
    if count > u64::from(u16::MAX) || needs_zip64(size) || needs_zip64(offset) {
        let record = Zip64EndRecord {
            signature: Zip64EndRecord::SIGNATURE.into(),
            // Without its signature and this field (section 4.3.14.1).
            size: (Zip64EndRecord::SIZE as u64 - 12).into(),
            version_made_by: (MADE_BY_UNIX | VERSION_ZIP64).into(),
            version_needed: VERSION_ZIP64.into(),
            disk: 0.into(),
            directory_disk: 0.into(),
            entries_here: count.into(),
            entries: count.into(),
            directory_size: size.into(),
            directory_offset: offset.into(),
        };
        let locator = Zip64Locator {
            signature: Zip64Locator::SIGNATURE.into(),
            disk: 0.into(),
            end_offset: (offset + size).into(),
            disks: 1.into(),
        };
        out.extend_from_slice(record.as_bytes());
        out.extend_from_slice(locator.as_bytes());
    }
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    let comment = &comment[..comment.len().min(u16::MAX.into())];
    let record = EndRecord {
        signature: EndRecord::SIGNATURE.into(),
        disk: 0.into(),
        directory_disk: 0.into(),
        entries_here: count.into(),
        entries: count.into(),
        directory_size: saturating(size).into(),
        directory_offset: saturating(offset).into(),
        comment_len: (comment.len() as u16).into(),
    };
    out.extend_from_slice(record.as_bytes());
    out.extend_from_slice(comment);
    out
}

/// Whether a number must move to the zip64 field: the largest 32-bit number is the sign that it did.
fn needs_zip64(number: u64) -> bool {
    number >= u64::from(SATURATED)
}

fn saturating(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(SATURATED)
}

fn version(zip64: bool) -> u16 {
    if zip64 { VERSION_ZIP64 } else { VERSION }
}

fn write_zip64_extra(numbers: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(&ZIP64_EXTRA.to_le_bytes());
    // At most three numbers.
    out.extend_from_slice(&(8 * numbers.len() as u16).to_le_bytes());
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn names_that_zip_cannot_hold_are_refused() {
        assert!(StoredName::new(&"x".repeat(65_531)).is_ok());
        let kind = |name: &str| StoredName::new(name).unwrap_err().kind;
        assert_eq!(kind(&"x".repeat(65_532)), ErrorKind::NameTooLong { length: 65_536 });
        assert_eq!(kind("a\0b"), ErrorKind::NameWithNul);
        assert_eq!(StoredName::new("é").unwrap().flags, flags::UTF8);
        assert_eq!(StoredName::new("e").unwrap().flags, 0);
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

    /// Where fences lead from `next`, each to the next one.
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
                    // An index that begins with a fence needs none in front.
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
        // An index in one piece that is longer than any that is written.
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
