//! What members there are in a file, with or without a directory that lists them.
//!
//! A writer that was killed leaves members that no directory has: behind a directory that they have
//! overwritten, behind the archive that was appended to, or in the room in front of the last directory that
//! was flushed. Where such members can be, a scan (`member_scan`) goes through the file: through the room and
//! what is behind the directory, or through all of it where the directory cannot be believed.

use std::ops::Range;

use memchr::memmem;

use crate::additions::base::Base;
use crate::additions::seal::Seal;
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::recover::listed::Listed;
use crate::recover::member_scan::Scan;
use crate::recover::provenance::{
    could_be_ours, follows_its_last_member, is_begun, is_behind_another, leads_to_its_member,
    misses_first_member,
};
use crate::recover::stale_index;
use crate::recover::survey::{DirectoryState, FoundDirectory, Source, Survey, Visibility, Witness};
use crate::window::Window;
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

/// The signature of an end record.
const END_RECORD: [u8; 4] = EndRecord::SIGNATURE.to_le_bytes();

/// How thoroughly to look into a file without a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For what was written by us, if the file looks like it near its ends; a directory that is there is
    /// taken as it is, as who only reads finds out what is wrong with it, see [`Survey::without_directory`].
    Read,
    /// As to read, and the directory is read to its end, unless it can be added to where it is.
    Append,
    /// As to append, and the directory is added to where it is only if it is what its seal says: a power
    /// failure may have torn it.
    AppendChecked,
    /// Everywhere, and if mmnpz wrote nothing of it, for members of other programs, too.
    Full,
}

/// The room in front of the directory of a file whose writer was closed: its seal says that there is no
/// member in it, and nobody looks for one there. Empty for any other file.
///
/// # Errors
/// If bytes near its end were not fetched.
pub fn closed_room(window: Window<'_>) -> Result<Range<u64>, Missing> {
    let directory = match DirectoryLocation::locate(window) {
        Ok(directory) => directory,
        Err(Error { kind: ErrorKind::Missing(range), .. }) => return Err(Missing(range)),
        Err(_) => return Ok(0..0),
    };
    match Seal::before(&directory, window)?.filter(Seal::is_last) {
        Some(seal) if seal.ends(window)? => Ok(seal.members_end()..seal.start()),
        _ => Ok(0..0),
    }
}

impl Survey {
    /// Surveys a file, without a look at its holes; `keep_going` is asked from time to time.
    ///
    /// # Errors
    /// Those of [`DirectoryLocation::locate`] if there is nothing that could be read,
    /// [`ErrorKind::Interrupted`] and [`ErrorKind::Missing`].
    pub fn new<'a>(
        window: impl Into<Window<'a>>,
        effort: Effort,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let window = window.into();
        let located = DirectoryLocation::locate(window).and_then(|directory| {
            directory.is_begun(window)?;
            let seal = Seal::before(&directory, window)?;
            let can_grow = match seal {
                Some(seal) if seal.can_grow(window)? => Some(seal),
                _ => None,
            };
            let state = match effort {
                Effort::Read => DirectoryState::Unknown,
                Effort::Append if can_grow.is_some() => DirectoryState::CanGrow,
                _ => match (can_grow, seal) {
                    (Some(seal), _)
                        if effort == Effort::AppendChecked && seal.is_right(window, &mut keep_going)? =>
                    {
                        DirectoryState::CanGrow
                    }
                    // Its checksum is checked in less time than its records.
                    (_, Some(seal)) if seal.is_whole(window, &mut keep_going)? => DirectoryState::Sound,
                    _ => {
                        directory.is_readable(window)?;
                        DirectoryState::Unknown
                    }
                },
            };
            Ok((directory, state))
        });
        let error = match located {
            Ok((directory, state)) => {
                match Self::with_directory(window, directory, state, effort, &mut keep_going)? {
                    Some(survey) => return Ok(survey),
                    // Its end record is not the one that belongs to it.
                    None => ErrorKind::NoEndRecord.into(),
                }
            }
            Err(error) if !error.is_about_file() => return Err(error),
            Err(error) => error,
        };
        Self::without_directory(window, error, effort, keep_going)
    }

    /// Surveys a file whose directory cannot be read, with the error that tells why.
    ///
    /// # Errors
    /// That error if there is nothing else, [`ErrorKind::Interrupted`] and [`ErrorKind::Missing`].
    pub fn without_directory<'a>(
        window: impl Into<Window<'a>>,
        error: Error,
        effort: Effort,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let window = window.into();
        // An end record of which only the first bytes were written can look like that of a part of a split
        // archive. In a real part, no mark holds: each has its own place in the file under its checksum.
        if effort != Effort::Full && !could_be_ours(window)? {
            return Err(error);
        }
        let mut scan = Scan::of_all(window, &mut keep_going)?;
        let is_part = error.kind == ErrorKind::MultiDisk;
        if scan.survey.is_empty() && effort == Effort::Full && !is_part && !is_begun(window)? {
            // Not a file of mmnpz. Perhaps another program was killed before it wrote the directory.
            scan.chain()?;
        }
        // A file in which there is nothing is what the first look says that it is, unless a writer of
        // mmnpz began it, and was killed before its first member was finished.
        if scan.survey.is_empty() && !is_begun(window)? { Err(error) } else { Ok(scan.survey) }
    }

    /// There is a directory at the end: what could it not list?
    fn with_directory(
        window: Window<'_>,
        directory: DirectoryLocation,
        state: DirectoryState,
        effort: Effort,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Self>> {
        let len = window.len();
        let mut seal = Seal::before(&directory, window)?;
        let ends = match seal {
            Some(seal) => seal.ends(window)?,
            None => false,
        };
        // An empty archive is no more than its end record. A writer killed before it wrote its first member,
        // over that, can have written others.
        let is_overtaken = directory.range == (0..0) && directory.comment.end < len;
        let mut is_suspect = seal.is_none()
            && (is_overtaken
                || (is_behind_another(window, &directory)? || misses_first_member(window, &directory)?)
                    && !follows_its_last_member(window, &directory)?);
        if let Some(sealed) = seal
            && !sealed.has_end_records(window)?
        {
            // It leads to what the seal stands for if another program has given the archive a comment. Where
            // no member is listed, none shows what stands in front of the archive.
            let is_same = directory.range == (sealed.directory()..sealed.directory_end())
                && directory.count == sealed.members()
                && (directory.prefix_len == 0 || directory.count > 0)
                && leads_to_its_member(window, &directory)?;
            if !is_same || (state != DirectoryState::Sound && !sealed.is_whole(window, &mut *keep_going)?) {
                (seal, is_suspect) = (None, true);
            }
        }
        // Who reads by a stored index finds that out when something is not where the index says.
        let is_read_by_index = effort == Effort::Read && ends;
        if let Some(sealed) = seal.filter(|seal| !(is_read_by_index && seal.is_last()))
            && state == DirectoryState::Unknown
            && !sealed.holds(window)?
            && Listed::of(window, Some(&directory))?.is_made_of_two(&directory, window)?
        {
            return Ok(None);
        }
        if is_suspect {
            // Another program has written it anew. Or it is made of an old and a new one, as a power failure
            // can leave them: then it cannot be read, or there are members that it does not list.
            match directory.is_readable(window) {
                Err(error) if error.is_about_file() => return Ok(None),
                read => read?,
            }
            let all = Scan::of_all(window, &mut *keep_going)?.survey;
            let known = Listed::of(window, all.location())?;
            let listed = Listed::of(window, Some(&directory))?;
            // What stands in front of the archive is looked at below.
            let start = u64::try_from(directory.prefix_len).unwrap_or(0);
            let mut has_all = listed.has_all_of(&known, start);
            for member in all.found.iter().filter(|member| member.header >= start) {
                has_all &= listed.has(member, window)?;
            }
            if !has_all {
                return Ok(Some(all));
            }
        }
        let room =
            seal.filter(|seal| !seal.is_last()).map_or(0..0, |seal| seal.complete_below()..seal.start());
        if seal.is_none() && directory.prefix_len != 0 && (effort == Effort::Full || could_be_ours(window)?) {
            // Something stands in front of this archive. If that is an archive of mmnpz, this one is inside
            // of an array that was being written, unless it was put behind it: then it ends the file.
            let outer = Scan::of_all(window, &mut *keep_going)?.survey;
            let end = outer.location().map(|directory| directory.comment.end);
            let is_behind = outer.found.is_empty()
                && end.and_then(|end| i64::try_from(end).ok()) == Some(directory.prefix_len)
                && directory.ends_file(window, Base::SIZE as u64)?
                && leads_to_its_member(window, &directory)?;
            if !is_behind && (!outer.is_empty() || is_begun(window)?) {
                return Ok(Some(outer));
            }
        }
        let seal = seal.filter(|seal| ends || !seal.is_last());
        let witness = seal.map_or(Witness::EndRecord, |seal| Witness::Seal(seal, state));
        // Behind the end record there can be members that were appended to another program's archive, and a
        // part of a directory of mmnpz: at most 64 KiB, or the end record would not have been found.
        let behind = directory.comment.end..len;
        let is_near_end = directory.is_near_end(window);
        let range = directory.range.clone();
        let mut survey = Survey { end: seal.map_or(len, |seal| seal.members_end()), ..Survey::default() };
        if seal.is_none() && effort != Effort::Read {
            survey.stale_indexes = stale_index::find(window, &directory)?;
        }
        // It ends the file, unless the scan finds that something is behind it.
        survey.source =
            Source::Directory(FoundDirectory { location: directory, witness, visibility: Visibility::AtEnd });
        if room.is_empty() && behind.is_empty() {
            return Ok(Some(survey));
        }
        let mut scan = Scan::new(window, survey, keep_going);
        let behind_end = behind.clone();
        scan.run(room)?;
        scan.run(behind)?;
        scan.conclude()?;
        let mut survey = scan.survey;
        // Other programs take the last end record. If it is torn, so that an earlier one counts here, that is
        // no state to leave a file in.
        let end_record = memmem::find(window.get_inside(behind_end)?, &END_RECORD);
        let is_clean = end_record.is_none() && ((seal.is_some() && ends) || survey.end == len);
        if let Source::Directory(found) = &mut survey.source {
            // The one that was found by its end record may have been passed over.
            found.visibility = match is_near_end && found.location.range == range {
                true if is_clean => Visibility::AtEnd,
                true => Visibility::NearEnd,
                false => Visibility::Hidden,
            };
        }
        Ok(Some(survey))
    }
}
