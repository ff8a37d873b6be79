//! Adding members to a directory where it is.
//!
//! Where there is room for them in front of a directory of ours, nothing that is in the file has to move: the
//! members go into the room, their records behind those of the directory, and some slots of the index change.
//! That takes as long for a million members as for ten, and reads nothing of what they are, so what is there
//! is not checked either: what the seal says afterwards is as true as it was before (see `Seal::grown`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::additions::fence;
use crate::additions::seal::{Added, Seal};
use crate::additions::stored_index::{self, StoredIndex};
use crate::bytes::slice;
use crate::error::{Error, Result};
use crate::recover::recovery_scan::Effort;
use crate::recover::survey::Survey;
use crate::write::directory_writer::{DirectoryWriter, OldDirectory};
use crate::zip::central::{CentralRecord, Walk};
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
    pub(crate) changes: Vec<(u64, Vec<u8>)>,
}

impl Growing {
    pub(crate) fn new(file: &SharedBytes, directory: &DirectoryLocation, seal: Seal) -> Self {
        Growing { file: Arc::clone(file), directory: directory.clone(), seal, was_sound: false }
    }

    fn bytes(&self) -> &[u8] {
        (*self.file).as_ref()
    }

    fn table(&self) -> Option<StoredIndex<'_>> {
        StoredIndex::new(self.seal.index(self.bytes())?)
    }

    fn records(&self) -> &[u8] {
        slice(self.bytes(), &self.directory.range).unwrap_or_default()
    }

    /// Where its end record is.
    pub(crate) fn end_record(&self) -> u64 {
        self.directory.comment.start - EndRecord::SIZE as u64
    }

    /// Where what vouches for it starts, and where it starts itself.
    pub(crate) fn places(&self) -> (u64, u64) {
        (self.seal.start(), self.directory.range.start)
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
    pub(crate) fn contains(&self, name: &StoredName) -> bool {
        let records = self.records();
        let is_it = |_, place| {
            let record = usize::try_from(place).ok().and_then(|at| CentralRecord::read(records, at));
            record.is_some_and(|(record, _)| {
                name::is_array_name(record.name, record.header.flags.get(), name.array_name())
            })
        };
        self.table().is_some_and(|table| table.find(stored_index::hash(name.array_name()), is_it).is_some())
    }

    /// Whether directory and index are what their seal says.
    pub(crate) fn is_sound(&mut self) -> bool {
        let bytes = self.bytes();
        self.was_sound = self.was_sound || (self.seal.holds(bytes) && self.seal.has_index(bytes));
        self.was_sound
    }

    /// The names of its arrays.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut walk = Walk::new(self.records());
        let names = walk.by_ref().filter_map(|record| record.name_of_array()).collect();
        let Err(error) = walk.finish() else { return Ok(names) };
        let (old, found) = self.recovered(error)?;
        let records = Walk::new(old.records).chain(Walk::new(&found));
        Ok(records.filter_map(|record| record.name_of_array()).collect())
    }

    /// The state of a writer that only has what comes behind it.
    pub(crate) fn writer(&self) -> DirectoryWriter {
        let comment = slice(self.bytes(), &self.directory.comment).unwrap_or_default();
        let (members, fields_from) = (self.seal.members(), self.seal.fields_from());
        DirectoryWriter::behind(
            self.records().len(),
            members,
            fields_from,
            self.directory.prefix_len,
            comment,
        )
    }

    /// The directory itself, to be written elsewhere.
    pub(crate) fn old(&self) -> OldDirectory<'_> {
        let holds = self.seal.holds(self.bytes()).then_some(&self.seal);
        OldDirectory::of(self.bytes(), Some(&self.directory), holds)
    }

    /// What takes the place of a directory that cannot be read to its end, with the error that tells why:
    /// another one that is whole, and the records of the members that it does not list.
    pub(crate) fn recovered(&self, error: Error) -> Result<(OldDirectory<'_>, Vec<u8>)> {
        let bytes = self.bytes();
        let mut survey = Survey::without_directory(bytes, error, Effort::Append, || true)?;
        // Those behind were written since.
        survey.found.retain(|member| member.header < self.seal.members_end());
        let records = survey.found_records(bytes);
        Ok((OldDirectory::of(bytes, survey.directory.as_ref(), None), records))
    }

    /// The directory with what was added, if it can have that where it is.
    pub(crate) fn grow(
        &self,
        added: &DirectoryWriter,
        end_records: &[u8],
        (complete_below, members_end): (u64, u64),
    ) -> Option<Growth> {
        let index = self.seal.index(self.bytes())?.bytes;
        let changes = self.table()?.additions(added.added()?)?;
        let added = Added {
            complete_below,
            members_end,
            records: added.records(),
            members: added.count(),
            index: &changes,
            end_records,
        };
        Some(Growth { seal: self.seal.grown(&added, index), changes: in_file(changes, self.seal.start()) })
    }
}

/// Changes by their places in the file, where the index starts at `start`.
fn in_file(changes: BTreeMap<usize, Vec<u8>>, start: u64) -> Vec<(u64, Vec<u8>)> {
    changes.into_iter().map(|(at, bytes)| (start + at as u64, bytes)).collect()
}
