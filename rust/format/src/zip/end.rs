//! The end records, and where they place the central directory.
//!
//! Where an archive can be read in two ways, mmnpz follows Python's `zipfile`, so that NumPy and mmnpz see
//! the same members. The last end record counts. The directory ends where its end record starts, which shows
//! how long the prefix is.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Missing, Result};
use crate::npy::header;
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::records::{CentralHeader, EndRecord, Record, Zip64EndRecord, Zip64Locator};

/// The longest archive comment: the end record ends at most this far in front of the end of the file.
const MAX_COMMENT: usize = u16::MAX as usize;

/// A power failure early in an append can leave up to this many bytes of mmnpz behind the comment.
const BEGUN: usize = 64;

/// Where the central directory lies, from the end records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryLocation {
    /// The bytes of the directory, in the file.
    pub range: Range<u64>,
    /// What to add to an offset in the archive to get the offset in the file: the length of the prefix.
    pub prefix_len: i64,
    /// The archive comment, in the file.
    pub comment: Range<u64>,
    /// How many members the end record counts. Nothing relies on this number.
    pub count: u64,
}

impl DirectoryLocation {
    /// The location in a file without a directory.
    pub(crate) fn none() -> Self {
        DirectoryLocation { range: 0..0, prefix_len: 0, comment: 0..0, count: 0 }
    }

    /// Where the last end record can begin, in a file of this length.
    pub(crate) fn tail(len: u64) -> Range<u64> {
        len.saturating_sub((MAX_COMMENT + EndRecord::SIZE + BEGUN) as u64)..len
    }

    /// Finds the directory from the end of the archive.
    ///
    /// # Errors
    /// If there is no end record, or none that points to a directory inside the file.
    pub fn locate(window: Window<'_>) -> Result<Self> {
        let tail = Self::tail(window.len());
        let tail_start = tail.start;
        let mut first_error = None;
        let mut tail = window.get_inside(tail)?;
        // `zipfile` takes the last end record. If that is part of a comment, an earlier one counts.
        while let Some(found) = rfind(tail, EndRecord::SIGNATURE.to_le_bytes()) {
            let at = tail_start + found as u64;
            match Self::from_end_record(window, at) {
                Ok(directory) => return Ok(directory),
                Err(error) if !error.is_about_file() => return Err(error),
                // One disk of an archive of several disks must not be taken for a whole archive, whatever it
                // holds.
                Err(error) if error.kind == ErrorKind::MultiDisk && ends_file(window, at, 0)? => {
                    return Err(error);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
            tail = &tail[..found];
        }
        if window.get_inside(0..header::MAGIC.len() as u64)? == header::MAGIC {
            return Err(ErrorKind::SingleNpy.into());
        }
        Err(first_error.unwrap_or(ErrorKind::NoEndRecord.into()))
    }

    /// Whether other programs find the end record: it is no further from the end of the file than the longest
    /// comment.
    pub(crate) fn is_near_end(&self, window: Window<'_>) -> bool {
        window.len() - self.comment.start <= MAX_COMMENT as u64
    }

    /// Whether all of the comment is there, and at most `begun` bytes behind it, which an append left.
    pub(crate) fn ends_file(&self, window: Window<'_>, begun: u64) -> Result<bool, Missing> {
        ends_file(window, self.comment.start - EndRecord::SIZE as u64, begun)
    }

    pub(crate) fn from_end_record(window: Window<'_>, at: u64) -> Result<Self> {
        Self::of_end_record(window, at, EndRecord::read(window, at, ErrorKind::NoEndRecord)?)
    }

    /// The directory of this end record, which is at byte `at`.
    pub(crate) fn of_end_record(window: Window<'_>, at: u64, end_record: &EndRecord) -> Result<Self> {
        let mut size = u64::from(end_record.directory_size.get());
        let mut offset = u64::from(end_record.directory_offset.get());
        let mut count = u64::from(end_record.entries.get());
        let mut end = at;
        let zip64 = zip64_end_record(window, at)?;
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
            CentralHeader::read(window, start, ErrorKind::DirectoryTruncated)?;
        }
        let prefix_len = i64::try_from(start).ok().and_then(|start| start.checked_sub_unsigned(offset));
        let comment = at + EndRecord::SIZE as u64;
        let comment_end = comment + u64::from(end_record.comment_len.get());
        Ok(DirectoryLocation {
            range: start..end,
            prefix_len: prefix_len.ok_or_else(outside)?,
            comment: comment..comment_end.min(window.len()),
            count,
        })
    }

    /// Checks that the first record is there. A writer that overwrites a directory starts in front of it, so
    /// the first record is lost first.
    pub(crate) fn is_begun(&self, window: Window<'_>) -> Result<()> {
        if self.range.is_empty() {
            return Ok(());
        }
        CentralHeader::read(window, self.range.start, ErrorKind::DirectoryTruncated).map(|_| ())
    }

    /// Checks that all records can be read.
    pub(crate) fn is_readable(&self, window: Window<'_>) -> Result<()> {
        let mut walk = Walk::new(self.records(window)?);
        for record in walk.by_ref() {
            record.check()?;
        }
        walk.finish()
    }

    /// The record at byte `at` of the directory, if all of it is there, and the byte behind the record.
    ///
    /// # Errors
    /// If the bytes of the record were not fetched.
    #[inline]
    pub(crate) fn record<'a>(
        &self,
        window: Window<'a>,
        at: usize,
    ) -> Result<Option<(CentralRecord<'a>, usize)>, Missing> {
        let start = self.range.start.saturating_add(at as u64);
        let Some(header) = CentralHeader::find(window, start)? else { return Ok(None) };
        // Read once: a writer may overwrite the lengths at any time.
        let name_len = usize::from(header.name_len.get());
        let extra_len = usize::from(header.extra_len.get());
        let comment_len = usize::from(header.comment_len.get());
        let fields = start + CentralHeader::SIZE as u64;
        let end = fields + (name_len + extra_len + comment_len) as u64;
        if end > self.range.end {
            return Ok(None);
        }
        let Some(fields) = window.get(fields..end)? else { return Ok(None) };
        let (name, extra) = (&fields[..name_len], &fields[name_len..name_len + extra_len]);
        Ok(Some((CentralRecord { header, name, extra, at }, (end - self.range.start) as usize)))
    }

    /// The bytes of the record at byte `at` of the directory, if all of them are there.
    ///
    /// # Errors
    /// If they were not fetched.
    #[inline]
    pub(crate) fn raw_record<'a>(&self, window: Window<'a>, at: usize) -> Result<Option<&'a [u8]>, Missing> {
        let start = self.range.start.saturating_add(at as u64);
        let Some(header) = CentralHeader::find(window, start)? else { return Ok(None) };
        let fields = [header.name_len, header.extra_len, header.comment_len];
        let len = fields.iter().fold(CentralHeader::SIZE as u64, |len, field| len + u64::from(field.get()));
        let is_inside = start + len <= self.range.end;
        if is_inside { window.get(start..start + len) } else { Ok(None) }
    }

    /// The bytes of all records.
    ///
    /// # Errors
    /// If the file ends before the directory does.
    pub(crate) fn records<'a>(&self, window: Window<'a>) -> Result<&'a [u8]> {
        window.get(self.range.clone())?.ok_or_else(|| ErrorKind::DirectoryTruncated.into())
    }
}

/// Where the end record is, of a directory that ends at byte `at`.
pub(crate) fn end_record_behind(window: Window<'_>, at: u64) -> Result<Option<u64>, Missing> {
    let behind_zip64 = at.saturating_add((Zip64EndRecord::SIZE + Zip64Locator::SIZE) as u64);
    for at in [at, behind_zip64] {
        if EndRecord::find(window, at)?.is_some() {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Whether the end record at `at`, with its comment, ends the file, but for `begun` bytes: any other end
/// record may be a part of a comment.
fn ends_file(window: Window<'_>, at: u64, begun: u64) -> Result<bool, Missing> {
    Ok(EndRecord::find(window, at)?.is_some_and(|record| {
        let end = at + EndRecord::SIZE as u64 + u64::from(record.comment_len.get());
        window.len().checked_sub(end).is_some_and(|behind| behind <= begun)
    }))
}

/// The zip64 end record that belongs to the end record at `at`, with its place, if there is one.
fn zip64_end_record(window: Window<'_>, at: u64) -> Result<Option<(u64, &Zip64EndRecord)>> {
    let Some(locator_at) = at.checked_sub(Zip64Locator::SIZE as u64) else {
        return Ok(None);
    };
    let Some(locator) = Zip64Locator::find(window, locator_at)? else {
        return Ok(None);
    };
    if locator.disk.get() != 0 || locator.disks.get() > 1 {
        return Err(Error::at(ErrorKind::MultiDisk, locator_at));
    }
    // The record stands right in front of the locator in every archive that `zipfile` reads. Only a record
    // with further data inside (section 4.3.14.2) starts elsewhere, where the locator says.
    let in_front = locator_at.checked_sub(Zip64EndRecord::SIZE as u64);
    let elsewhere = Some(locator.end_offset.get()).filter(|&at| at < locator_at);
    for at in [in_front, elsewhere].into_iter().flatten() {
        if let Some(record) = Zip64EndRecord::find(window, at)? {
            return Ok(Some((at, record)));
        }
    }
    Ok(None)
}

fn rfind(bytes: &[u8], pattern: [u8; 4]) -> Option<usize> {
    bytes.windows(4).rposition(|window| window == pattern)
}
