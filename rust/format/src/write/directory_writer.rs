//! The central directory that is being written: its bytes, and the names that are in it.

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::additions::array_field::ArrayField;
use crate::additions::seal::Seal;
use crate::additions::seal::SealedIndex;
use crate::additions::stored_index::{self, StoredIndexBuilder};
use crate::bytes::copied;
use crate::error::{Error, Missing, Result};
use crate::window::Window;
use crate::write::placement::Placement;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::encode;
use crate::zip::end::DirectoryLocation;
use crate::zip::name::{self, StoredName};
use crate::zip::records::{EndRecord, Extent};

/// This many lookups are answered by walking the records of an archive that is appended to; then its names
/// are indexed. One or two members more do not pay for an index of a million.
const WALKS: u32 = 2;

/// Room for the first records that are added to those of an archive that is appended to.
const ROOM: usize = 1 << 12;

/// A central directory under construction.
///
/// Programs that write many members mostly do so in the order of their names. As long as that holds, a name
/// that comes after the last is new, and no table of names is needed: entering names in a table larger than
/// the cache took an eighth of the time of writing small members.
#[derive(Debug, Clone)]
pub struct DirectoryWriter {
    /// How many bytes of records come first, which are not here: those of a directory that is added to where
    /// it is.
    first: usize,
    /// The others. Shared with whoever is writing them to the file; copied if a member is added meanwhile.
    records: Arc<Vec<u8>>,
    count: u64,
    prefix_len: i64,
    comment: Vec<u8>,
    /// Where the record of each name starts in the directory.
    names: HashTable<u64>,
    hasher: RandomState,
    /// How many bytes of `records` are not in `names` yet.
    unindexed: usize,
    walks: u32,
    /// All names were added in ascending order so far, and this is the last.
    ascending: Option<Vec<u8>>,
    /// What the stored index is made of.
    stored: StoredIndexBuilder,
    /// From which byte on the `.npy` headers in the records can be believed.
    fields_from: u64,
    /// Of `records`, those from this byte on are of members that were pushed.
    pushed: usize,
    /// Where the local header of the last of them is, and whether they lie in the file in this order.
    last: u64,
    in_order: bool,
}

/// The directory of an archive that is appended to.
#[derive(Debug, Clone, Copy)]
pub struct OldDirectory<'a> {
    /// Its records.
    pub records: &'a [u8],
    /// The archive comment.
    pub comment: &'a [u8],
    /// What to add to its offsets to get those in the file.
    pub prefix_len: i64,
    /// How many records there are, and from which byte on the `.npy` headers in them can be believed, if they
    /// are known to be as we wrote them.
    pub sound: Option<(u64, u64)>,
    /// Its stored index, if there is one that is known to be sound.
    pub index: Option<SealedIndex<'a>>,
    /// It was found out before that there can be none.
    pub has_none: bool,
}

impl<'a> OldDirectory<'a> {
    /// That of a file, with its seal if it is what that says.
    pub(crate) fn of(
        window: Window<'a>,
        directory: Option<&DirectoryLocation>,
        sound: Option<&Seal>,
    ) -> Result<Self, Missing> {
        let none = DirectoryLocation::none();
        let directory = directory.unwrap_or(&none);
        let part = |range: &Range<u64>| Ok(window.get(range.clone())?.unwrap_or_default());
        let index = match sound {
            Some(seal) if seal.has_index(window)? => seal.index(window)?,
            _ => None,
        };
        Ok(OldDirectory {
            records: part(&directory.range)?,
            comment: part(&directory.comment)?,
            prefix_len: directory.prefix_len,
            sound: sound.map(|seal| (seal.members(), seal.fields_from())),
            index,
            has_none: sound.is_some_and(|seal| seal.is_last() && seal.index_range().is_none()),
        })
    }
}

impl Default for DirectoryWriter {
    /// The directory of a new archive.
    fn default() -> Self {
        DirectoryWriter {
            first: 0,
            records: Arc::default(),
            count: 0,
            prefix_len: 0,
            comment: Vec::new(),
            names: HashTable::new(),
            hasher: RandomState::default(),
            unindexed: 0,
            walks: 0,
            ascending: Some(Vec::new()),
            stored: StoredIndexBuilder::new(),
            fields_from: 0,
            pushed: 0,
            last: 0,
            in_order: true,
        }
    }
}

impl DirectoryWriter {
    /// Goes on behind the directory of an archive; `unlisted` are the records of members that it does not
    /// list.
    ///
    /// # Errors
    /// As for [`WalkedIndex::build`](crate::read::walked_index::WalkedIndex::build): what cannot be read is
    /// not appended to; and [`ErrorKind::NoMemory`](crate::ErrorKind::NoMemory).
    pub fn resume(old: &OldDirectory<'_>, unlisted: &[u8]) -> Result<Self> {
        // What another program has changed may lie elsewhere than its record says.
        let (mut count, fields_from) = old.sound.unwrap_or((0, old.records.len() as u64));
        let mut stored = StoredIndexBuilder::resume(old.records.len(), old.index)?;
        if old.has_none {
            stored.forgo();
        }
        let unread = if old.sound.is_some() { &[][..] } else { old.records };
        for records in [unread, unlisted] {
            let mut walk = Walk::new(records);
            for record in walk.by_ref() {
                record.check().map_err(|kind| Error::from(kind).in_member(&record.shown_name()))?;
                if !stored_index::can_list(&record) {
                    stored.forgo();
                }
                count += 1;
            }
            walk.finish()?;
        }
        // Copied only now that all of it is known to be records: a file can claim more than memory holds.
        let mut all = copied(old.records, unlisted.len() + ROOM)?;
        all.extend_from_slice(unlisted);
        for record in Walk::new(&all[old.records.len()..]) {
            stored.push_record(&record, old.records.len());
        }
        let unindexed = all.len();
        Ok(DirectoryWriter {
            records: Arc::new(all),
            count,
            prefix_len: old.prefix_len,
            comment: old.comment.to_vec(),
            unindexed,
            ascending: None,
            stored,
            fields_from,
            pushed: unindexed,
            ..Self::default()
        })
    }

    /// Goes on behind a directory of `members` members, whose records have `records` bytes, and whose header
    /// fields can be believed from byte `fields_from` on. Nothing of it is here, unless
    /// [`DirectoryWriter::put_behind`] gets it.
    pub(crate) fn behind(
        records: usize,
        members: u64,
        fields_from: u64,
        prefix_len: i64,
        comment: &[u8],
    ) -> Self {
        DirectoryWriter {
            first: records,
            count: members,
            prefix_len,
            comment: comment.to_vec(),
            ascending: None,
            fields_from,
            ..Self::default()
        }
    }

    /// Puts what was added behind the directory behind which it belongs; `unlisted` are the records of
    /// members that that one does not list.
    ///
    /// # Errors
    /// As for [`DirectoryWriter::resume`].
    pub(crate) fn put_behind(&mut self, old: &OldDirectory<'_>, unlisted: &[u8]) -> Result<()> {
        let mut all = Self::resume(old, unlisted)?;
        let count = all.count + Walk::new(&self.records).count() as u64;
        Arc::make_mut(&mut all.records).extend_from_slice(&self.records);
        let added = std::mem::take(self);
        *self = DirectoryWriter {
            count,
            names: added.names,
            hasher: added.hasher,
            unindexed: all.unindexed + added.unindexed,
            stored: added.stored.behind(all.stored),
            last: added.last,
            in_order: added.in_order,
            ..all
        };
        Ok(())
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
        let (records, first, hash) = (&self.records, self.first, self.hash(name.array_name()));
        let same = |&at: &u64| record_at(records, first, at).is_some_and(|record| is_named(&record, name));
        self.names.find(hash, same).is_some()
    }

    fn index_old(&mut self) {
        // No larger than the records that were walked.
        let (records, first, hasher) = (&self.records, self.first, &self.hasher);
        let rehash =
            |&at: &u64| record_at(records, first, at).map_or(0, |record| hash_record(hasher, &record));
        self.names.reserve(self.count as usize, rehash);
        for record in Walk::new(&records[..self.unindexed]) {
            let at = (first + record.at) as u64;
            self.names.insert_unique(hash_record(hasher, &record), at, rehash);
        }
        self.unindexed = 0;
    }

    /// Adds a member that has been written, with what is known of its array.
    pub fn push(&mut self, place: &Placement, name: &StoredName, crc: u32, array_field: Option<&ArrayField>) {
        let (at, is_next) = (self.size() as u64, self.is_next(name));
        place.write_central(name, crc, self.prefix_len, array_field, Arc::make_mut(&mut self.records));
        self.stored.push(name.array_name(), at);
        self.in_order &= self.last <= place.header;
        self.last = place.header;
        self.count += 1;
        if is_next && let Some(last) = &mut self.ascending {
            name.array_name().clone_into(last);
            self.unindexed = self.records.len();
            return;
        }
        self.ascending = None;
        let hash = self.hash(name.array_name());
        let (records, first, hasher) = (&self.records, self.first, &self.hasher);
        let rehash =
            |&at: &u64| record_at(records, first, at).map_or(0, |record| hash_record(hasher, &record));
        self.names.insert_unique(hash, at, rehash);
    }

    /// The records, without those of a directory that is added to where it is.
    pub fn records(&self) -> &Arc<Vec<u8>> {
        &self.records
    }

    /// How many bytes of records there are, those included.
    fn size(&self) -> usize {
        self.first + self.records.len()
    }

    /// The hashes of the names of the members that were pushed, and the places of their records; none if
    /// there can be no index.
    pub(crate) fn added(&self) -> Option<&[(u64, u64)]> {
        self.stored.added()
    }

    /// Puts the records of the members that were pushed in the order in which these lie in the file, which is
    /// the order in which they are found without a directory.
    pub fn sort(&mut self) {
        if self.in_order {
            return;
        }
        let prefix_len = self.prefix_len;
        let place = |record: &CentralRecord<'_>| {
            let offset = Extent::read(record.header, record.extra).map_or(0, |extent| extent.local_offset);
            (offset.saturating_add_signed(prefix_len), record.at)
        };
        let (old, new) = self.records.split_at(self.pushed);
        let mut order: Vec<_> = Walk::new(new).map(|record| place(&record)).collect();
        order.sort_unstable();
        let mut sorted = Vec::with_capacity(self.records.len() + ROOM);
        sorted.extend_from_slice(old);
        let moved = order.into_iter().filter_map(|(_, at)| {
            let (_, end) = CentralRecord::read(new, at)?;
            let to = (self.first + sorted.len()) as u64;
            sorted.extend_from_slice(&new[at..end]);
            Some(((self.first + old.len() + at) as u64, to))
        });
        self.stored.rearrange(&moved.collect::<Vec<_>>());
        self.records = Arc::new(sorted);
        self.in_order = true;
        // The records of known names are elsewhere now.
        self.names.clear();
        self.unindexed = self.records.len();
        self.walks = 0;
    }

    /// From which byte on the `.npy` headers in the records can be believed.
    pub(crate) fn fields_from(&self) -> u64 {
        self.fields_from
    }

    /// There will be no stored index.
    pub(crate) fn forgo_index(&mut self) {
        self.stored.forgo();
    }

    /// How large the stored index is.
    pub(crate) fn index_size(&self) -> u64 {
        self.stored.size(self.count)
    }

    /// What the stored index is made of. If members are added later, the next one is made of their records.
    pub(crate) fn take_stored(&mut self) -> StoredIndexBuilder {
        let next = StoredIndexBuilder::of_records(self.size());
        std::mem::replace(&mut self.stored, next)
    }

    /// The records that go behind the directory if it starts at this byte of the file.
    pub fn end_records(&self, at: u64) -> Vec<u8> {
        let offset = at.saturating_add_signed(self.prefix_len.saturating_neg());
        encode::end_records(self.count, self.size() as u64, offset, &self.comment)
    }

    /// The names of the arrays of [`DirectoryWriter::records`], in that order; a name as often as it was
    /// written.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        Walk::new(&self.records).filter_map(|record| record.name_of_array())
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

/// The record at this byte of a directory, of which `records` lacks the first ones.
fn record_at(records: &[u8], first: usize, at: u64) -> Option<CentralRecord<'_>> {
    CentralRecord::read(records, (at as usize).checked_sub(first)?).map(|(record, _)| record)
}

fn is_named(record: &CentralRecord<'_>, name: &StoredName) -> bool {
    name::is_array_name(record.name, record.header.flags.get(), name.array_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::additions::mark::MemberState;
    use crate::read::walked_index::WalkedIndex;
    use crate::write::placement::Alignment;
    use crate::zip::end::DirectoryLocation;

    fn archive(names: &[&str], writer: &mut DirectoryWriter, mut bytes: Vec<u8>) -> Vec<u8> {
        for name in names {
            let name = StoredName::new(name).unwrap();
            let (at, align) = (bytes.len() as u64, Alignment::new(64).unwrap());
            let place = Placement::new(at, &name, 0, 10, align, at).unwrap();
            bytes.extend(place.local_header(&name, MemberState::Finished, 0));
            bytes.extend([7; 10]);
            writer.push(&place, &name, 0, None);
        }
        bytes
    }

    fn old(records: &[u8]) -> OldDirectory<'_> {
        OldDirectory { records, comment: &[], prefix_len: 0, sound: None, index: None, has_none: false }
    }

    fn finish(mut bytes: Vec<u8>, writer: &DirectoryWriter) -> Vec<u8> {
        let at = bytes.len() as u64;
        bytes.extend(&**writer.records());
        bytes.extend(writer.end_records(at));
        bytes
    }

    #[test]
    fn what_was_written_is_indexed_also_behind_other_bytes() {
        for junk in [0, 1000] {
            let prefix_len = i64::try_from(junk).unwrap();
            let mut writer = DirectoryWriter { prefix_len, ..DirectoryWriter::default() };
            let bytes = archive(&["a", "b/ü", ""], &mut writer, vec![0; junk]);
            let bytes = finish(bytes, &writer);
            let directory = DirectoryLocation::locate((&bytes).into()).unwrap();
            assert_eq!(directory.prefix_len, prefix_len);
            let index = WalkedIndex::build((&bytes).into(), directory, || true).unwrap();
            let names = index.ids().map(|id| index.name((&bytes).into(), id).unwrap());
            assert_eq!(names.collect::<Vec<_>>(), ["a", "b/ü", ""]);
            for id in index.ids() {
                let name = index.name((&bytes).into(), id).unwrap();
                let member = index.member((&bytes).into(), id, &name).unwrap();
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
        let mut resumed = DirectoryWriter::resume(&old(&writer.records), &[]).unwrap();
        assert_eq!(resumed.count(), 3);
        archive(&["new"], &mut resumed, vec![]);
        for _ in 0..4 {
            for (name, known) in [("a", true), ("ü", true), ("new", true), ("n", false), ("", false)] {
                assert_eq!(resumed.contains(&StoredName::new(name).unwrap()), known, "{name}");
            }
        }
        assert_eq!(resumed.unindexed, 0);
        assert!(DirectoryWriter::resume(&old(&[0; 50]), &[]).is_err());
    }
}
