//! The central directory that is being written: its bytes, and the names that are in it.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::error::{Error, Result};
use crate::index::{CentralRecord, Walk};
use crate::layout::{self, Placement, StoredName};
use crate::name;
use crate::zip::EndRecord;

/// So many lookups are answered by walking the records of an archive that is appended to; then its names are
/// indexed. One or two members more do not pay for an index of a million.
const WALKS: u32 = 2;

/// A central directory under construction.
///
/// Programs that write many members mostly do so in the order of their names. As long as that holds, a name that
/// comes after the last is new, and no table of names is needed: entering names in a table larger than the cache
/// took an eighth of the time of writing small members.
#[derive(Debug, Clone)]
pub struct DirectoryWriter {
    records: Vec<u8>,
    count: u64,
    shift: i64,
    comment: Vec<u8>,
    /// Where the record of each name starts.
    names: HashTable<u64>,
    hasher: RandomState,
    /// Records up to this byte are not in `names` yet.
    unindexed: usize,
    walks: u32,
    /// All names were added in ascending order so far, and this is the last.
    ascending: Option<Vec<u8>>,
}

impl Default for DirectoryWriter {
    /// The directory of a new archive.
    fn default() -> Self {
        DirectoryWriter {
            records: Vec::new(),
            count: 0,
            shift: 0,
            comment: Vec::new(),
            names: HashTable::new(),
            hasher: RandomState::default(),
            unindexed: 0,
            walks: 0,
            ascending: Some(Vec::new()),
        }
    }
}

impl DirectoryWriter {
    /// The directory of an archive that is appended to: its records, those of members that it does not list, what
    /// to add to their offsets to get those in the file, and the archive comment.
    ///
    /// # Errors
    /// As for [`Index::build`](crate::index::Index::build): what cannot be read is not appended to.
    pub fn resume(records: &[u8], unlisted: &[u8], shift: i64, comment: &[u8]) -> Result<Self> {
        let mut count = 0;
        for records in [records, unlisted] {
            let mut walk = Walk::new(records);
            for record in walk.by_ref() {
                record.check().map_err(|kind| Error::from(kind).in_member(&record.shown_name()))?;
                count += 1;
            }
            walk.finish()?;
        }
        // Copied only now that all of it is known to be records: a file can claim more than memory holds.
        let (records, comment) = ([records, unlisted].concat(), comment.to_vec());
        let unindexed = records.len();
        Ok(DirectoryWriter { records, count, shift, comment, unindexed, ascending: None, ..Self::default() })
    }

    /// Whether this name comes after all others.
    fn is_next(&self, name: &StoredName) -> bool {
        self.ascending.as_deref().is_some_and(|last| self.count == 0 || name.array_name() > last)
    }

    /// Whether there is a member of this name.
    pub fn contains(&mut self, name: &StoredName) -> bool {
        if self.is_next(name) {
            return false;
        }
        if self.unindexed > 0 && self.walks < WALKS {
            self.walks += 1;
            let old = &self.records[..self.unindexed];
            if Walk::new(old).any(|record| is_named(&record, name)) {
                return true;
            }
        } else if self.unindexed > 0 {
            self.index_old();
        }
        let (records, hash) = (&self.records, self.hash(name.array_name()));
        let same = |&at: &u64| record_at(records, at).is_some_and(|record| is_named(&record, name));
        self.names.find(hash, same).is_some()
    }

    fn index_old(&mut self) {
        // No larger than the records that were walked.
        let (records, hasher) = (&self.records, &self.hasher);
        let rehash = |&at: &u64| record_at(records, at).map_or(0, |record| hash_record(hasher, &record));
        self.names.reserve(self.count as usize, rehash);
        for record in Walk::new(&records[..self.unindexed]) {
            self.names.insert_unique(hash_record(hasher, &record), record.at as u64, rehash);
        }
        self.unindexed = 0;
    }

    /// Adds a member that has been written.
    pub fn push(&mut self, place: &Placement, name: &StoredName, crc: u32) {
        let (at, is_next) = (self.records.len() as u64, self.is_next(name));
        place.write_central(name, crc, self.shift, &mut self.records);
        self.count += 1;
        if is_next && let Some(last) = &mut self.ascending {
            name.array_name().clone_into(last);
            self.unindexed = self.records.len();
            return;
        }
        self.ascending = None;
        let hash = self.hash(name.array_name());
        let (records, hasher) = (&self.records, &self.hasher);
        let rehash = |&at: &u64| record_at(records, at).map_or(0, |record| hash_record(hasher, &record));
        self.names.insert_unique(hash, at, rehash);
    }

    /// The records.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    /// The records that go behind the directory if it starts at this byte of the file.
    pub fn end_records(&self, at: u64) -> Vec<u8> {
        let offset = at.saturating_add_signed(self.shift.saturating_neg());
        layout::end_records(self.count, self.records.len() as u64, offset, &self.comment)
    }

    /// The names of the arrays, in the order of their records; a name as often as it was written.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        Walk::new(&self.records).filter_map(|record| {
            let name = record.array_name().ok()??;
            Some(String::from_utf8_lossy(&name).into_owned())
        })
    }

    /// Where the end record is of a directory whose end records end at `end`.
    pub fn end_record(&self, end: u64) -> u64 {
        end - (EndRecord::SIZE + self.comment.len()) as u64
    }

    /// The number of members.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn hash(&self, array_name: &[u8]) -> u64 {
        hash(&self.hasher, array_name)
    }
}

fn hash(hasher: &RandomState, array_name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(array_name);
    state.finish()
}

fn hash_record(hasher: &RandomState, record: &CentralRecord<'_>) -> u64 {
    match record.array_name() {
        Ok(Some(name)) => hash(hasher, &name),
        _ => hash(hasher, record.name),
    }
}

fn record_at(records: &[u8], at: u64) -> Option<CentralRecord<'_>> {
    CentralRecord::read(records, at as usize).map(|(record, _)| record)
}

fn is_named(record: &CentralRecord<'_>, name: &StoredName) -> bool {
    name::is_array_name(record.name, record.header.flags.get(), name.array_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Directory, Index};
    use crate::layout::Alignment;

    fn archive(names: &[&str], writer: &mut DirectoryWriter, mut bytes: Vec<u8>) -> Vec<u8> {
        for name in names {
            let name = StoredName::new(name).unwrap();
            let place =
                Placement::new(bytes.len() as u64, &name, 0, 10, Alignment::new(64).unwrap()).unwrap();
            bytes.extend(place.local_header(&name, 0));
            bytes.extend([7; 10]);
            writer.push(&place, &name, 0);
        }
        bytes
    }

    fn finish(mut bytes: Vec<u8>, writer: &DirectoryWriter) -> Vec<u8> {
        let at = bytes.len() as u64;
        bytes.extend(writer.records());
        bytes.extend(writer.end_records(at));
        bytes
    }

    #[test]
    fn what_was_written_is_indexed_also_behind_other_bytes() {
        for junk in [0, 1000] {
            let shift = i64::try_from(junk).unwrap();
            let mut writer = DirectoryWriter { shift, ..DirectoryWriter::default() };
            let bytes = archive(&["a", "b/ü", ""], &mut writer, vec![0; junk]);
            let bytes = finish(bytes, &writer);
            let directory = Directory::locate(&bytes).unwrap();
            assert_eq!(directory.shift, shift);
            let index = Index::build(&bytes, directory, || true).unwrap();
            let names = index.ids().map(|id| index.name(&bytes, id).unwrap());
            assert_eq!(names.collect::<Vec<_>>(), ["a", "b/ü", ""]);
            for id in index.ids() {
                let name = index.name(&bytes, id).unwrap();
                let member = index.member(&bytes, id, &name).unwrap();
                assert_eq!((member.start % 64, member.end - member.start), (0, 10));
            }
        }
    }

    #[test]
    fn names_are_known_in_whatever_order_they_came() {
        let orders: [&[&str]; 6] = [
            &["", "a", "b", "c", "d", "e"],
            &["a", "b", "c", "b1", "d", "e"],
            &["e", "d", "c", "b", "a"],
            &["b", "a", "c"],
            &["a", "", "b", "ü", "z", "zz"],
            &["a", "b", "b", "c", "a"],
        ];
        for names in orders {
            let mut writer = DirectoryWriter::default();
            for (count, name) in names.iter().enumerate() {
                for other in ["", "a", "b", "b1", "c", "d", "e", "ü", "z", "zz", "y"] {
                    let known = names[..count].contains(&other);
                    assert_eq!(writer.contains(&StoredName::new(other).unwrap()), known, "{names:?} {other}");
                }
                // Without lookups in between, too.
                let mut unasked = DirectoryWriter::default();
                archive(&names[..=count], &mut unasked, vec![]);
                assert!(unasked.contains(&StoredName::new(name).unwrap()), "{names:?} {name}");
                assert!(!unasked.contains(&StoredName::new("y").unwrap()));
                archive(&[name], &mut writer, vec![]);
            }
        }
    }

    #[test]
    fn names_are_known_before_and_after_the_old_ones_are_indexed() {
        let mut writer = DirectoryWriter::default();
        archive(&["a", "ü", "a"], &mut writer, vec![]);
        let mut resumed = DirectoryWriter::resume(&writer.records, &[], 0, &[]).unwrap();
        assert_eq!(resumed.count(), 3);
        archive(&["new"], &mut resumed, vec![]);
        for _ in 0..4 {
            for (name, known) in [("a", true), ("ü", true), ("new", true), ("n", false), ("", false)] {
                assert_eq!(resumed.contains(&StoredName::new(name).unwrap()), known, "{name}");
            }
        }
        assert_eq!(resumed.unindexed, 0);
        assert!(DirectoryWriter::resume(&[0; 50], &[], 0, &[]).is_err());
    }
}
