//! Bringing back what a killed writer left: checking it, and writing the directory that lists it.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;

use crate::archive::{Archive, is_blank};
use crate::detach::detached;
use crate::error::{Failure, check_signals, polled};
use crate::{file, mapping};
use mmnpz_format::additions::filler::Filler;
use mmnpz_format::additions::local_member::LocalMember;
use mmnpz_format::error::ErrorKind;
use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::{Origin, Survey};
use mmnpz_format::sparse::{POLL_BYTES, Sparse};
use mmnpz_format::write::appender::Appender;
use mmnpz_format::write::grow_in_place::SharedBytes;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::name;
use mmnpz_format::zip::records::{LocalHeader, Record};

/// A member that is not in the archive: its name, where its local header is, and why.
pub(crate) type Dropped = (String, u64, &'static str);

/// Checks the members that no directory lists, and drops those whose bytes are not what was written: after a power
/// failure, a member can have its local header and not its data. `progress` gets the number of bytes that were checked.
pub(crate) fn sort_out(
    file: &File,
    sparse: Sparse<'_>,
    survey: &mut Survey,
    mut progress: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<Vec<Dropped>, Failure> {
    if survey.origin == Origin::Members {
        return Ok(Vec::new());
    }
    let mut dropped = Vec::new();
    let mut torn = HashSet::new();
    for member in &survey.found {
        if is_sound(sparse, member, &mut progress)? {
            continue;
        }
        torn.insert(member.header);
        // So that it is not found again.
        file::write_all_at(file, &[0; file::SIGNATURE], member.header)?;
        let name = name::decode(member.name(sparse.bytes), member.flags).unwrap_or_default();
        let name = name.strip_suffix(name::EXTENSION).unwrap_or(&name).to_owned();
        dropped.push((name, member.header, "its bytes do not have its checksum"));
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
    // Where nothing was ever finished, the first header is all that tells that the file is ours: it stays until a member
    // takes its place.
    let kept = usize::from(survey.is_empty());
    for at in survey.stale_headers().skip(kept) {
        file::write_all_at(file, &[0; file::SIGNATURE], at)?;
    }
    if survey.is_empty() {
        // The file stays as long as it is: a reader may just be looking at it.
        return Ok(Appender::new(alignment));
    }
    for filler in survey.gaps.iter().cloned().filter_map(Filler::new) {
        file::fill(file, &filler)?;
    }
    fill_stale_indexes(file, survey)?;
    mend_start(file, (**held).as_ref(), survey)?;
    Ok(Appender::resume(held, survey, alignment)?)
}

/// Lets members follow one another where another program has left a part of a directory of ours between them; says whether
/// that was so.
fn fill_stale_indexes(file: &File, survey: &Survey) -> Result<bool, Failure> {
    let mut is_filled = false;
    for filler in survey.stale_indexes.iter().cloned().filter_map(Filler::new) {
        // What they are known by is at their end: if this is killed, the next one finds them.
        file::fill_from_its_head(file, &filler)?;
        is_filled = true;
    }
    Ok(is_filled)
}

/// NumPy knows an archive by its first bytes, which a power failure can have kept from the disk: no member of ours that
/// is there starts with zeros. Says whether that was so.
fn mend_start(file: &File, bytes: &[u8], survey: &Survey) -> Result<bool, Failure> {
    let is_ours = survey.seal.is_some() || !survey.found.is_empty();
    let prefix_len = survey.directory.as_ref().map_or(0, |directory| directory.prefix_len);
    let is_lost = is_ours && prefix_len == 0 && bytes.starts_with(&[0; 4]);
    if is_lost {
        file::write_all_at(file, &LocalHeader::SIGNATURE.to_le_bytes(), 0)?;
    }
    Ok(is_lost)
}

fn is_sound(
    sparse: Sparse<'_>,
    member: &LocalMember,
    progress: &mut impl FnMut(u64) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut failure = None;
    // Progress is told of in the steps in which the bytes are read.
    let mut told = 0;
    let size = member.end - member.file;
    let crc = sparse.crc(&(member.file..member.end), || {
        let step = POLL_BYTES.min(size - told);
        told += step;
        failure = progress(step).err();
        failure.is_none()
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    progress(size - told)?;
    Ok(crc? == Some(member.crc))
}

/// Makes the file at `path` an archive that lists all that is there.
///
/// Returns the number of members, the names that no directory listed, what was dropped, and whether anything had
/// to be done.
#[pyfunction]
#[pyo3(name = "_repair")]
pub(crate) fn repair(
    py: Python<'_>,
    path: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, Vec<String>, Vec<Dropped>, bool)> {
    detached(py, || repair_file(&path, progress.as_ref())).map_err(|failure| failure.into_err(py, &path))
}

fn repair_file(
    path: &Path,
    progress: Option<&Py<PyAny>>,
) -> Result<(u64, Vec<String>, Vec<Dropped>, bool), Failure> {
    let locked = file::open(path)?;
    let alignment = Alignment::new(1)?;
    let held: SharedBytes = match locked.file.metadata()?.len() {
        0 => Arc::new([]),
        _ => Arc::new(mapping::map(&locked.file)?),
    };
    let map = (*held).as_ref();
    let holes = mapping::holes(&locked.file, &locked.file.metadata()?, map);
    let sparse = Sparse::new(map, &holes);
    let mut survey = match polled(|keep_going| Survey::new(sparse, Effort::Full, keep_going)) {
        Err(Failure::Format(error)) if error.kind != ErrorKind::Interrupted && is_blank(sparse)? => {
            Survey::default()
        }
        survey => survey?,
    };
    if survey.is_whole() {
        let directory = survey.directory.as_ref();
        let count = directory.map_or(0, |directory| directory.count);
        let changed = mend_start(&locked.file, map, &survey)? | fill_stale_indexes(&locked.file, &survey)?;
        if changed {
            locked.file.sync_data()?;
        }
        return Ok((count, Vec::new(), Vec::new(), changed));
    }
    let total: u64 = survey.found.iter().map(|member| member.end - member.file).sum();
    let mut done = 0;
    let mut dropped = sort_out(&locked.file, sparse, &mut survey, |count| {
        done += count;
        match progress {
            Some(progress) => {
                Python::attach(|py| progress.call1(py, (done, total))).map(drop).map_err(Failure::Raised)
            }
            None => check_signals(),
        }
    })?;
    let unfinished = survey.unfinished.iter();
    dropped.extend(unfinished.map(|member| (member.name.clone(), member.header, "it was not finished")));
    let found = survey.found.iter().filter_map(|member| {
        let name = name::decode(member.name(map), member.flags).ok()?;
        Some(name.strip_suffix(name::EXTENSION)?.to_owned())
    });
    let found = found.collect();
    let appender = resume(&locked.file, &held, &survey, alignment)?;
    let count = appender.count();
    if survey.origin == Origin::Members {
        let (at, directory) = appender.foreign_directory();
        file::write_all_at(&locked.file, &directory, at)?;
        locked.file.sync_data()?;
    } else {
        Archive::new(path.to_owned(), locked, appender, true).close()?;
    }
    Ok((count, found, dropped, true))
}
