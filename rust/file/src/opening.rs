//! Opening a file once: its members, and whether a writer changed the directory meanwhile.

use std::fs::File;
use std::ops::Range;

use mmnpz_format::Window;
use mmnpz_format::error::ErrorKind;
use mmnpz_format::read::lookup::Lookup;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Survey, Visibility};
use mmnpz_format::window::Part;
use mmnpz_format::zip::end::DirectoryLocation;
use mmnpz_format::zip::records::{LocalHeader, Record};

use crate::failure::{Failure, KeepGoing, check, polled};
use crate::mapping::{Identity, MappedFile, Memory};
use crate::parts::{self, Kept, Reading};

/// How many local headers are read between two questions whether to go on.
const POLL: usize = 1 << 12;

/// Members that the directory at the end of the file does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unlisted {
    /// How many were found.
    pub count: usize,
    /// Whether there is no directory at the end of the file.
    pub is_lost: bool,
}

/// A file that was opened once.
pub(crate) struct Opened {
    pub(crate) file: MappedFile,
    /// What was read of its directory, if the file is not mapped.
    pub(crate) kept: Option<Kept>,
    pub(crate) lookup: Lookup,
    pub(crate) unlisted: Option<Unlisted>,
    /// Whether the directory did not change while it was read.
    pub(crate) is_same: bool,
}

/// What writers of the file do while it is opened.
pub(crate) struct Beside<'a> {
    /// Whether one has the file now.
    pub(crate) is_taken: &'a dyn Fn() -> bool,
    /// Whether none has it, and none has written since the size and the time of the file were seen.
    pub(crate) is_quiet: &'a dyn Fn() -> bool,
}

impl Beside<'_> {
    /// Memory has no writers.
    pub(crate) fn nobody() -> Beside<'static> {
        Beside { is_taken: &|| false, is_quiet: &|| true }
    }
}

/// Finds the members of a file.
fn find(window: Window<'_>, keep_going: KeepGoing<'_>) -> Result<(Survey, Lookup), Failure> {
    let survey = polled(keep_going, |keep_going| Survey::new(window, Effort::Read, keep_going))?;
    let lookup = |survey: &Survey| polled(keep_going, |keep_going| Lookup::new(window, survey, keep_going));
    match lookup(&survey) {
        Ok(lookup) => Ok((survey, lookup)),
        Err(Failure::Format(error)) if error.is_about_file() => {
            let survey = polled(keep_going, |keep_going| {
                Survey::without_directory(window, error, Effort::Read, keep_going)
            })?;
            let lookup = lookup(&survey)?;
            Ok((survey, lookup))
        }
        Err(failure) => Err(failure),
    }
}

/// Whether the directory that a survey has found is still there.
fn is_same(survey: &Survey, window: Window<'_>, beside: &Beside<'_>) -> Result<bool, Failure> {
    // A writer overwrites the end record before it overwrites the directory. A directory that was found
    // without an end record stays as long as no writer has the file.
    if survey.visibility() == Visibility::Hidden {
        return Ok(match survey.seal() {
            Some(seal) => seal.holds(window)? || (beside.is_quiet)(),
            // Members are found one by one, also beside a writer.
            None => (beside.is_taken)() || (beside.is_quiet)(),
        });
    }
    let is_there = match DirectoryLocation::locate(window) {
        Err(error) if !error.is_about_file() => return Err(error.into()),
        location => location.ok().as_ref() == survey.location(),
    };
    Ok(is_there && (survey.found.is_empty() || (beside.is_taken)() || (beside.is_quiet)()))
}

/// Reads what tells of the members of a file that is not mapped: the directory, and the local headers of
/// those that it does not list.
fn keep(
    file: &File,
    len: u64,
    holes: &[Range<u64>],
    (survey, lookup): (&Survey, &Lookup),
    beside: &Beside<'_>,
    keep_going: KeepGoing<'_>,
) -> Result<Kept, Failure> {
    let reading = Reading::of_directory(file, len);
    reading.alone(|window| {
        let window = window.with_holes(holes);
        if let Some(directory) = survey.location() {
            // With the index, which lies in front, and the end records.
            let start = survey.seal().map_or(u64::MAX, |seal| seal.start());
            window.get_inside(start.min(directory.range.start)..directory.comment.end)?;
        }
        // Beside a writer, members that are not found are not lost. One that came and went since the file was
        // opened has changed its time, which this looks at, too.
        let is_quiet = (beside.is_quiet)();
        polled(keep_going, |keep_going| lookup.verify(window, None, is_quiet, keep_going))?;
        lookup.is_verified(window)?;
        for directory in lookup.directories() {
            window.get_inside(directory.range.clone())?;
        }
        Ok(())
    })?;
    let mut parts = reading.finish();
    let mut headers: Vec<_> = survey.found.iter().map(|member| member.header).collect();
    let reading = Reading::of_headers(file, len);
    reading.alone(|window| {
        if lookup.is_recovered() {
            let members = lookup.members(window)?.filter_map(Result::ok);
            headers = members.map(|(member, _)| member.extent().0).collect();
        }
        for (number, &at) in headers.iter().enumerate() {
            if number % POLL == 0 {
                check(keep_going)?;
            }
            let Ok(header) = LocalHeader::read(window, at, ErrorKind::LocalOutside) else { continue };
            let end = at + LocalHeader::SIZE as u64 + u64::from(header.name_len.get());
            let bytes = window.get_inside(at..end)?;
            parts.push(Part { at, bytes: bytes.to_vec().into() });
        }
        Ok(())
    })?;
    Ok(parts::kept(parts, len))
}

impl Opened {
    /// Opens the file once.
    ///
    /// # Errors
    /// If it has another identity than `expected`, if it is no archive, and those of the system.
    pub(crate) fn once(
        file: MappedFile,
        beside: &Beside<'_>,
        expected: Option<Identity>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Self, Failure> {
        if expected.is_some_and(|expected| expected != file.identity) {
            return Err(Failure::Changed);
        }
        let (found, kept, is_same) = if let Memory::Unmapped(handle, _) = &file.memory {
            // As in a map, each step reads the bytes of its own moment.
            let len = file.identity.size;
            let read = || Reading::of_directory(handle, len);
            let holes = &file.holes;
            let found = read().alone(|window| find(window.with_holes(holes), keep_going))?;
            let kept = keep(handle, len, holes, (&found.0, &found.1), beside, keep_going)?;
            let is_same = read().alone(|window| is_same(&found.0, window.with_holes(holes), beside))?;
            (found, Some(kept), is_same)
        } else {
            let found = find(file.window(), keep_going)?;
            let is_same = is_same(&found.0, file.window(), beside)?;
            (found, None, is_same)
        };
        let (survey, lookup) = found;
        let unlisted = if lookup.is_recovered() {
            Some(Unlisted { count: lookup.len(), is_lost: true })
        } else {
            // If the last end record is torn, an earlier one counts. Only the bytes behind that one tell that
            // there were more members.
            let is_lost = survey.visibility() == Visibility::Hidden;
            (!survey.is_listed()).then_some(Unlisted { count: survey.found.len(), is_lost })
        };
        Ok(Opened { file, kept, lookup, unlisted, is_same })
    }
}
