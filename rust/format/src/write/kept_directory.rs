//! The directory of another program, kept for good where members of mmnpz follow those that it lists.
//!
//! Members that another program wrote have no marks: only a directory tells of them. Members of mmnpz
//! begin where the last one of them ends, so that all follow one another, which is where the directory of the
//! other program stood. It is kept in a [filler](crate::additions::filler) in front of them, a copy with its
//! own end records and a [`Base`] that vouches for it: whatever becomes of the directories behind it, a
//! recovery scan finds this one.

use std::ops::Range;

use zerocopy::IntoBytes;

use crate::additions::base::Base;
use crate::additions::filler::{self, NPY_HEADER};
use crate::additions::seal::Seal;
use crate::error::Missing;
use crate::recover::survey::Witness;
use crate::window::Window;
use crate::write::directory_writer::DirectoryWriter;
use crate::zip::central::Walk;
use crate::zip::encode;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{CentralHeader, DATA_DESCRIPTOR, EndRecord, Extent, LocalHeader, Record, flags};

/// More than the headers, end records and base in a filler take, which is what it has apart from records and
/// comment.
const MOST_ELSE: u64 = 1024;

/// The length of the signature of an end record.
const SIGNATURE: usize = 4;

/// The length of the longest data descriptor.
const MOST_DESCRIPTOR: u64 = 24;

/// The most bytes of name and extra fields that a local header can have.
const MOST_FIELDS: u64 = 2 * u16::MAX as u64;

/// A filler with a directory.
#[derive(Debug)]
pub(crate) struct KeptDirectory {
    range: Range<u64>,
    records: u64,
    end_records: Vec<u8>,
    base: Base,
}

impl KeptDirectory {
    /// A filler at this byte that keeps a directory.
    pub(crate) fn new(at: u64, directory: &DirectoryWriter) -> Self {
        let records = at + Self::local_len(directory) + NPY_HEADER;
        let mut end_records = directory.end_records(records);
        // Other programs must not find it: it does not lead to the members behind it.
        let signature = (directory.end_record(records + end_records.len() as u64) - records) as usize;
        end_records[signature..signature + SIGNATURE].fill(0);
        let end = records + (directory.records().len() + end_records.len()) as u64;
        let base = Base::new(end, directory.end_record(end), true);
        KeptDirectory { range: at..end + Base::SIZE as u64, records, end_records, base }
    }

    /// The range of the file that it takes.
    pub(crate) fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// A little more than the size that it can have, which says how long its local header is.
    fn most(directory: &DirectoryWriter) -> u64 {
        directory.records().len() as u64 + u64::from(u16::MAX) + MOST_ELSE
    }

    fn local_len(directory: &DirectoryWriter) -> u64 {
        encode::local_len(filler::NAME.len(), Self::most(directory))
    }

    /// Its bytes.
    pub(crate) fn bytes(&self, directory: &DirectoryWriter) -> Vec<u8> {
        let mut npy = filler::npy_header(self.range.end - self.records);
        for part in [&directory.records()[..], &self.end_records, self.base.as_bytes()] {
            npy.extend_from_slice(part);
        }
        let crc = crc32fast::hash(&npy);
        let mut bytes = encode::plain_local(filler::NAME, npy.len() as u64, Self::most(directory), crc);
        bytes.append(&mut npy);
        bytes
    }
}

/// Whether nothing is behind an archive of another program that may not be overwritten: only a base, or what
/// a power failure has left of one, and what a kill has left of what is written behind that.
pub(crate) fn is_all(
    window: Window<'_>,
    directory: &DirectoryLocation,
    (witness, end): (&Witness, u64),
) -> Result<bool, Missing> {
    let start = directory.comment.end;
    if *witness == Witness::Base {
        return Ok(end == start + Base::SIZE as u64);
    }
    let length = window.len().saturating_sub(start);
    let end_record = directory.comment.start.checked_sub(EndRecord::SIZE as u64);
    let Some(end_record) = end_record.filter(|_| length <= Base::SIZE as u64) else { return Ok(false) };
    let base = [true, false].map(|is_for_good| Base::new(start, end_record, is_for_good));
    let behind = window.get_inside(start..window.len())?;
    let is_part = |base: &Base| {
        behind.iter().zip(base.as_bytes()).all(|(&found, &written)| found == 0 || found == written)
    };
    Ok(base.iter().any(is_part))
}

/// A member as the directory of another program has it.
struct Listed<'a> {
    header: &'a CentralHeader,
    extent: Extent,
    /// Where its local header is.
    local: u64,
    /// It ends behind this byte.
    least: u64,
}

/// The members that a directory lists; none for one that it gives no place.
fn listed<'a>(
    records: &'a [u8],
    directory: &'a DirectoryLocation,
) -> impl Iterator<Item = Option<Listed<'a>>> {
    Walk::new(records).map(|record| {
        let extent = Extent::read(record.header, record.extra).ok()?;
        let local = extent.local_offset.checked_add_signed(directory.prefix_len)?;
        let least = local.checked_add(LocalHeader::SIZE as u64)?.checked_add(extent.compressed)?;
        Some(Listed { header: record.header, extent, local, least })
    })
}

/// Where members can follow those of another program's archive whose directory this is: where the last one
/// ends, if the directory comes next, or what an earlier one left there; where the directory is, if anything
/// else is in between. Not if a member is behind the directory, or if it is one that is kept: then what
/// follows that is ours.
pub(crate) fn end_of_members(
    window: Window<'_>,
    directory: &DirectoryLocation,
) -> Result<Option<u64>, Missing> {
    let start = directory.range.start;
    let records = window.get(directory.range.clone())?.unwrap_or_default();
    // Only a few local headers are read: a page each.
    let mut least = 0;
    for member in listed(records, directory) {
        let Some(member) = member else { return Ok(None) };
        least = least.max(member.least);
    }
    let mut end = 0;
    for member in listed(records, directory).flatten() {
        if member.least.saturating_add(MOST_FIELDS) < least {
            continue;
        }
        let Some(local) = LocalHeader::find(window, member.local)? else { return Ok(None) };
        let fields = u64::from(local.name_len.get()) + u64::from(local.extra_len.get());
        let mut behind = member.least.saturating_add(fields);
        if local.flags.get() & flags::DATA_DESCRIPTOR != 0 {
            behind = behind.saturating_add(descriptor_len(window, behind, &member)?);
        }
        end = end.max(behind);
    }
    if end == 0 || end == start {
        return Ok(Some(start));
    }
    if end > start {
        return Ok(None);
    }
    let kept = filler::read(window, end)?;
    if kept.is_some_and(|kept| kept.end == directory.comment.end + Base::SIZE as u64) {
        return Ok(None);
    }
    let is_left_over = window.get_inside(end..start.min(end + 4))? == CentralHeader::SIGNATURE.to_le_bytes()
        || kept.is_some()
        || Seal::before(directory, window)?.is_some();
    Ok(Some(if is_left_over { end } else { start }))
}

/// How long the data descriptor at `at` is (section 4.3.9): its signature may be left out, and its sizes have
/// 4 or 8 bytes.
fn descriptor_len(window: Window<'_>, at: u64, member: &Listed<'_>) -> Result<u64, Missing> {
    let found = window.get_inside(at..at.saturating_add(MOST_DESCRIPTOR))?;
    let behind = found.strip_prefix(&DATA_DESCRIPTOR.to_le_bytes()).unwrap_or(found);
    let signature = (found.len() - behind.len()) as u64;
    let crc = member.header.crc.get().to_le_bytes();
    let sizes = [member.extent.compressed, member.extent.uncompressed];
    let [compressed, uncompressed] = sizes.map(u64::to_le_bytes);
    let is = |parts: &[&[u8]]| behind.starts_with(&parts.concat());
    Ok(if is(&[&crc, &compressed, &uncompressed]) {
        signature + 20
    } else if is(&[&crc, &compressed[..4], &uncompressed[..4]]) {
        signature + 12
    } else {
        0
    })
}
