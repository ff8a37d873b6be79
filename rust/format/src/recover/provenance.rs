//! Whose a file is, by what is near its ends, and whether its end record leads to what it should.
//!
//! These looks are cheap. They decide whether the file is gone through from member to member.

use memchr::memmem;

use crate::additions::certificate::Certificate;
use crate::additions::filler::Filler;
use crate::additions::local_member::LocalMember;
use crate::additions::seal::Seal;
use crate::error::{Missing, Result};
use crate::recover::listed::local_name;
use crate::window::Window;
use crate::zip::central::CentralRecord;
use crate::zip::encode::is_like_ours;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{CentralHeader, Extent, LocalHeader, Record, flags};

/// The first member of mmnpz starts at most this far from the start of the file, even if an extra field
/// cannot hold its padding.
const FIRST_MEMBER: u64 = 1 << 17;

/// At most this many zeros in front of it are skipped.
const MOST_ZEROS: u64 = 1 << 30;

/// They are read in steps of this many bytes, as there are none in most files.
const FIRST_STEP: u64 = 1 << 16;

/// How far from the end of a directory its last entry is looked for: few names are that long.
const LAST_ENTRY: u64 = 1 << 10;

/// The longest data descriptor, which follows a member whose sizes were not known before.
const LONGEST_DESCRIPTOR: u64 = 24;

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
    Ok(local_of(&record, directory).map(|local| (record, local)))
}

/// Where an entry of a directory has the local header.
fn local_of(record: &CentralRecord<'_>, directory: &DirectoryLocation) -> Option<u64> {
    let extent = Extent::read(record.header, record.extra).ok()?;
    extent.local_offset.checked_add_signed(directory.prefix_len)
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
    let has_name = local_name(window, local)? == Some(record.name);
    let is_streamed = header.flags.get() & flags::DATA_DESCRIPTOR != 0;
    Ok(has_name && (is_streamed || header.crc == record.header.crc))
}

/// Whether a directory without a seal, but with entries of mmnpz, misses the first member of the file, or
/// lists it as another one: mmnpz lists members in the order in which they lie, and programs that leave a
/// member out move the others. A power failure can leave the end record of the directory before with the last
/// entries of the new one, which can be read just so if the new entries are as long as those that are missing
/// then.
pub(crate) fn misses_first_member(
    window: Window<'_>,
    directory: &DirectoryLocation,
) -> Result<bool, Missing> {
    if directory.prefix_len != 0 {
        return Ok(false);
    }
    let Some((record, local)) = first_listed(window, directory)? else { return Ok(false) };
    // Of a file of another program no member is looked at: it may be on a slow disk.
    let ends_with_ours = || Ok(last_entry(window, directory)?.is_some_and(|last| is_like_ours(last.header)));
    if !is_like_ours(record.header) && !ends_with_ours()? {
        return Ok(false);
    }
    let first = if local == 0 { Some(0) } else { first_header(window)?.filter(|&first| first <= local) };
    let Some(first) = first else { return Ok(false) };
    let here = window.until_hole(first);
    let is_ours = || Ok(LocalMember::marked(here, first)?.is_some() || Filler::is_at(here, first)?);
    Ok(first < local || (is_ours()? && !leads_to_its_member(window, directory)?))
}

/// Whether a directory without a seal is a part of another one, whose entries or whose seal lie in front of
/// it. A power failure can leave the end record of the directory before, at whose place entries of the new
/// one begin, too, if entries are equally long. The first of these can be made of two.
pub(crate) fn is_behind_another(window: Window<'_>, directory: &DirectoryLocation) -> Result<bool, Missing> {
    let end = directory.range.start;
    for data in window.data_in(end.saturating_sub(LAST_ENTRY)..end) {
        let bytes = window.get_inside(data.clone())?;
        // Another program that appends to an archive of mmnpz leaves the seal where it is: it writes its
        // member over the directory, and puts its own behind that.
        let is_of_directory = |seal: usize| {
            let behind = bytes.get(seal + Seal::SIZE..).unwrap_or_default();
            !behind.starts_with(&LOCAL_HEADER)
        };
        if (data.end == end && entry_at_end(bytes).is_some())
            || memmem::find_iter(bytes, &Seal::SIGNATURE).any(is_of_directory)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether another program wrote a directory, all of it, behind the last member that it lists and wrote. In
/// front of a directory of mmnpz is a seal.
pub(crate) fn follows_its_last_member(
    window: Window<'_>,
    directory: &DirectoryLocation,
) -> Result<bool, Missing> {
    let Some(last) = last_entry(window, directory)?.filter(|last| !is_like_ours(last.header)) else {
        return Ok(false);
    };
    let Some(local) = local_of(&last, directory) else { return Ok(false) };
    let Some(header) = LocalHeader::find(window, local)? else { return Ok(false) };
    let head =
        LocalHeader::SIZE as u64 + u64::from(header.name_len.get()) + u64::from(header.extra_len.get());
    let size = Extent::read(last.header, last.extra).map_or(0, |extent| extent.compressed);
    let behind = local.saturating_add(head).saturating_add(size);
    let is_streamed = header.flags.get() & flags::DATA_DESCRIPTOR != 0;
    let descriptor = if is_streamed { LONGEST_DESCRIPTOR } else { 0 };
    let has_name = local_name(window, local)? == Some(last.name);
    Ok(has_name && (behind..=behind.saturating_add(descriptor)).contains(&directory.range.start))
}

/// The last entry of a directory, unless it is so long that it begins far in front of the end.
fn last_entry<'a>(
    window: Window<'a>,
    directory: &DirectoryLocation,
) -> Result<Option<CentralRecord<'a>>, Missing> {
    let start = directory.range.end.saturating_sub(LAST_ENTRY).max(directory.range.start);
    Ok(entry_at_end(window.get_inside(start..directory.range.end)?))
}

/// The entry that ends where these bytes end.
fn entry_at_end(bytes: &[u8]) -> Option<CentralRecord<'_>> {
    memmem::rfind_iter(bytes, &CentralHeader::SIGNATURE.to_le_bytes()).find_map(|at| {
        let (record, end) = CentralRecord::read(bytes, at)?;
        (end == bytes.len()).then_some(record)
    })
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
