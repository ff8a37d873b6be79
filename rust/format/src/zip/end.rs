//! The end records, and where they say that the central directory is.
//!
//! Where an archive can be read in two ways, this follows Python's `zipfile`, so that NumPy and mmnpz see the
//! same members: the last end record counts, and the directory ends where its end record starts, which shows
//! how many bytes stand in front of the archive.

use std::ops::Range;

use crate::bytes::slice;
use crate::error::{Error, ErrorKind, Result};
use crate::npy::header;
use crate::zip::central::Walk;
use crate::zip::records::{CentralHeader, EndRecord, Record, Zip64EndRecord, Zip64Locator};

/// The longest archive comment, and so how far in front of the end the end record can start.
const MAX_COMMENT: usize = u16::MAX as usize;

/// So many bytes behind it can be what is left of a writer of ours that had just begun to append when the
/// power failed.
const BEGUN: usize = 64;

/// Where the central directory lies, from the end records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryLocation {
    /// The bytes of the directory, in the file.
    pub range: Range<u64>,
    /// What to add to the offsets in the archive to get those in the file: the length of what stands in
    /// front.
    pub prefix_len: i64,
    /// The archive comment, in the file.
    pub comment: Range<u64>,
    /// How many members the end record counts: a hint, which nothing relies on.
    pub count: u64,
}

impl DirectoryLocation {
    /// That of a file which has none.
    pub(crate) fn none() -> Self {
        DirectoryLocation { range: 0..0, prefix_len: 0, comment: 0..0, count: 0 }
    }

    /// Finds the directory from the end of the archive.
    ///
    /// # Errors
    /// If there is no end record, or none that points to a directory inside the file.
    pub fn locate(bytes: &[u8]) -> Result<Self> {
        let tail_start = bytes.len().saturating_sub(MAX_COMMENT + EndRecord::SIZE + BEGUN);
        let mut first_error = None;
        let mut tail = &bytes[tail_start..];
        // The last end record is the one that `zipfile` takes. If it is part of a comment, an earlier one
        // counts.
        while let Some(found) = rfind(tail, EndRecord::SIGNATURE.to_le_bytes()) {
            match Self::from_end_record(bytes, (tail_start + found) as u64) {
                Ok(directory) => return Ok(directory),
                // A part of an archive must not be taken for a whole one, whatever it holds.
                Err(error)
                    if error.kind == ErrorKind::MultiDisk
                        && ends_file(bytes, (tail_start + found) as u64) =>
                {
                    return Err(error);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
            tail = &tail[..found];
        }
        if bytes.starts_with(&header::MAGIC) {
            return Err(ErrorKind::SingleNpy.into());
        }
        Err(first_error.unwrap_or(ErrorKind::NoEndRecord.into()))
    }

    /// Whether other programs find the end record: no further from the end than a comment can make it.
    pub(crate) fn is_near_end(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 - self.comment.start <= MAX_COMMENT as u64
    }

    pub(crate) fn from_end_record(bytes: &[u8], at: u64) -> Result<Self> {
        Self::of_end_record(bytes, at, EndRecord::read(bytes, at, ErrorKind::NoEndRecord)?)
    }

    /// That of this end record, which is at `at`.
    pub(crate) fn of_end_record(bytes: &[u8], at: u64, end_record: &EndRecord) -> Result<Self> {
        let mut size = u64::from(end_record.directory_size.get());
        let mut offset = u64::from(end_record.directory_offset.get());
        let mut count = u64::from(end_record.entries.get());
        let mut end = at;
        let zip64 = zip64_end_record(bytes, at)?;
        let other_disk = |disk: u16| disk != 0 && (zip64.is_none() || disk != u16::MAX);
        // Sections 4.4.19 and 4.4.20.
        if other_disk(end_record.disk.get()) || other_disk(end_record.directory_disk.get()) {
            return Err(Error::at(ErrorKind::MultiDisk, at));
        }
        if let Some((zip64_at, zip64)) = zip64 {
            (size, offset, end) = (zip64.directory_size.get(), zip64.directory_offset.get(), zip64_at);
            count = zip64.entries.get();
        }
        let outside = || Error::at(ErrorKind::DirectoryOutside { size, end }, at);
        let start = end.checked_sub(size).ok_or_else(outside)?;
        if size > 0 {
            CentralHeader::read(bytes, start, ErrorKind::DirectoryTruncated)?;
        }
        let prefix_len = i64::try_from(start).ok().and_then(|start| start.checked_sub_unsigned(offset));
        let comment = at + EndRecord::SIZE as u64;
        let comment_end = comment + u64::from(end_record.comment_len.get());
        Ok(DirectoryLocation {
            range: start..end,
            prefix_len: prefix_len.ok_or_else(outside)?,
            comment: comment..comment_end.min(bytes.len() as u64),
            count,
        })
    }

    /// Checks that the first record is where it should be: what overwrites a directory starts in front of it.
    pub(crate) fn is_begun(&self, bytes: &[u8]) -> Result<()> {
        if self.range.is_empty() {
            return Ok(());
        }
        CentralHeader::read(bytes, self.range.start, ErrorKind::DirectoryTruncated).map(|_| ())
    }

    /// Checks that all of it can be read.
    pub(crate) fn is_readable(&self, bytes: &[u8]) -> Result<()> {
        let mut walk = Walk::new(slice(bytes, &self.range).ok_or(ErrorKind::DirectoryTruncated)?);
        for record in walk.by_ref() {
            record.check()?;
        }
        walk.finish()
    }

    pub(crate) fn bytes<'a>(&self, archive: &'a [u8]) -> Result<&'a [u8]> {
        slice(archive, &self.range).ok_or_else(|| ErrorKind::DirectoryTruncated.into())
    }
}

/// Whether the end record at `at`, with its comment, ends the file: others may be a part of a comment.
fn ends_file(bytes: &[u8], at: u64) -> bool {
    EndRecord::read(bytes, at, ErrorKind::NoEndRecord).is_ok_and(|record| {
        at + EndRecord::SIZE as u64 + u64::from(record.comment_len.get()) == bytes.len() as u64
    })
}

/// The zip64 end record that belongs to the end record at `at`, with its place, if there is one.
fn zip64_end_record(bytes: &[u8], at: u64) -> Result<Option<(u64, &Zip64EndRecord)>> {
    let read = |at| Zip64EndRecord::read(bytes, at, ErrorKind::NoEndRecord).ok().map(|record| (at, record));
    let Some(locator_at) = at.checked_sub(Zip64Locator::SIZE as u64) else {
        return Ok(None);
    };
    let Ok(locator) = Zip64Locator::read(bytes, locator_at, ErrorKind::NoEndRecord) else {
        return Ok(None);
    };
    if locator.disk.get() != 0 || locator.disks.get() > 1 {
        return Err(Error::at(ErrorKind::MultiDisk, locator_at));
    }
    // It stands right in front, as in every archive that `zipfile` reads. Only one with further data inside
    // (section 4.3.14.2) starts elsewhere, where the locator says.
    let in_front = locator_at.checked_sub(Zip64EndRecord::SIZE as u64).and_then(read);
    Ok(in_front.or_else(|| read(locator.end_offset.get()).filter(|(at, _)| *at < locator_at)))
}

fn rfind(bytes: &[u8], pattern: [u8; 4]) -> Option<usize> {
    bytes.windows(4).rposition(|window| window == pattern)
}
