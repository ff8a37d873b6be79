//! Where a member goes, and the bytes of its headers.
//!
//! A member of ours is stored, has its size in the local header, and starts so that its *array* (not its `.npy`
//! header) lies at a multiple of the alignment. The padding is an extra field of the local header: the resource
//! alignment field of Commons Compress, which every zip tool skips. Sizes and offsets take zip64 fields only
//! where 32 bits do not hold them (APPNOTE 4.3.9.2, 4.5.3).

use zerocopy::IntoBytes;

use crate::error::{Error, ErrorKind, Result};
use crate::hint::{self, Hint};
use crate::mark::{self, END_MARK};
use crate::name::EXTENSION;
use crate::zip::{
    CentralHeader, EndRecord, LocalHeader, Record, SATURATED, STORED, ZIP64_EXTRA, Zip64EndRecord,
    Zip64Locator, flags,
};

/// The extra field of Commons Compress for alignment: two bytes that tell it, then zeros.
const ALIGNMENT_EXTRA: u16 = 0xa11e;
/// Its smallest size with the four bytes of every extra field's head.
const ALIGNMENT_EXTRA_MIN: u64 = 6;
/// The local header's zip64 field always holds both sizes.
const LOCAL_ZIP64_LEN: u64 = 20;
/// What the length field of an extra field can say.
const MAX_EXTRA: u64 = u16::MAX as u64;
/// The largest alignment that is offered.
const MAX_ALIGNMENT: u64 = 1 << 16;
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
    /// [`ErrorKind::Alignment`] unless it is a power of two up to 65536.
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
    /// Zero bytes in front of the local header: none but where an extra field cannot hold the padding.
    pub gap: u64,
    /// Where the local header starts.
    pub header: u64,
    /// Where the `.npy` file starts.
    pub file: u64,
    /// Where it ends.
    pub end: u64,
    padding: u64,
    alignment: Alignment,
}

impl Placement {
    /// Places, from byte `at` on, an `.npy` file of `size` bytes whose first `npy_header` bytes are its header.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if it would end beyond 2**63.
    pub fn new(at: u64, name: &StoredName, npy_header: u64, size: u64, alignment: Alignment) -> Result<Self> {
        let fixed = LocalHeader::SIZE as u64 + u64::from(name.len());
        let fixed = if needs_zip64(size) { fixed + LOCAL_ZIP64_LEN } else { fixed };
        let too_large = || Error::from(ErrorKind::TooLarge);
        let unpadded = at.checked_add(fixed + npy_header).ok_or_else(too_large)?;
        let mut padding = unpadded.wrapping_neg() & (alignment.0 - 1);
        let mut gap = 0;
        if padding > 0 && padding < ALIGNMENT_EXTRA_MIN {
            // Too little for a field; a whole number of steps more does.
            padding += ALIGNMENT_EXTRA_MIN.next_multiple_of(alignment.0);
        }
        if padding + LOCAL_ZIP64_LEN > MAX_EXTRA {
            gap = padding & (alignment.0 - 1);
            padding = 0;
        }
        let header = at + gap;
        let file = header.checked_add(fixed + padding).ok_or_else(too_large)?;
        let end = file.checked_add(size).filter(|&end| end <= MAX_OFFSET - END_MARK as u64);
        let end = end.ok_or_else(too_large)?;
        Ok(Placement { gap, header, file, end, padding, alignment })
    }

    /// Where the first byte is that is the member's: of the gap, if there is one.
    pub fn start(&self) -> u64 {
        self.header - self.gap
    }

    /// Where the next member may start: behind the end mark.
    pub fn next(&self) -> u64 {
        self.end + END_MARK as u64
    }

    /// What is to be written at [`Placement::end`] once all else is.
    pub fn end_mark(&self, name: &StoredName, crc: u32) -> [u8; END_MARK] {
        mark::end_mark(self.header, self.file, self.end, crc, name.bytes())
    }

    /// What the local header has for a checksum as long as the member is not finished.
    pub fn provisional_crc(&self, name: &StoredName) -> u32 {
        mark::provisional_crc(self.header, self.file, self.end, name.bytes())
    }

    fn size(&self) -> u64 {
        self.end - self.file
    }

    /// Writes the local header into `out`, which holds the bytes from [`Placement::header`] to
    /// [`Placement::file`], zeroed.
    pub fn write_local(&self, name: &StoredName, crc: u32, out: &mut [u8]) {
        let zip64 = needs_zip64(self.size());
        let zip64_len = if zip64 { LOCAL_ZIP64_LEN } else { 0 };
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
            // At most MAX_EXTRA, see Placement::new.
            extra_len: ((self.padding + zip64_len) as u16).into(),
        };
        let (fixed, rest) = out.split_at_mut(LocalHeader::SIZE);
        fixed.copy_from_slice(header.as_bytes());
        let (stored_name, extra) = rest.split_at_mut(name.bytes.len());
        stored_name.copy_from_slice(&name.bytes);
        let (zip64_extra, padding) = extra.split_at_mut(zip64_len as usize);
        if zip64 {
            let mut field = Vec::with_capacity(zip64_extra.len());
            write_zip64_extra(&[self.size(), self.size()], &mut field);
            zip64_extra.copy_from_slice(&field);
        }
        if let Some(head) = padding.first_chunk_mut::<6>() {
            let length = self.padding as u16 - 4;
            // 15 bits tell the alignment (the 16th means something else); what is aligned to more than they
            // can tell is aligned to 16384 too.
            let alignment = self.alignment.0.min(1 << 14) as u16;
            head[..2].copy_from_slice(&ALIGNMENT_EXTRA.to_le_bytes());
            head[2..4].copy_from_slice(&length.to_le_bytes());
            head[4..].copy_from_slice(&alignment.to_le_bytes());
        }
    }

    /// The bytes of the local header, all of those from [`Placement::header`] to [`Placement::file`].
    pub fn local_header(&self, name: &StoredName, crc: u32) -> Vec<u8> {
        let mut bytes = vec![0; (self.file - self.header) as usize];
        self.write_local(name, crc, &mut bytes);
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
    fn alignments_are_powers_of_two_up_to_65536() {
        for bytes in (0..=16).map(|power| 1 << power) {
            assert!(Alignment::new(bytes).is_ok());
        }
        for bytes in [0, 3, 63, 65, 1 << 17, u64::MAX] {
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
            assert_eq!(Placement::new(at, &name, 128, size, align).unwrap_err().kind, ErrorKind::TooLarge);
        }
    }

    #[test]
    fn zip64_only_where_32_bits_do_not_hold() {
        let name = StoredName::new("a").unwrap();
        let limit = u64::from(u32::MAX);
        for (size, local) in [(limit - 1, false), (limit, true)] {
            let place = Placement::new(0, &name, 128, size, Alignment(1)).unwrap();
            let mut bytes = place.local_header(&name, 0);
            assert_eq!(bytes.len(), if local { 35 + 20 } else { 35 });
            bytes.clear();
            place.write_central(&name, 0, 0, None, &mut bytes);
            assert_eq!(bytes.len(), if local { 51 + 20 } else { 51 });
        }
        for (at, extra) in [(limit - 1, 0), (limit, 12)] {
            let place = Placement::new(at, &name, 128, 128, Alignment(1)).unwrap();
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
            power in 0..=16u32,
        ) {
            let name = StoredName::new(&name).unwrap();
            let align = 1u64 << power;
            let place = Placement::new(at, &name, npy_header, size, Alignment(align)).unwrap();
            prop_assert_eq!((place.file + npy_header) % align, 0);
            prop_assert_eq!(place.header, at + place.gap);
            prop_assert_eq!(place.end, place.file + size);
            prop_assert!(place.file - at < 2 * align.max(8) + 200, "no more padding than needed");
            let bytes = place.local_header(&name, 7);
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
