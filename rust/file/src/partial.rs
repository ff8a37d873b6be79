//! Streams that were not finished become arrays of the whole rows that they have.

use crc32fast::Hasher;
use mmnpz_format::Window;
use mmnpz_format::additions::checkpoint;
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::recover::partial::Partial;
use mmnpz_format::write::appender::Appender;
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::name::StoredName;

use crate::failure::{Failure, KeepGoing};
use crate::recovery::FoundFile;
use crate::storage::Storage;

/// What is put behind the name of a stream if there is an array of that name.
const SUFFIX: &str = ".partial";

/// An array of the rows of a stream that was not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// The name of the stream.
    pub stream: String,
    /// How many rows it has.
    pub rows: u64,
}

/// Rows of a stream that are in the file, as their checksum tells.
struct Rows {
    partial: Partial,
    count: u64,
    crc: u32,
}

/// Makes arrays of all streams in a file that were not finished and have a row at least. The file must be
/// looked at anew afterwards.
pub(crate) fn keep(
    storage: &impl Storage,
    found: &FoundFile,
    keep_going: KeepGoing<'_>,
) -> Result<Vec<Kept>, Failure> {
    let window = found.contents.window();
    let mut streams = Vec::new();
    for unfinished in &found.survey.unfinished {
        let Some(partial) = Partial::read(window, unfinished.header)? else { continue };
        if let Some(rows) = rows_of(window, partial, keep_going)? {
            streams.push((unfinished.name.clone(), rows));
        }
    }
    if streams.is_empty() {
        return Ok(Vec::new());
    }
    // A stream that was moved when its writer was killed is there twice.
    streams.sort_by_key(|(name, rows)| (name.clone(), std::cmp::Reverse(rows.count)));
    let mut moved = Vec::new();
    for pair in streams.windows(2) {
        let [(name, longer), (other, rows)] = pair else { continue };
        let copy = longer.partial.data..longer.partial.data + rows.count * rows.partial.row;
        let is_same = name == other && longer.partial.row == rows.partial.row;
        moved.push(is_same && window.crc(&copy, keep_going)? == Some(rows.crc));
    }
    let mut is_moved = std::iter::once(false).chain(moved);
    streams.retain(|_| is_moved.next() != Some(true));
    let mut known = if found.survey.is_empty() {
        Appender::new(Alignment::new(1)?)
    } else {
        Appender::resume(&found.contents.bytes, &found.survey, Alignment::new(1)?)?
    };
    let mut kept: Vec<Kept> = Vec::new();
    for (stream, rows) in streams {
        let mut name = stream.clone();
        while known.contains(&StoredName::new(&name)?)? || kept.iter().any(|other| other.name == name) {
            name.push_str(SUFFIX);
        }
        let stored = StoredName::new(&name)?;
        if let Some(place) = Placement::of_rows(&rows.partial, &stored, rows.count)
            && finish(storage, &rows, &place, &stored)?
        {
            kept.push(Kept { name, stream, rows: rows.count });
        }
    }
    // Before the directory that lists them is written.
    storage.sync()?;
    Ok(kept)
}

/// The whole rows of a stream: of what the checkpoints say, the most that has its checksum.
fn rows_of(window: Window<'_>, partial: Partial, keep_going: KeepGoing<'_>) -> Result<Option<Rows>, Failure> {
    for checkpoint in &partial.checkpoints {
        let Some(end) = partial.data.checked_add(checkpoint.bytes) else { continue };
        if window.crc(&(partial.data..end), keep_going)? != Some(checkpoint.crc) {
            continue;
        }
        let count = checkpoint.bytes / partial.row;
        if count == 0 {
            continue;
        }
        let whole = partial.data..partial.data + count * partial.row;
        let crc = window.crc(&whole, keep_going)?.unwrap_or_default();
        return Ok(Some(Rows { partial, count, crc }));
    }
    Ok(None)
}

/// Writes the headers of an array of rows, which are there; says whether that can be.
fn finish(
    storage: &impl Storage,
    Rows { partial, count, crc }: &Rows,
    place: &Placement,
    name: &StoredName,
) -> Result<bool, Failure> {
    let Some(npy) = partial.npy_header(*count) else { return Ok(false) };
    storage.write_at(&npy, partial.file)?;
    let mut all = Hasher::new();
    all.update(&npy);
    all.combine(&Hasher::new_with_initial_len(*crc, count * partial.row));
    // The rows must be on the disk before a header vouches for them.
    storage.sync()?;
    let head = place.local_header(name, MemberState::Finished, all.finalize());
    // Without the checkpoints, which stay: a power failure can tear this.
    let length = head.len().saturating_sub(checkpoint::room(npy.len() as u64) as usize);
    storage.write_at(&head[..length], place.header)?;
    Ok(true)
}
