//! Whose a file is, by what is near its ends, and whether its end record leads to what it should.
//!
//! These looks are cheap. They decide whether the file is gone through from member to member.

use memchr::memmem;

use crate::additions::filler::Filler;
use crate::additions::local_member::LocalMember;
use crate::additions::mark::MARK_EXTRA;
use crate::error::{Missing, Result};
use crate::window::Window;
use crate::zip::central::CentralRecord;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{Extent, LocalHeader, Record, extra_field, flags};

/// The first member of mmnpz starts at most this far from the start of the file, even if an extra field
/// cannot hold its padding.
const FIRST_MEMBER: u64 = 1 << 17;

/// At most this many zeros in front of it are skipped.
const MOST_ZEROS: u64 = 1 << 30;

/// They are read in steps of this many bytes, as there are none in most files.
const FIRST_STEP: u64 = 1 << 16;

/// How far from the end of the file a record of mmnpz is looked for to tell whether the file could be its.
const LAST_RECORD: u64 = 1 << 21;

/// The signature of a local header.
pub(crate) const LOCAL_HEADER: [u8; 4] = LocalHeader::SIGNATURE.to_le_bytes();

/// The first entry of a directory, and where it has its local header.
fn first_listed<'a>(
    window: Window<'a>,
    directory: &DirectoryLocation,
) -> Result<Option<(CentralRecord<'a>, u64)>, Missing> {
    let Some((record, _)) = directory.record(window, 0)? else { return Ok(None) };
    let extent = Extent::read(record.header, record.extra).ok();
    let local = extent.and_then(|extent| extent.local_offset.checked_add_signed(directory.prefix_len));
    Ok(local.map(|local| (record, local)))
}

/// Whether the first entry of a directory leads to the member that it lists: not where the end record, which
/// tells how far the members are from where the entries have them, is a part of one, or another's.
pub(crate) fn leads_to_its_member(
    window: Window<'_>,
    directory: &DirectoryLocation,
) -> Result<bool, Missing> {
    let Some((record, local)) = first_listed(window, directory)? else {
        return Ok(directory.range.is_empty());
    };
    let Some(header) = LocalHeader::find(window, local)? else { return Ok(false) };
    let name = local + LocalHeader::SIZE as u64;
    let has_name = window.get(name..name + u64::from(header.name_len.get()))? == Some(record.name);
    let is_streamed = header.flags.get() & flags::DATA_DESCRIPTOR != 0;
    Ok(has_name && (is_streamed || header.crc == record.header.crc))
}

/// Whether the file begins with a member of mmnpz that a directory without a seal does not list, or lists as
/// another one: mmnpz lists members in the order in which they lie, and programs that leave a member out move
/// the others.
pub(crate) fn misses_first_member(
    window: Window<'_>,
    directory: &DirectoryLocation,
) -> Result<bool, Missing> {
    if directory.prefix_len != 0 {
        return Ok(false);
    }
    // Of a file of another program no member is looked at: it may be on a slow disk.
    let is_field = |record: &CentralRecord<'_>| extra_field(record.extra, MARK_EXTRA).is_some();
    let first = first_listed(window, directory)?.filter(|(record, _)| is_field(record));
    let Some((_, local)) = first else { return Ok(false) };
    let first = if local == 0 { Some(0) } else { first_header(window)?.filter(|&first| first <= local) };
    let Some(first) = first else { return Ok(false) };
    let here = window.until_hole(first);
    let is_ours = LocalMember::marked(here, first)?.is_some() || Filler::is_at(here, first)?;
    Ok(is_ours && (first < local || !leads_to_its_member(window, directory)?))
}

/// The first local header near the start of a file; or near where it is not zero any more, if a writer was
/// killed before it wrote anything of its first member, while another thread had begun to write behind it.
fn first_header(window: Window<'_>) -> Result<Option<u64>, Missing> {
    let mut zeros = 0;
    for data in window.data_in(0..window.len()) {
        let end = data.end.min(data.start + (MOST_ZEROS - zeros));
        let mut at = data.start;
        while at < end {
            let step = window.get_inside(at..end.min(at + FIRST_STEP))?;
            let Some(first) = step.iter().position(|&byte| byte != 0) else {
                at += FIRST_STEP;
                continue;
            };
            let first = at + first as u64;
            let start = window.get_inside(first..end.min(first + FIRST_MEMBER))?;
            return Ok(memmem::find(start, &LOCAL_HEADER).map(|found| first + found as u64));
        }
        zeros += end - data.start;
    }
    Ok(None)
}

/// Whether a file has near its ends what a file of mmnpz has.
pub(crate) fn could_be_ours(window: Window<'_>) -> Result<bool, Missing> {
    if first_header(window)?.is_some() {
        return Ok(true);
    }
    for data in window.data_in(window.len().saturating_sub(LAST_RECORD)..window.len()) {
        let bytes = window.get_inside(data.clone())?;
        if memmem::find(bytes, b"PKmm").is_some() {
            return Ok(true);
        }
        for found in memmem::find_iter(bytes, &LOCAL_HEADER) {
            let at = data.start + found as u64;
            if LocalMember::marked(window.until_hole(at), at)?.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a file starts with a member that a writer of mmnpz began, or with what stands in the place of one.
pub(crate) fn is_begun(window: Window<'_>) -> Result<bool, Missing> {
    let Some(at) = first_header(window)? else { return Ok(false) };
    let here = window.until_hole(at);
    Ok(LocalMember::marked(here, at)?.is_some() || Filler::is_at(here, at)?)
}
