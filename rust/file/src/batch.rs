//! Small members that are written together: one reservation and one system call for many of them.

use std::hash::BuildHasher;
use std::ops::Range;
use std::thread::ThreadId;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use mmnpz_format::additions::array_field::ArrayField;
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::write::placement::Placement;
use mmnpz_format::zip::name::StoredName;

use crate::items::Items;

/// A batch is written once its members have this many bytes.
const FULL: usize = 1 << 21;

/// The members are synced together that have this many bytes, or are this many, and those that follow are
/// synced later: what a kill can lose of them has a bound, and so has the memory that they take.
const MOST_BYTES: u64 = 1 << 28;
const MOST_MEMBERS: usize = 1 << 17;

/// A member of a batch.
#[derive(Debug)]
struct Small {
    name: StoredName,
    /// Its `.npy` file, in the bytes of the batch.
    file: Range<usize>,
    /// The length of its `.npy` header.
    npy_header: u64,
    crc: u32,
    /// The number of its array field.
    field: usize,
}

/// A member that is in the file.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) place: Placement,
    pub(crate) name: StoredName,
    pub(crate) crc: u32,
    field: usize,
}

/// Members that are collected to be written together, and what was written of those before.
#[derive(Debug, Default)]
pub struct Batch {
    /// The `.npy` files, one behind the other.
    files: Vec<u8>,
    members: Vec<Small>,
    /// The array fields of members, each for all that follow one another with the same.
    fields: Vec<Option<ArrayField>>,
    /// The numbers of members by their names. It is filled only once a name does not come after all before.
    names: HashTable<usize>,
    hasher: RandomState,
    is_indexed: bool,
    /// How many members were looked up in the directory.
    pub(crate) checked: usize,
    /// The next one has a name that the directory has.
    pub(crate) is_repeated: bool,
    pub(crate) places: Vec<Placement>,
    /// The thread that reserved their places.
    pub(crate) thread: Option<ThreadId>,
    /// What goes to the file.
    bytes: Vec<u8>,
    /// The members that are in the file, but not on the disk, in groups that were written together.
    pub(crate) unsynced: Vec<Vec<Written>>,
    unsynced_bytes: u64,
    unsynced_members: usize,
    /// To what the arrays are aligned, which may take as many bytes for each member.
    align: usize,
    /// How many bytes the members have at most, with their names and padding.
    size: usize,
}

impl Batch {
    /// An empty one, for a writer that aligns arrays to `align` bytes.
    pub fn new(align: usize) -> Self {
        Batch { align, ..Self::default() }
    }

    /// How many members wait to be written.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether it is time to write.
    pub fn is_full(&self) -> bool {
        self.size >= FULL
    }

    /// Whether it is time to sync what was written.
    pub fn must_sync(&self) -> bool {
        self.unsynced_bytes >= MOST_BYTES || self.unsynced_members >= MOST_MEMBERS
    }

    /// Whether nothing of it waits for the disk.
    pub fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// The next name to look up in the directory; where that has it already, this one.
    pub fn unchecked(&self) -> Option<&StoredName> {
        self.members.get(self.checked).map(|member| &member.name)
    }

    /// How many members are in front of that one.
    pub fn checked(&self) -> usize {
        self.checked
    }

    /// Keeps only the first members.
    pub fn keep_first(&mut self, count: usize) {
        self.members.truncate(count);
        self.is_repeated = false;
    }

    /// Whether a member of this name waits to be written.
    pub fn has(&self, name: &StoredName) -> bool {
        if self.comes_last(name) {
            return false;
        }
        let same = |&number: &usize| self.members[number].name == *name;
        if !self.is_indexed {
            return self
                .members
                .binary_search_by(|member| member.name.array_name().cmp(name.array_name()))
                .is_ok();
        }
        self.names.find(self.hasher.hash_one(name.bytes()), same).is_some()
    }

    fn comes_last(&self, name: &StoredName) -> bool {
        !self.is_indexed && self.members.last().is_none_or(|last| last.name.array_name() < name.array_name())
    }

    /// Adds a member, whose bytes are copied. There must be none of its name.
    pub fn push(
        &mut self,
        name: StoredName,
        header: &[u8],
        array_field: Option<&ArrayField>,
        mut items: Items<'_>,
    ) {
        let start = self.files.len();
        self.files.extend_from_slice(header);
        items.read(items.len() as usize, &mut self.files);
        let crc = crc32fast::hash(&self.files[start..]);
        if self.fields.last().is_none_or(|last| last.as_ref() != array_field) {
            self.fields.push(array_field.cloned());
        }
        if !self.comes_last(&name) {
            let from = if self.is_indexed { self.members.len() } else { 0 };
            self.is_indexed = true;
            for number in from..self.members.len() {
                self.enter(number);
            }
        }
        self.size += self.files.len() - start + name.bytes().len() + self.align;
        let (file, npy_header) = (start..self.files.len(), header.len() as u64);
        self.members.push(Small { name, file, npy_header, crc, field: self.fields.len() - 1 });
        if self.is_indexed {
            self.enter(self.members.len() - 1);
        }
    }

    fn enter(&mut self, number: usize) {
        let (members, hasher) = (&self.members, &self.hasher);
        let hash = |number: &usize| hasher.hash_one(members[*number].name.bytes());
        self.names.insert_unique(hash(&number), number, hash);
    }

    /// The names of the members, with the lengths of their `.npy` headers and files.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&StoredName, u64, u64)> {
        self.members.iter().map(|member| (&member.name, member.npy_header, member.file.len() as u64))
    }

    /// Lays out the bytes from the start of the first member to the end of the last one.
    pub(crate) fn lay_out(&mut self, state: MemberState) {
        self.bytes.clear();
        for (member, place) in self.members.iter().zip(&self.places) {
            let start = self.bytes.len();
            self.bytes.resize(start + (place.file - place.header) as usize, 0);
            place.write_local(&member.name, state, member.crc, &mut self.bytes[start..]);
            self.bytes.extend_from_slice(&self.files[member.file.clone()]);
        }
    }

    /// What was laid out.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The names of the members.
    pub fn names(&self) -> impl Iterator<Item = &StoredName> {
        self.members.iter().map(|member| &member.name)
    }

    /// The bytes of each member, as they were laid out.
    pub(crate) fn laid_out(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let start = self.range().start;
        let part = move |place: &Placement| (place.header - start) as usize..(place.end - start) as usize;
        self.places.iter().map(move |place| (place.header, self.bytes.get(part(place)).unwrap_or_default()))
    }

    /// The range of all members in the file.
    pub(crate) fn range(&self) -> Range<u64> {
        let (first, last) = (self.places.first(), self.places.last());
        first.map_or(0, |place| place.header)..last.map_or(0, |place| place.end)
    }

    /// Takes the members out, of which the first ones are written.
    pub(crate) fn take(&mut self, count: usize) -> Vec<Written> {
        let all = self.members.drain(..).zip(self.places.drain(..)).take(count);
        let all = all.map(|(Small { name, crc, field, .. }, place)| Written { place, name, crc, field });
        let all = all.collect();
        self.clear();
        all
    }

    /// Takes the members out, which cannot be written.
    pub fn clear(&mut self) {
        self.members.clear();
        self.places.clear();
        self.files.clear();
        self.size = 0;
        self.names.clear();
        self.is_indexed = false;
        (self.checked, self.is_repeated) = (0, false);
    }

    /// Takes over what waits for the disk from a batch that was written.
    pub fn take_over(&mut self, other: &mut Batch) {
        for member in &mut self.members {
            member.field += other.fields.len();
        }
        self.fields.splice(0..0, other.fields.drain(..));
        self.unsynced.splice(0..0, other.unsynced.drain(..));
        self.unsynced_bytes += std::mem::take(&mut other.unsynced_bytes);
        self.unsynced_members += std::mem::take(&mut other.unsynced_members);
        self.thread = other.thread;
    }

    /// Forgets what was known of arrays, but for the last one: the next may be like it.
    pub(crate) fn forget_fields(&mut self) {
        if self.members.is_empty() && self.unsynced.is_empty() {
            self.fields.drain(..self.fields.len().saturating_sub(1));
        }
    }

    /// Keeps members until they are synced.
    pub(crate) fn keep(&mut self, written: Vec<Written>) {
        self.unsynced_bytes +=
            written.iter().map(|member| member.place.end - member.place.header).sum::<u64>();
        self.unsynced_members += written.len();
        self.unsynced.push(written);
    }

    /// Takes out what was to be synced.
    pub(crate) fn take_unsynced(&mut self) -> Vec<Vec<Written>> {
        (self.unsynced_bytes, self.unsynced_members) = (0, 0);
        std::mem::take(&mut self.unsynced)
    }

    /// What is known of a member's array.
    pub(crate) fn field(&self, written: &Written) -> Option<&ArrayField> {
        self.fields.get(written.field)?.as_ref()
    }
}
