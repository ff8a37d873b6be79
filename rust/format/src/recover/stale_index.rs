//! The index and the seal that are left where another program has appended to an archive of mmnpz.
//!
//! Such a program writes its first member over our directory, and leaves the index and the seal in front of
//! it where they are. Nothing leads a reader across these that goes from local header to local header.

use std::ops::Range;

use crate::additions::mark::MARK_EXTRA;
use crate::additions::seal::Seal;
use crate::error::Missing;
use crate::window::Window;
use crate::zip::central::Walk;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{Extent, extra_field};

/// The ranges between members in which there are such, with what is in front of them.
pub(crate) fn find(window: Window<'_>, directory: &DirectoryLocation) -> Result<Vec<Range<u64>>, Missing> {
    let records = window.get(directory.range.clone())?.unwrap_or_default();
    // Where each member starts, and whether mmnpz wrote it.
    let mut members: Vec<_> = Walk::new(records)
        .filter_map(|record| {
            let extent = Extent::read(record.header, record.extra).ok()?;
            let header = extent.local_offset.checked_add_signed(directory.prefix_len)?;
            Some((header, extra_field(record.extra, MARK_EXTRA).is_some()))
        })
        .collect();
    if !members.iter().any(|(_, is_ours)| *is_ours) {
        return Ok(Vec::new());
    }
    members.sort_unstable();
    // Only where one of another program comes behind one of mmnpz: nothing of other members is read.
    let behind_ours = members.windows(2).filter_map(|pair| match pair {
        &[(before, true), (header, false)] => Some((before, header)),
        _ => None,
    });
    behind_ours
        .filter_map(|(before, header)| {
            // In front of one that is not the last can be members that no directory lists.
            let seal = match Seal::read(window, header.checked_sub(Seal::SIZE as u64)?) {
                Ok(seal) => seal.filter(Seal::is_last)?,
                Err(missing) => return Some(Err(missing)),
            };
            (before < seal.members_end()).then_some(Ok(seal.members_end()..header))
        })
        .collect()
}
