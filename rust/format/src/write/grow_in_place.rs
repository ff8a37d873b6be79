//! Adding members to a directory where it is.
//!
//! Where there is room for them in front of a directory of mmnpz, nothing that is in the file has to move:
//! the members go into the room, their records behind those of the directory, and some slots of the index
//! change. That takes as long for a million members as for ten, and reads nothing of what they are, so what
//! is there is not checked either: what the seal says afterwards is as true as it was before (see
//! `Seal::grown`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::additions::fence;
use crate::additions::seal::{Added, Seal};
use crate::additions::stored_index::{self, Hit, StoredIndex};
use crate::error::{Error, Missing, Result};
use crate::recover::recovery_scan::Effort;
use crate::recover::survey::Survey;
use crate::window::Window;
use crate::write::directory_writer::{DirectoryWriter, OldDirectory};
use crate::write::patch::Patch;
use crate::write::remark;
use crate::zip::central::Walk;
use crate::zip::end::DirectoryLocation;
use crate::zip::name::{self, StoredName};
use crate::zip::records::EndRecord;

/// The bytes of a file, for as long as they are needed.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A directory to which members are added.
#[derive(Clone)]
pub(crate) struct Growing {
    /// The file as it was opened, up to its end record.
    file: SharedBytes,
    directory: DirectoryLocation,
    seal: Seal,
    /// It was found to be what its seal says.
    was_sound: bool,
}

impl fmt::Debug for Growing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Growing").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// How it grows.
#[derive(Debug, Clone)]
pub(crate) struct Growth {
    /// The seal of the whole.
    pub(crate) seal: Seal,
    /// What is written where in the file, apart from that and what is behind the old records.
    pub(crate) changes: Vec<Patch>,
}

impl Growing {
    pub(crate) fn new(file: &SharedBytes, directory: &DirectoryLocation, seal: Seal) -> Self {
        Growing { file: Arc::clone(file), directory: directory.clone(), seal, was_sound: false }
    }

    fn window(&self) -> Window<'_> {
        (*self.file).as_ref().into()
    }

    fn table(&self) -> Option<StoredIndex<'_>> {
        StoredIndex::of(&self.seal, self.window())
    }

    /// Where its end record is.
    pub(crate) fn end_record(&self) -> u64 {
        self.directory.comment.start - EndRecord::SIZE as u64
    }

    /// Where the index in front of it starts, behind the room.
    pub(crate) fn index(&self) -> u64 {
        self.seal.start()
    }

    /// Where its records start.
    pub(crate) fn records(&self) -> u64 {
        self.directory.range.start
    }

    /// Whether its index begins with a fence.
    pub(crate) fn is_fenced(&self) -> bool {
        self.seal.is_fenced()
    }

    /// In front of which byte fences must be written, if members were written up to `reached`: in a room that
    /// was too long for fences, all may be missing.
    pub(crate) fn fenced(&self, reached: u64) -> u64 {
        let room = self.seal.start().saturating_sub(self.seal.members_end());
        if room > fence::MOST_FENCED { u64::MAX } else { reached }
    }

    /// Its seal as it says that it grows.
    pub(crate) fn growing(&self) -> Seal {
        self.seal.growing()
    }

    /// The seal of a directory that does not grow any more.
    pub(crate) fn reopened(&self) -> Seal {
        self.seal.reopened()
    }

    /// Where further records go.
    pub(crate) fn end_of_records(&self) -> u64 {
        self.directory.range.end
    }

    /// Whether it has a member of this name, by its index.
    pub(crate) fn contains(&self, name: &StoredName) -> Result<bool, Missing> {
        let Some(table) = self.table() else { return Ok(false) };
        let is_it = |hit: Hit| {
            let Ok(at) = usize::try_from(hit.place) else { return Ok(false) };
            let record = self.directory.record(self.window(), at)?;
            Ok(record.is_some_and(|(record, _)| {
                name::is_array_name(record.name, record.header.flags.get(), name.array_name())
            }))
        };
        Ok(table.find(stored_index::hash(name.array_name()), is_it)?.is_some())
    }

    /// Whether directory and index are what their seal says.
    pub(crate) fn is_sound(&mut self) -> Result<bool, Missing> {
        let window = self.window();
        self.was_sound = self.was_sound || (self.seal.holds(window)? && self.seal.has_index(window)?);
        Ok(self.was_sound)
    }

    /// The names of its arrays.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut walk = Walk::new(self.directory.records(self.window())?);
        let names = walk.by_ref().filter_map(|record| record.name_of_array()).collect();
        let Err(error) = walk.finish() else { return Ok(names) };
        let (old, found) = self.recovered(error)?;
        let records = Walk::new(old.records).chain(Walk::new(&found));
        Ok(records.filter_map(|record| record.name_of_array()).collect())
    }

    /// The marks of its members that another program made wrong, see [`remark`].
    pub(crate) fn remarks(&self) -> Result<Vec<Patch>, Missing> {
        remark::remarks(self.window(), &self.directory)
    }

    /// The state of a writer that only has what comes behind it.
    pub(crate) fn writer(&self) -> Result<DirectoryWriter, Missing> {
        let comment = self.window().get(self.directory.comment.clone())?.unwrap_or_default();
        let range = &self.directory.range;
        Ok(DirectoryWriter::behind(
            // No more than the length of the file.
            (range.end - range.start) as usize,
            self.seal.members(),
            self.seal.fields_from(),
            self.directory.prefix_len,
            comment,
        ))
    }

    /// The directory itself, to be written elsewhere.
    pub(crate) fn old(&self) -> Result<OldDirectory<'_>, Missing> {
        let holds = self.seal.holds(self.window())?.then_some(&self.seal);
        OldDirectory::of(self.window(), Some(&self.directory), holds)
    }

    /// What takes the place of a directory that cannot be read to its end, with the error that tells why:
    /// another one that is whole, and the records of the members that it does not list.
    pub(crate) fn recovered(&self, error: Error) -> Result<(OldDirectory<'_>, Vec<u8>)> {
        let window = self.window();
        let mut survey = Survey::without_directory(window, error, Effort::Append, || true)?;
        // Those behind were written since.
        survey.found.retain(|member| member.header < self.seal.members_end());
        let records = survey.found_records(window)?;
        Ok((OldDirectory::of(window, survey.location(), None)?, records))
    }

    /// The directory with what was added, if it can have that where it is.
    pub(crate) fn grow(
        &self,
        added: &DirectoryWriter,
        end_records: &[u8],
        complete_below: u64,
        members_end: u64,
    ) -> Result<Option<Growth>, Missing> {
        let (Some(index), Some(table), Some(members)) =
            (self.seal.index(self.window())?, self.table(), added.added())
        else {
            return Ok(None);
        };
        let Some(changes) = table.additions(members)? else { return Ok(None) };
        let added = Added {
            complete_below,
            members_end,
            records: added.records(),
            members: added.count(),
            index: &changes,
            end_records,
        };
        let seal = self.seal.grown(&added, index.bytes);
        Ok(Some(Growth { seal, changes: in_file(changes, self.seal.start()) }))
    }
}

/// Changes by their places in the file, where the index starts at `start`.
fn in_file(changes: BTreeMap<usize, Vec<u8>>, start: u64) -> Vec<Patch> {
    changes.into_iter().map(|(at, bytes)| Patch::new(start + at as u64, bytes)).collect()
}
