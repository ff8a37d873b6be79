//! The index of an archive whose directory a writer has overwritten, or cannot be read.

use std::ops::Range;

use crate::additions::seal::Seal;
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::read::walked_index::WalkedIndex;
use crate::recover::recovery_scan::Effort;
use crate::recover::survey::{FoundDirectory, Source, Survey, Witness};
use crate::window::Window;
use crate::zip::end::DirectoryLocation;

/// Makes an error about the file None. Any other error stays an error.
fn none_if_wrong<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_about_file() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The index of an archive after an append, if the new directory begins with the records of the old one.
pub(crate) fn successor(
    newer: Window<'_>,
    seal: &Seal,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Option<WalkedIndex>> {
    let survey = none_if_wrong(Survey::new(newer, Effort::Read, &mut *keep_going))?;
    let Some(mut directory) = survey.and_then(|survey| survey.location().cloned()) else { return Ok(None) };
    if !cut(newer, &mut directory, seal)? {
        return Ok(None);
    }
    let range = directory.range.clone();
    let Some(index) = none_if_wrong(WalkedIndex::build(newer, directory, keep_going))? else {
        return Ok(None);
    };
    // The next append may have begun to overwrite the directory meanwhile.
    let holds = newer.get(range)?.is_some_and(|records| seal.is_of(records));
    Ok(holds.then(|| index.without_directory()))
}

/// The index of an archive whose directory cannot be read to its end, by a recovery scan. `error` tells what
/// is wrong with the directory.
pub(crate) fn recover(
    window: Window<'_>,
    error: Error,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<WalkedIndex> {
    let survey = Survey::without_directory(window, error, Effort::Read, &mut *keep_going)?;
    WalkedIndex::of_survey(window, &survey, keep_going).map(WalkedIndex::without_directory)
}

/// The index of an archive without its directory, by a recovery scan.
pub(crate) fn search(
    window: Window<'_>,
    seal: &Seal,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<WalkedIndex> {
    let error = ErrorKind::NoEndRecord.into();
    let mut survey = Survey::without_directory(window, error, Effort::Read, &mut *keep_going)?;
    survey.found.retain(|member| member.header < seal.members_end());
    // The directory of another program stays where it is. A writer can overwrite a directory of mmnpz as soon
    // as it was read.
    let (is_same, range) = match &mut survey.source {
        Source::Directory(FoundDirectory { location, witness: Witness::Seal(..), .. }) => {
            (cut(window, location, seal)?, Some(location.range.clone()))
        }
        _ => (true, None),
    };
    let index = WalkedIndex::of_survey(window, &survey, keep_going)?;
    let holds = match range {
        Some(range) => window.get(range)?.is_some_and(|records| seal.is_of(records)),
        None => true,
    };
    if is_same && holds { Ok(index.without_directory()) } else { Err(ErrorKind::NoEndRecord.into()) }
}

/// Cuts a directory to the size of the directory of `seal`, and returns whether it then is that directory.
fn cut(window: Window<'_>, directory: &mut DirectoryLocation, seal: &Seal) -> Result<bool, Missing> {
    let size = seal.directory_end() - seal.directory();
    let Range { start, end } = directory.range;
    directory.range = start..start.saturating_add(size).min(end);
    directory.count = seal.members();
    Ok(window.get(directory.range.clone())?.is_some_and(|records| seal.is_of(records)))
}
