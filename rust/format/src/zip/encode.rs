//! The records of an archive as bytes: local headers, entries of the directory, end records.

use zerocopy::IntoBytes;

use crate::zip::records::{
    CentralHeader, EndRecord, LocalHeader, Record, SATURATED, STORED, ZIP64_EXTRA, Zip64EndRecord,
    Zip64Locator,
};

/// The local header's zip64 field always holds both sizes.
pub(crate) const LOCAL_ZIP64_LEN: u64 = 20;

/// Version 2.0 of the standard: what stored files in folders need.
pub(crate) const VERSION: u16 = 20;

/// Version 4.5: zip64.
const VERSION_ZIP64: u16 = 45;

/// "Made by" Unix, so that the attributes below are read as a mode.
pub(crate) const MADE_BY_UNIX: u16 = 3 << 8;

/// A regular file that its owner may write and all may read.
const ATTRIBUTES: u32 = 0o100_644 << 16;

/// 1 January 1980, the first date there is: the same arrays give the same archive.
pub(crate) const DATE: u16 = 1 << 5 | 1;

/// The length of a local header that has no extra field, or only the one for zip64. `whole` is the length of
/// the member with its header.
pub(crate) fn local_len(name_len: usize, whole: u64) -> u64 {
    let zip64_len = if needs_zip64(whole) { LOCAL_ZIP64_LEN } else { 0 };
    LocalHeader::SIZE as u64 + name_len as u64 + zip64_len
}

/// The local header of a member with `size` stored bytes and no other extra field than that for zip64.
/// `whole` is the length of the member with its header.
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

/// Whether an entry has what each has that mmnpz writes, and few of other programs: it is stored, with this
/// date and these attributes.
pub(crate) fn is_like_ours(entry: &CentralHeader) -> bool {
    entry.version_made_by.get() & 0xff00 == MADE_BY_UNIX
        && entry.method.get() == STORED
        && (entry.time.get(), entry.date.get()) == (0, DATE)
        && entry.external_attributes.get() == ATTRIBUTES
}

/// Appends the central header of a stored member of `size` bytes whose local header is at byte `header` of
/// the file; `name` is as stored, with the general-purpose flags.
#[inline]
pub fn write_central(
    header: u64,
    size: u64,
    crc: u32,
    (name, flag_bits): (&[u8], u16),
    prefix_len: i64,
    out: &mut Vec<u8>,
) {
    let offset = header.saturating_add_signed(prefix_len.saturating_neg());
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
        // Less than 2**16: the name comes from a record, or has passed StoredName::new.
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

/// The records behind a directory of `count` entries at archive offset `offset`: the zip64 ones where they
/// are needed, then the end record and the archive comment.
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

/// Whether a number must move to the zip64 field: the largest 32-bit number says that it did.
pub(crate) fn needs_zip64(number: u64) -> bool {
    number >= u64::from(SATURATED)
}

pub(crate) fn saturating(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(SATURATED)
}

pub(crate) fn version(zip64: bool) -> u16 {
    if zip64 { VERSION_ZIP64 } else { VERSION }
}

pub(crate) fn write_zip64_extra(numbers: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(&ZIP64_EXTRA.to_le_bytes());
    // At most three numbers.
    out.extend_from_slice(&(8 * numbers.len() as u16).to_le_bytes());
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}
