//! From a file, however it was left, to a writer that goes on behind what is there.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::sync::Arc;

use mmnpz_format::additions::filler::Filler;
use mmnpz_format::additions::local_member::LocalMember;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Origin, Survey};
use mmnpz_format::window::{POLL_BYTES, Window};
use mmnpz_format::write::appender::Appender;
use mmnpz_format::write::grow_in_place::SharedBytes;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::name;
use mmnpz_format::zip::records::{LocalHeader, Record};

use crate::failure::{Failure, KeepGoing, polled};
use crate::{boot, mapping, writable_file};

/// A file as it was found, by the one process that may write to it.
pub(crate) struct FoundFile {
    pub(crate) bytes: SharedBytes,
    holes: Vec<Range<u64>>,
    /// What is in it; nothing if it is empty, or holds nothing but zeros.
    pub(crate) survey: Survey,
}

impl FoundFile {
    /// Looks into a file.
    pub(crate) fn new(
        file: &File,
        metadata: &Metadata,
        effort: Effort,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        let bytes: SharedBytes = match metadata.len() {
            0 => Arc::new([]),
            _ => Arc::new(mapping::map(file)?),
        };
        let holes = mapping::holes(file, metadata, (*bytes).as_ref());
        let window = Window::whole((*bytes).as_ref(), &holes);
        let survey = match polled(keep_going, |keep_going| Survey::new(window, effort, keep_going)) {
            Err(Failure::Format(_)) if polled(keep_going, |keep_going| window.is_blank(keep_going))? => {
                Survey::default()
            }
            survey => survey?,
        };
        Ok(FoundFile { bytes, holes, survey })
    }

    /// Its bytes, and where they are in holes.
    pub(crate) fn window(&self) -> Window<'_> {
        Window::whole((*self.bytes).as_ref(), &self.holes)
    }

    /// Checks the members that no directory lists, see [`sort_out`].
    pub(crate) fn sort_out(
        &mut self,
        file: &File,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Vec<Dropped>, Failure> {
        let window = Window::whole((*self.bytes).as_ref(), &self.holes);
        sort_out(file, window, &mut self.survey, progress)
    }
}

/// The state of a writer that goes on behind what is in a file. Members that no directory lists are taken up
/// if their checksums are right.
pub(crate) fn append_to(
    file: &File,
    alignment: Alignment,
    keep_going: KeepGoing<'_>,
) -> Result<Appender, Failure> {
    let metadata = file.metadata()?;
    if metadata.len() == 0 {
        return Ok(Appender::new(alignment));
    }
    // What was written since the system started is as it was written; of what is older, a power failure can
    // have kept a part from the disk.
    let effort = if boot::is_older(&metadata) { Effort::AppendChecked } else { Effort::Append };
    let mut found = FoundFile::new(file, &metadata, effort, keep_going)?;
    found.sort_out(file, &mut |_| keep_going())?;
    resume(file, &found.bytes, &found.survey, alignment)
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
    file: &File,
    window: Window<'_>,
    survey: &mut Survey,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<Dropped>, Failure> {
    if survey.origin == Origin::Members {
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
        writable_file::write_all_at(file, &[0; writable_file::SIGNATURE], member.header)?;
        let name = name::decode(member.name(window)?, member.flags).unwrap_or_default();
        let name = name.strip_suffix(name::EXTENSION).unwrap_or(&name).to_owned();
        dropped.push(Dropped { name, header: member.header, why: "its bytes do not have its checksum" });
    }
    survey.drop_found(|member| !torn.contains(&member.header));
    Ok(dropped)
}

/// The state of a writer that goes on behind what was found in a file, which is made ready for it.
pub(crate) fn resume(
    file: &File,
    held: &SharedBytes,
    survey: &Survey,
    alignment: Alignment,
) -> Result<Appender, Failure> {
    // Where nothing was ever finished, the first header is all that tells that the file is ours: it stays
    // until a member takes its place.
    let kept = usize::from(survey.is_empty());
    for at in survey.stale_headers().skip(kept) {
        writable_file::write_all_at(file, &[0; writable_file::SIGNATURE], at)?;
    }
    if survey.is_empty() {
        // The file stays as long as it is: a reader may just be looking at it.
        return Ok(Appender::new(alignment));
    }
    for filler in survey.gaps.iter().cloned().filter_map(Filler::new) {
        writable_file::fill(file, &filler)?;
    }
    fill_stale_indexes(file, survey)?;
    mend_start(file, (**held).as_ref().into(), survey)?;
    Ok(Appender::resume(held, survey, alignment)?)
}

/// Lets members follow one another where another program has left a part of a directory of ours between them;
/// says whether that was so.
pub(crate) fn fill_stale_indexes(file: &File, survey: &Survey) -> Result<bool, Failure> {
    let mut is_filled = false;
    for filler in survey.stale_indexes.iter().cloned().filter_map(Filler::new) {
        // What they are known by is at their end: if this is killed, the next one finds them.
        writable_file::fill_from_its_head(file, &filler)?;
        is_filled = true;
    }
    Ok(is_filled)
}

/// NumPy knows an archive by its first bytes, which a power failure can have kept from the disk: no member of
/// ours that is there starts with zeros. Says whether that was so.
pub(crate) fn mend_start(file: &File, window: Window<'_>, survey: &Survey) -> Result<bool, Failure> {
    let is_ours = survey.seal.is_some() || !survey.found.is_empty();
    let prefix_len = survey.directory.as_ref().map_or(0, |directory| directory.prefix_len);
    let is_lost = is_ours && prefix_len == 0 && window.get_inside(0..4)? == [0; 4];
    if is_lost {
        writable_file::write_all_at(file, &LocalHeader::SIGNATURE.to_le_bytes(), 0)?;
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
