//! From a file, however it was left, to a writer that goes on behind what is there.

use std::collections::HashSet;

use mmnpz_format::additions::filler::Filler;
use mmnpz_format::additions::local_member::LocalMember;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Source, Survey};
use mmnpz_format::window::{POLL_BYTES, Window};
use mmnpz_format::write::appender::Appender;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::name;
use mmnpz_format::zip::records::{LocalHeader, Record};

use crate::failure::{Failure, KeepGoing, polled};
use crate::storage::{self, Contents, SIGNATURE, Storage};

/// A file as it was found, by the one process that may write to it.
pub(crate) struct FoundFile {
    pub(crate) contents: Contents,
    /// What is in it; nothing if it is empty, or holds nothing but zeros.
    pub(crate) survey: Survey,
}

impl FoundFile {
    /// Looks into a file.
    pub(crate) fn new(
        storage: &impl Storage,
        effort: Effort,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let contents = storage.contents()?;
        let window = contents.window();
        let survey = match polled(keep_going, |keep_going| Survey::new(window, effort, keep_going)) {
            Err(Failure::Format(_)) if polled(keep_going, |keep_going| window.is_blank(keep_going))? => {
                Survey::default()
            }
            survey => survey?,
        };
        Ok(FoundFile { contents, survey })
    }

    /// Checks the members that no directory lists, see [`sort_out`].
    pub(crate) fn sort_out(
        &mut self,
        storage: &impl Storage,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Dropped>, Failure> {
        sort_out(storage, self.contents.window(), &mut self.survey, progress)
    }
}

/// The state of a writer that goes on behind what is in a file. Members that no directory lists are taken up
/// if their checksums are right.
pub(crate) fn append_to(
    storage: &impl Storage,
    alignment: Alignment,
    keep_going: KeepGoing<'_>,
) -> Result<Appender, Failure> {
    if storage.is_empty()? {
        return Ok(Appender::new(alignment));
    }
    // What was written since the system started is as it was written; of what is older, a power failure can
    // have kept a part from the disk.
    let effort = if storage.may_be_torn()? { Effort::AppendChecked } else { Effort::Append };
    let mut found = FoundFile::new(storage, effort, keep_going)?;
    found.sort_out(storage, &mut |_| keep_going())?;
    if effort == Effort::AppendChecked {
        erase_stale_end_records(storage, found.contents.window(), &found.survey)?;
    }
    resume(storage, &found.contents, &found.survey, alignment)
}

/// A member that is not in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Its name.
    pub name: String,
    /// Where its local header is.
    pub header: u64,
    /// Why it is not.
    pub why: &'static str,
}

/// Checks the members that no directory lists, and drops those whose bytes are not what was written: after a
/// power failure, a member can have its local header and not its data. `progress` gets the number of bytes
/// that were checked since it was called last, and says whether to go on.
fn sort_out(
    storage: &impl Storage,
    window: Window<'_>,
    survey: &mut Survey,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<Dropped>, Failure> {
    if matches!(survey.source, Source::LocalHeaders) {
        return Ok(Vec::new());
    }
    let mut dropped = Vec::new();
    let mut torn = HashSet::new();
    for member in &survey.found {
        if is_sound(window, member, progress)? {
            continue;
        }
        torn.insert(member.header);
        // So that it is not found again.
        storage.write_at(&[0; SIGNATURE], member.header)?;
        let name = name::decode(member.name(window)?, member.flags).unwrap_or_default();
        let name = name.strip_suffix(name::EXTENSION).unwrap_or(&name).to_owned();
        dropped.push(Dropped { name, header: member.header, why: "its bytes do not have its checksum" });
    }
    survey.drop_found(|member| !torn.contains(&member.header));
    Ok(dropped)
}

/// The state of a writer that goes on behind what was found in a file, which is made ready for it.
pub(crate) fn resume(
    storage: &impl Storage,
    contents: &Contents,
    survey: &Survey,
    alignment: Alignment,
) -> Result<Appender, Failure> {
    // Where nothing was ever finished, the first header is all that tells that the file is ours: it stays
    // until a member takes its place.
    let kept = usize::from(survey.is_empty());
    for at in survey.stale_headers().skip(kept) {
        storage.write_at(&[0; SIGNATURE], at)?;
    }
    if survey.is_empty() {
        // The file stays as long as it is: a reader may just be looking at it.
        return Ok(Appender::new(alignment));
    }
    // Read before anything is filled: the old directory can lie in a gap, where a member was begun.
    let appender = Appender::resume(&contents.bytes, survey, alignment)?;
    for filler in survey.gaps.iter().cloned().filter_map(Filler::new) {
        storage::fill(storage, &filler)?;
    }
    fill_stale_indexes(storage, survey)?;
    mend_start(storage, contents.window(), survey)?;
    Ok(appender)
}

/// Lets members follow one another where another program has left a part of a directory of mmnpz between
/// them; says whether that was so.
pub(crate) fn fill_stale_indexes(storage: &impl Storage, survey: &Survey) -> Result<bool, Failure> {
    let mut is_filled = false;
    for filler in survey.stale_indexes.iter().cloned().filter_map(Filler::new) {
        // What they are known by is at their end: if this is killed, the next one finds them.
        storage::fill_from_its_head(storage, &filler)?;
        is_filled = true;
    }
    Ok(is_filled)
}

/// Takes the signatures of end records away that lead to a directory that does not count, see
/// [`Survey::stale_end_records`].
pub(crate) fn erase_stale_end_records(
    storage: &impl Storage,
    window: Window<'_>,
    survey: &Survey,
) -> Result<(), Failure> {
    for at in survey.stale_end_records(window)? {
        storage.write_at(&[0; SIGNATURE], at)?;
    }
    Ok(())
}

/// NumPy knows an archive by its first bytes, which a power failure can have kept from the disk: no member of
/// ours that is there starts with zeros. Says whether that was so.
pub(crate) fn mend_start(
    storage: &impl Storage,
    window: Window<'_>,
    survey: &Survey,
) -> Result<bool, Failure> {
    let is_ours = survey.seal().is_some() || !survey.found.is_empty();
    let prefix_len = survey.location().map_or(0, |directory| directory.prefix_len);
    let is_lost = is_ours && prefix_len == 0 && window.get_inside(0..4)? == [0; 4];
    if is_lost {
        storage.write_at(&LocalHeader::SIGNATURE.to_le_bytes(), 0)?;
    }
    Ok(is_lost)
}

fn is_sound(
    window: Window<'_>,
    member: &LocalMember,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, Failure> {
    // Progress is told of in the steps in which the bytes are read.
    let mut told = 0;
    let size = member.end - member.file;
    let crc = window.crc(&(member.file..member.end), || {
        let step = POLL_BYTES.min(size - told);
        told += step;
        progress(step)
    })?;
    if !progress(size - told) {
        return Err(Failure::Interrupted);
    }
    Ok(crc == Some(member.crc))
}
