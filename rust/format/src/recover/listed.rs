//! The members that a directory lists, to compare with what the local headers say.

use std::collections::HashMap;

use crate::additions::local_member::LocalMember;
use crate::error::{ErrorKind, Missing, Result};
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{Extent, LocalHeader, Record, flags};

/// What tells a member from another one that was written to the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    crc: u32,
    name: &'a [u8],
}

/// The members that a directory lists, by the places of their local headers.
#[derive(Debug, Default)]
pub(crate) struct Listed<'a>(HashMap<u64, Entry<'a>>);

impl<'a> Listed<'a> {
    /// Those of a directory, as far as it can be read; none without one.
    pub(crate) fn of(window: Window<'a>, directory: Option<&DirectoryLocation>) -> Result<Self, Missing> {
        let Some(directory) = directory else { return Ok(Self::default()) };
        let records = window.get(directory.range.clone())?.unwrap_or_default();
        let member = |record: CentralRecord<'a>| {
            let extent = Extent::read(record.header, record.extra).ok()?;
            let header = extent.local_offset.checked_add_signed(directory.prefix_len)?;
            Some((header, Entry { crc: record.header.crc.get(), name: record.name }))
        };
        Ok(Listed(Walk::new(records).filter_map(member).collect()))
    }

    /// Where their local headers are, in any order.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// Whether a member is listed whose local header is here.
    pub(crate) fn has_place(&self, header: u64) -> bool {
        self.0.contains_key(&header)
    }

    /// Whether a member is listed as its local header has it.
    ///
    /// # Errors
    /// If the bytes of its name were not fetched.
    pub(crate) fn has(&self, member: &LocalMember, window: Window<'_>) -> Result<bool, Missing> {
        let Some(entry) = self.0.get(&member.header) else { return Ok(false) };
        Ok(entry.crc == member.crc && entry.name == member.name(window)?)
    }

    /// Whether all members of another directory from this byte of the file on are listed as that lists them.
    pub(crate) fn has_all_of(&self, other: &Self, from: u64) -> bool {
        other.0.iter().all(|(&header, entry)| header < from || self.0.get(&header) == Some(entry))
    }

    /// Whether all members of another directory are listed as that lists them, but for names that were
    /// changed in the local headers, too.
    ///
    /// # Errors
    /// If local headers were not fetched.
    pub(crate) fn has_all_of_but_names(&self, other: &Self, window: Window<'_>) -> Result<bool, Missing> {
        for (&header, entry) in &other.0 {
            match self.0.get(&header) {
                Some(here) if here == entry => {}
                Some(here) if here.crc == entry.crc && local_name(window, header)? == Some(here.name) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether the directory, which is not what its seal says, is made of two. One that has the members in
    /// another order can take the place of the one before, and a power failure leave a part of each: then two
    /// entries lead to one place, or one has the checksum of one member and the place of another, or the
    /// place of one and the name of another. A program that changes names leaves the rest as it is.
    ///
    /// # Errors
    /// If local headers were not fetched.
    pub(crate) fn is_made_of_two(
        &self,
        directory: &DirectoryLocation,
        window: Window<'_>,
    ) -> Result<bool, Missing> {
        if self.len() as u64 != directory.count {
            return Ok(true);
        }
        let mut names = HashMap::with_capacity(self.len());
        for (&header, entry) in &self.0 {
            // What has no header is damaged, but not by that.
            let Some(local) = LocalHeader::find(window, header)? else { continue };
            let is_streamed = local.flags.get() & flags::DATA_DESCRIPTOR != 0;
            if !is_streamed && local.crc.get() != entry.crc {
                return Ok(true);
            }
            if let Some(other) = names.insert(entry.name, header)
                && (local_name(window, header)? != Some(entry.name)
                    || local_name(window, other)? != Some(entry.name))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many members there are, by their places.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Checks a directory that is not what its seal says.
///
/// # Errors
/// If it is [made of two](Listed::is_made_of_two).
pub(crate) fn check(window: Window<'_>, directory: &DirectoryLocation) -> Result<()> {
    if Listed::of(window, Some(directory))?.is_made_of_two(directory, window)? {
        return Err(ErrorKind::DirectoryTruncated.into());
    }
    Ok(())
}

/// The name in the local header at this byte of the file, if there is one.
pub(crate) fn local_name(window: Window<'_>, header: u64) -> Result<Option<&[u8]>, Missing> {
    let Some(local) = LocalHeader::find(window, header)? else { return Ok(None) };
    let name = header + LocalHeader::SIZE as u64;
    window.get(name..name + u64::from(local.name_len.get()))
}
