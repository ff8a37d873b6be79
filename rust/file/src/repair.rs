//! Repair: checks the members that a killed writer left, and writes a directory that lists them.

use std::path::{Path, PathBuf};

use mmnpz_format::recover::recovery_scan::Effort;
use mmnpz_format::recover::survey::Source;
use mmnpz_format::write::patch::Patch;
use mmnpz_format::write::placement::Alignment;
use mmnpz_format::zip::name;

use crate::failure::{Failure, KeepGoing};
use crate::partial;
pub use crate::partial::Kept;
pub use crate::recovery::Dropped;
use crate::recovery::{self, FoundFile};
use crate::storage::Storage;
use crate::writable_file;
use crate::writer::ArchiveWriter;

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// How many members the archive has.
    pub count: u64,
    /// The names of the members that no directory listed.
    pub recovered: Vec<String>,
    /// The members that are not in the archive.
    pub dropped: Vec<Dropped>,
    /// Arrays of the rows of streams that were not finished.
    pub kept: Vec<Kept>,
    /// Whether the repair changed the file.
    pub changed: bool,
}

/// Makes the file at `path` an archive that lists all its sound members; with `keep_partial`, the whole rows
/// of streams that were not finished are members, too. `progress` gets the number of bytes
/// that were checked, and the number of all bytes to check; it returns whether to go on.
///
/// # Errors
/// If it is no archive, another writer has it, or the system cannot write.
pub fn repair(
    path: &Path,
    keep_partial: bool,
    progress: &dyn Fn(u64, u64) -> bool,
    keep_going: KeepGoing<'_>,
) -> Result<Repaired, Failure> {
    repair_storage(writable_file::open(path)?, path.to_owned(), keep_partial, progress, keep_going)
}

/// As [`repair`], for a file that is open, at `path`.
///
/// # Errors
/// Those of [`repair`].
pub fn repair_storage(
    storage: impl Storage,
    path: PathBuf,
    keep_partial: bool,
    progress: &dyn Fn(u64, u64) -> bool,
    keep_going: KeepGoing<'_>,
) -> Result<Repaired, Failure> {
    let alignment = Alignment::new(1)?;
    let mut found = FoundFile::new(&storage, Effort::Full, keep_going)?;
    let kept = if keep_partial { partial::keep(&storage, &found, keep_going)? } else { Vec::new() };
    if !kept.is_empty() {
        found = FoundFile::new(&storage, Effort::Full, keep_going)?;
    }
    let window = found.contents.window();
    if found.survey.is_whole() {
        let count = found.survey.location().map_or(0, |directory| directory.count);
        let is_mended = recovery::mend_start(&storage, window, &found.survey)?;
        let changed = is_mended | recovery::fill_stale_indexes(&storage, &found.survey)?;
        if changed {
            // Else the next writer does this: it sees that the file was not written since.
            recovery::erase_stale_end_records(&storage, window, &found.survey)?;
            storage.sync()?;
        }
        return Ok(Repaired { count, recovered: Vec::new(), dropped: Vec::new(), kept, changed });
    }
    let total: u64 = found.survey.found.iter().map(|member| member.end - member.file).sum();
    let mut done = 0;
    let mut dropped = found.sort_out(&storage, &mut |count| {
        done += count;
        progress(done, total)
    })?;
    let unfinished = found.survey.unfinished.iter();
    dropped.extend(unfinished.map(|member| Dropped {
        name: member.name.clone(),
        header: member.header,
        why: "it was not finished",
    }));
    let window = found.contents.window();
    let recovered = found.survey.found.iter().filter_map(|member| {
        let name = name::decode(member.name(window).ok()?, member.flags).ok()?;
        Some(name.strip_suffix(name::EXTENSION)?.to_owned())
    });
    let recovered = recovered.collect();
    recovery::erase_stale_end_records(&storage, window, &found.survey)?;
    let appender = recovery::resume(&storage, &found.contents, &found.survey, alignment)?;
    let count = appender.count();
    if matches!(found.survey.source, Source::LocalHeaders) {
        let Patch { at, bytes } = appender.foreign_directory();
        storage.write_at(&bytes, at)?;
        storage.sync()?;
    } else {
        ArchiveWriter::new(path, storage, appender, true).close(keep_going)?;
    }
    Ok(Repaired { count, recovered, dropped, kept, changed: true })
}
