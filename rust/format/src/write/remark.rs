//! Marks that another program made wrong, made right again.
//!
//! A program that renames a member where it is changes its local header. The mark in that has the name under
//! its checksum, and is wrong from then on: only the directory tells of the member. That is enough while the
//! directory stays. Before another one takes its place, the mark is made for the member as it is now.

use crate::additions::local_member::LocalMember;
use crate::additions::mark::MARK_EXTRA;
use crate::error::Missing;
use crate::window::Window;
use crate::write::patch::Patch;
use crate::zip::central::Walk;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{Extent, STORED, extra_field};

/// What to write, and where, so that the members of a directory that were written by us have marks that hold.
pub(crate) fn remarks(window: Window<'_>, directory: &DirectoryLocation) -> Result<Vec<Patch>, Missing> {
    let records = window.get(directory.range.clone())?.unwrap_or_default();
    let mut remarks = Vec::new();
    for record in Walk::new(records) {
        let is_ours = extra_field(record.extra, MARK_EXTRA).is_some() && record.header.method.get() == STORED;
        let extent = Extent::read(record.header, record.extra).ok().filter(|_| is_ours);
        let Some(at) = extent.and_then(|it| it.local_offset.checked_add_signed(directory.prefix_len)) else {
            continue;
        };
        let Some(member) = LocalMember::read(window, at)? else { continue };
        if member.crc == record.header.crc.get()
            && member.name(window)? == record.name
            && LocalMember::marked(window, at)?.is_none()
        {
            remarks.extend(member.remark(window)?.map(|mark| Patch::new(mark.at, mark.check)));
        }
    }
    Ok(remarks)
}
