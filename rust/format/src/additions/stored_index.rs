//! The stored index: from a name to its record in the central directory, without a walk through the
//! directory.
//!
//! The index lies in front of the seal, and has two parts. The *slots* are a hash table with linear probing.
//! A slot has the number of a member and the place of its record. Its checksum covers the hash of the name,
//! too, so that a reader takes neither the slot of another name nor a damaged slot for the right one. The
//! *places* are the places of every sixteenth record, so that a record is found by its number. There are as
//! many as every sixteenth slot needs: as long as the slots suffice, a writer adds members without moving
//! anything.
//!
//! An index that does not fit into one extra field is cut into *blocks*, each of which begins with a fence,
//! so that programs that go through an archive without its directory get across the index.
//!
//! A slot is only a hint: a reader reads the record, and compares its name.

use std::collections::{BTreeMap, HashMap};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::additions::checksum::{self, MULTIPLIER};
use crate::additions::index_shape::{SLOT, STRIDE, content_of};
pub(crate) use crate::additions::index_shape::{Shape, empty, form, is_cut};
use crate::additions::seal::{Seal, SealedIndex};
use crate::bytes::touch;
use crate::error::ErrorKind;
use crate::error::Missing;
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::records::STORED;

/// At most `FULL` of every `PARTS` slots are in use.
const FULL: u64 = 17;

const PARTS: u64 = 20;

/// A table starts with this many slots, and grows by an eighth until it suffices. So an index is the same,
/// byte for byte, however many sessions added its members, and a session seldom has to make it anew.
const FEWEST: u64 = 8;

/// A name is found within this many slots, or the archive has no index: none is made of names that were
/// chosen to collide.
const PROBES: u64 = 1 << 12;

/// How many bits a place in the directory has.
const PLACE_BITS: u32 = 40;

/// A slot is empty if its first number is 0. Otherwise that is the number of a member plus one; the second
/// number is the place of the member's record << 24 | a checksum.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Slot {
    number_plus_one: U32,
    place_and_check: U64,
}

const _: () = assert!(size_of::<Slot>() == SLOT);

/// What a slot leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    /// The number of the member.
    pub(crate) number: u32,
    /// Where its record is in the directory.
    pub(crate) place: u64,
}

impl Slot {
    const SIZE: usize = SLOT;

    fn new(hash: u64, number: u32, place: u64) -> Self {
        Slot {
            number_plus_one: (number + 1).into(),
            place_and_check: (place << 24 | check(hash, number, place)).into(),
        }
    }

    /// The member's number and the place of its record, if the slot is that of a name with this hash.
    fn of(&self, hash: u64) -> Option<Hit> {
        let number = self.number_plus_one.get().checked_sub(1)?;
        let packed = self.place_and_check.get();
        let place = packed >> 24;
        (packed & 0xff_ffff == check(hash, number, place)).then_some(Hit { number, place })
    }
}

/// 24 bits that depend on all bits of the hash, the number and the place.
fn check(hash: u64, number: u32, place: u64) -> u64 {
    let state = (hash ^ place).wrapping_mul(MULTIPLIER);
    let state = (state ^ state >> 32 ^ u64::from(number)).wrapping_mul(MULTIPLIER);
    state >> 40
}

/// The hash of a name, without its extension.
pub(crate) fn hash(name: &[u8]) -> u64 {
    checksum::state_of(&[name])
}

/// The first slot of a hash.
fn home(hash: u64, slots: u64) -> u64 {
    ((u128::from(hash) * u128::from(slots)) >> 64) as u64
}

/// How many slots a table of `members` members has.
fn slots_for(members: u64) -> u64 {
    let mut slots = FEWEST;
    while members * PARTS > slots * FULL {
        slots += slots / 8;
    }
    slots
}

/// Whether a member can be in an index: only those that readers list.
pub(crate) fn can_list(record: &CentralRecord<'_>) -> bool {
    record.header.method.get() == STORED && matches!(record.array_name(), Ok(Some(_)))
}

/// A stored index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredIndex<'a> {
    window: Window<'a>,
    /// Where it is.
    start: u64,
    shape: Shape,
    members: u32,
}

impl<'a> StoredIndex<'a> {
    /// The index in front of a seal, if an index can have the size that the seal says.
    pub(crate) fn of(seal: &Seal, window: Window<'a>) -> Option<Self> {
        let range = seal.index_range()?;
        let size = usize::try_from(range.end - range.start).ok()?;
        Self::possible(window, range.start, Shape::of(size, seal.is_fenced())?, seal.members())
    }

    /// The index in front of a seal whose shape the caller knows.
    #[inline]
    pub(crate) fn again(seal: &Seal, shape: Shape, window: Window<'a>) -> Self {
        StoredIndex { window, start: seal.start(), shape, members: seal.members() as u32 }
    }

    /// The index in these bytes, if an index can have so many.
    pub(crate) fn new(index: SealedIndex<'a>) -> Option<Self> {
        let shape = Shape::of(index.bytes.len(), index.is_cut)?;
        Self::possible(index.bytes.into(), 0, shape, index.members)
    }

    fn possible(window: Window<'a>, start: u64, shape: Shape, members: u64) -> Option<Self> {
        let members = u32::try_from(members).ok()?;
        // If no slot were empty, only the limit would end a search.
        (shape.slots > members as usize).then_some(StoredIndex { window, start, shape, members })
    }

    /// How the index lies in the file.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// A slot by its number, which must be less than the number of all slots.
    #[inline]
    fn slot(&self, at: u64) -> Result<Option<&'a Slot>, Missing> {
        let start = self.start + self.shape.at(at as usize * Slot::SIZE) as u64;
        let bytes = self.window.get(start..start + Slot::SIZE as u64)?;
        Ok(bytes.and_then(|bytes| Slot::ref_from_bytes(bytes).ok()))
    }

    fn place(&self, number: usize) -> Result<Option<u64>, Missing> {
        let at = self.shape.at(self.shape.places() as usize + number * size_of::<U64>());
        let start = self.start + at as u64;
        let bytes = self.window.get(start..start + size_of::<U64>() as u64)?;
        Ok(bytes.and_then(|bytes| bytes.first_chunk()).map(|place| u64::from_le_bytes(*place)))
    }

    /// The member whose name has this hash, and that `is_it` accepts.
    #[inline]
    pub(crate) fn find(
        &self,
        hash: u64,
        mut is_it: impl FnMut(Hit) -> Result<bool, Missing>,
    ) -> Result<Option<Hit>, Missing> {
        let count = self.shape.slots as u64;
        let mut at = home(hash, count);
        for _ in 0..PROBES.min(count) {
            let Some(slot) = self.slot(at)?.filter(|slot| slot.number_plus_one.get() != 0) else { break };
            if let Some(hit) = slot.of(hash)
                && hit.number < self.members
                && is_it(hit)?
            {
                return Ok(Some(hit));
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        Ok(None)
    }

    /// For each hash, the first member whose name has it.
    pub(crate) fn find_all(&self, hashes: &[u64]) -> Result<Vec<Option<Hit>>, Missing> {
        let count = self.shape.slots as u64;
        // Reads all slots side by side: one search after the other would wait for each.
        let homes = hashes.iter().filter_map(|&hash| self.slot(home(hash, count)).ok().flatten());
        touch(homes.map(|slot| slot.number_plus_one.get() as u8));
        hashes.iter().map(|&hash| self.find(hash, |_| Ok(true))).collect()
    }

    /// What adding members changes in the index: the new bytes, by their place in the index. Each new member
    /// is given by the hash of its name and the place of its record. None if an index of so many members has
    /// more slots, or two members may have the same name.
    pub(crate) fn additions(
        &self,
        added: &[(u64, u64)],
    ) -> Result<Option<BTreeMap<usize, Vec<u8>>>, Missing> {
        let count = self.shape.slots as u64;
        let members = u64::from(self.members) + added.len() as u64;
        if members >= u64::from(u32::MAX) || slots_for(members) != count {
            return Ok(None);
        }
        let mut changes = BTreeMap::new();
        let mut taken = HashMap::new();
        for (number, &(hash, place)) in (self.members..).zip(added) {
            let mut at = home(hash, count);
            let mut probes = 0..PROBES.min(count);
            loop {
                let slot = match taken.get(&at) {
                    Some(slot) => Some(slot),
                    None => self.slot(at)?,
                };
                let Some(slot) = slot.filter(|slot| probes.next().is_some() && slot.of(hash).is_none())
                else {
                    return Ok(None);
                };
                if slot.number_plus_one.get() == 0 {
                    break;
                }
                at = if at + 1 == count { 0 } else { at + 1 };
            }
            let slot = Slot::new(hash, number, place);
            taken.insert(at, slot);
            changes.insert(self.shape.at(at as usize * Slot::SIZE), slot.as_bytes().to_vec());
            if (number as usize).is_multiple_of(STRIDE) {
                let at = self.shape.places() as usize + number as usize / STRIDE * size_of::<U64>();
                changes.insert(self.shape.at(at), place.to_le_bytes().to_vec());
            }
        }
        Ok(Some(changes))
    }

    /// The record of a member in this directory, by the member's number.
    pub(crate) fn record(
        &self,
        directory: &DirectoryLocation,
        number: u32,
    ) -> Result<Option<CentralRecord<'a>>, Missing> {
        let place = self.place(number as usize / STRIDE)?.filter(|_| number < self.members);
        let Some(mut at) = place.and_then(|place| usize::try_from(place).ok()) else { return Ok(None) };
        for _ in 0..number as usize % STRIDE {
            let Some((_, next)) = directory.record(self.window, at)? else { return Ok(None) };
            at = next;
        }
        Ok(directory.record(self.window, at)?.map(|(record, _)| record))
    }
}

/// Collects what a stored index needs, while a writer writes members.
#[derive(Debug, Clone)]
pub struct StoredIndexBuilder {
    /// The hash of the name and the place of the record, for each member behind those of `old`.
    added: Vec<(u64, u64)>,
    old: Option<Old>,
    /// Records before this byte are covered by neither `old` nor `added`, and must still be read.
    unread: usize,
    /// False once a member was added that an index cannot list.
    is_possible: bool,
}

/// The content of the index of an archive that is appended to.
#[derive(Debug, Clone)]
struct Old {
    content: Vec<u8>,
    members: u64,
}

impl StoredIndexBuilder {
    /// The builder of a new archive.
    pub(crate) fn new() -> Self {
        StoredIndexBuilder { added: Vec::new(), old: None, unread: 0, is_possible: true }
    }

    /// The builder of an archive that has `records` bytes of records, and this index if it has one that
    /// matches its seal.
    ///
    /// # Errors
    /// [`ErrorKind::NoMemory`].
    pub(crate) fn resume(records: usize, old: Option<SealedIndex<'_>>) -> Result<Self, ErrorKind> {
        let table = old.and_then(StoredIndex::new);
        let is_as_new = |table: &StoredIndex<'_>| table.shape == Shape::new(slots_for(table.members.into()));
        let Some((index, table)) = old.zip(table.filter(is_as_new)) else {
            return Ok(Self::of_records(records));
        };
        let old = Old { content: content_of(index.bytes, table.shape)?, members: table.members.into() };
        Ok(StoredIndexBuilder { old: Some(old), ..Self::new() })
    }

    /// The builder of an archive that has `records` bytes of records and no index.
    pub(crate) fn of_records(records: usize) -> Self {
        StoredIndexBuilder { unread: records, ..Self::new() }
    }

    /// Adds a member of this name, whose record is at `place`.
    #[inline]
    pub(crate) fn push(&mut self, name: &[u8], place: u64) {
        self.added.push((hash(name), place));
    }

    /// Adds a member with this record, which starts `behind` this many bytes of other records.
    pub(crate) fn push_record(&mut self, record: &CentralRecord<'_>, behind: usize) {
        if let Ok(Some(name)) = record.array_name() {
            self.push(&name, (behind + record.at) as u64);
        }
    }

    /// The hash of the name and the place of the record, for each member that was pushed. None if there can
    /// be no index.
    pub(crate) fn added(&self) -> Option<&[(u64, u64)]> {
        self.is_possible.then_some(&self.added[..])
    }

    /// The builder of an archive that had the members of `old`, and to which the members of `self` were
    /// added.
    pub(crate) fn behind(self, mut old: StoredIndexBuilder) -> StoredIndexBuilder {
        old.added.extend(self.added);
        old.is_possible &= self.is_possible;
        old
    }

    /// Gives up the index, as it cannot list one of the members.
    pub(crate) fn forgo(&mut self) {
        self.is_possible = false;
    }

    /// Moves the records of the last members. `moved` has the old and the new place of each, in the new
    /// order.
    pub(crate) fn rearrange(&mut self, moved: &[(u64, u64)]) {
        let first = moved.iter().map(|(from, _)| *from).min().unwrap_or(u64::MAX);
        let before = self.added.split_off(self.added.partition_point(|(_, place)| *place < first));
        self.added.extend(moved.iter().filter_map(|(from, to)| {
            let at = before.binary_search_by_key(from, |(_, place)| *place).ok()?;
            Some((before[at].0, *to))
        }));
    }

    /// How many bytes the index of `members` members has.
    pub(crate) fn size(&self, members: u64) -> u64 {
        if !self.is_possible || members == 0 {
            return 0;
        }
        Shape::new(slots_for(members)).size()
    }

    /// The index of `members` members with these records. None if two members have one name, a member is no
    /// stored array, or too many names collide.
    pub(crate) fn build(mut self, records: &[u8], members: u64) -> Option<Vec<u8>> {
        let size = self.size(members);
        if size == 0 || members >= u64::from(u32::MAX) || records.len() as u64 >= 1 << PLACE_BITS {
            return None;
        }
        let shape = Shape::new(slots_for(members));
        let size = usize::try_from(shape.content()).ok()?;
        let old = self.old.take();
        let mut first = old.as_ref().map_or(0, |old| old.members);
        let mut content = match old {
            Some(old) if slots_for(members) == slots_for(first) => old.content,
            _ => {
                self.read(records, first)?;
                first = 0;
                Vec::new()
            }
        };
        // If there is no memory for an index, the archive gets none.
        content.try_reserve_exact(size.saturating_sub(content.len())).ok()?;
        content.resize(size, 0);
        let (slots, places) = content.split_at_mut(shape.places() as usize);
        let slots = <[Slot]>::mut_from_bytes(&mut slots[..shape.slots * Slot::SIZE]).ok()?;
        let places = <[U64]>::mut_from_bytes(places).ok()?;
        let mut build = Build { records, slots };
        for (number, &(hash, place)) in (first..).zip(&self.added) {
            if number.is_multiple_of(STRIDE as u64) {
                *places.get_mut(number as usize / STRIDE)? = place.into();
            }
            // Less than 2**32: checked above.
            build.add(hash, place, number as u32)?;
        }
        (first + self.added.len() as u64 == members).then_some(content).and_then(|content| shape.cut(content))
    }

    /// Adds, from their records, the members in front of those that were pushed: all members of the old index
    /// if it had any (`old`), or else those before `unread`.
    fn read(&mut self, records: &[u8], old: u64) -> Option<()> {
        let first_added = || self.added.first().map_or(records.len(), |(_, place)| *place as usize);
        let end = if old > 0 { first_added() } else { self.unread };
        let mut all = Vec::with_capacity(self.added.len());
        for record in Walk::new(records.get(..end)?) {
            let name = record.array_name().ok()?.filter(|_| can_list(&record))?;
            all.push((hash(&name), record.at as u64));
        }
        all.append(&mut self.added);
        self.added = all;
        Some(())
    }
}

struct Build<'a> {
    records: &'a [u8],
    slots: &'a mut [Slot],
}

impl Build<'_> {
    fn add(&mut self, hash: u64, place: u64, number: u32) -> Option<()> {
        let count = self.slots.len() as u64;
        let mut at = home(hash, count);
        for _ in 0..PROBES.min(count) {
            let slot = &mut self.slots[at as usize];
            if slot.number_plus_one.get() == 0 {
                *slot = Slot::new(hash, number, place);
                return Some(());
            }
            if let Some(Hit { place: other, .. }) = slot.of(hash) {
                let name_at = |at| {
                    let (record, _) = CentralRecord::read(self.records, usize::try_from(at).ok()?)?;
                    record.array_name().ok()?
                };
                if name_at(other)? == name_at(place)? {
                    return None;
                }
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zip::encode::write_central;

    /// The records of arrays with these names, and the builder of their index.
    fn written(names: impl Iterator<Item = String>) -> (Vec<u8>, StoredIndexBuilder) {
        let (mut records, mut made) = (Vec::new(), StoredIndexBuilder::new());
        for name in names {
            made.push(name.as_bytes(), records.len() as u64);
            write_central(0, 10, 0, (format!("{name}.npy").as_bytes(), 0), 0, &mut records);
        }
        (records, made)
    }

    fn stored(bytes: &[u8], members: u64) -> SealedIndex<'_> {
        SealedIndex { bytes, members, is_cut: is_cut(bytes.len() as u64) }
    }

    fn table(bytes: &[u8], members: u64) -> Option<StoredIndex<'_>> {
        StoredIndex::new(stored(bytes, members))
    }

    fn found(table: &StoredIndex<'_>, records: &[u8], name: &str) -> Option<u32> {
        let is_it = |Hit { place, .. }: Hit| {
            let record = CentralRecord::read(records, place as usize);
            Ok(record.is_some_and(|(record, _)| record.name == format!("{name}.npy").as_bytes()))
        };
        table.find(hash(name.as_bytes()), is_it).unwrap().map(|hit| hit.number)
    }

    #[test]
    fn names_are_found_and_others_are_not() {
        for count in [1, 2, 7, 16, 17, 3000, 12_000] {
            let (records, made) = written((0..count).map(|number| format!("n{number}")));
            let bytes = made.build(&records, count).unwrap();
            let table = table(&bytes, count).unwrap();
            // The records follow the index: nothing else is in the file.
            let file = [&bytes[..], &records].concat();
            let range = bytes.len() as u64..file.len() as u64;
            let directory = DirectoryLocation { range, ..DirectoryLocation::none() };
            let in_file = StoredIndex { window: (&file).into(), ..table };
            let record = |number| in_file.record(&directory, number).unwrap();
            for number in 0..count as u32 {
                assert_eq!(found(&table, &records, &format!("n{number}")), Some(number));
                assert_eq!(record(number).unwrap().name, format!("n{number}.npy").as_bytes());
            }
            assert_eq!(found(&table, &records, "n"), None);
            assert_eq!(found(&table, &records, &format!("n{count}")), None);
            assert!(record(count as u32).is_none());
        }
    }

    #[test]
    fn an_index_is_the_same_however_it_was_made() {
        let names = |range: std::ops::Range<u64>| range.map(|number| format!("n{number}"));
        // The index of the second archive is cut into blocks.
        for (count, before) in [(1000, [1, 500, 990, 999]), (9100, [1, 500, 9000, 9099])]
            .into_iter()
            .flat_map(|(count, before)| before.map(|before| (count, before)))
        {
            let (records, made) = written(names(0..count));
            let at_once = made.build(&records, count).unwrap();
            let (old_records, made) = written(names(0..before));
            let old = made.build(&old_records, before).unwrap();
            for old in [Some(stored(&old, before)), None] {
                let mut made = StoredIndexBuilder::resume(old_records.len(), old).unwrap();
                for record in Walk::new(&records).skip(before as usize) {
                    made.push_record(&record, 0);
                }
                assert!(made.build(&records, count) == Some(at_once.clone()), "{before}");
            }
        }
    }

    #[test]
    fn an_index_that_was_added_to_is_the_same() {
        let names = |count: u64| (0..count).map(|number| format!("n{number}"));
        for (before, after) in [(1, 2), (1, 6), (10, 12), (900, 901), (907, 1019), (1019, 1020), (9000, 9010)]
        {
            let (records, made) = written(names(after));
            let (_, old) = written(names(before));
            let added = made.added[before as usize..].to_vec();
            let mut bytes = old.build(&records, before).unwrap();
            let at_once = made.build(&records, after).unwrap();
            let additions = table(&bytes, before).unwrap().additions(&added).unwrap();
            assert_eq!(additions.is_some(), bytes.len() == at_once.len(), "{before} {after}");
            let Some(additions) = additions else { continue };
            for (at, change) in additions {
                bytes[at..at + change.len()].copy_from_slice(&change);
            }
            assert!(bytes == at_once, "{before} {after}");
        }
        let (records, mut made) = written(names(3));
        let twice = made.added[1];
        made.added.pop();
        let bytes = made.build(&records, 2).unwrap();
        let table = table(&bytes, 2).unwrap();
        assert_eq!(table.additions(&[twice]), Ok(None), "the same name");
        assert_eq!(table.additions(&[(5, 100), (5, 100)]), Ok(None), "the same name twice");
        assert!(table.additions(&[(5, 100)]).unwrap().is_some());
    }

    #[test]
    fn what_has_no_place_in_an_index_has_none() {
        let twice = ["a", "b", "a"].map(str::to_owned);
        let (records, made) = written(twice.into_iter());
        assert_eq!(made.build(&records, 3), None);
        let (records, mut made) = written((0..PROBES + 2).map(|number| number.to_string()));
        made.added.iter_mut().for_each(|(hash, _)| *hash = 5);
        assert_eq!(made.build(&records, PROBES + 2), None);
        let (records, made) = written(["a"].map(str::to_owned).into_iter());
        assert_eq!(made.clone().build(&records, 2), None, "another number of members");
        let mut forgone = made;
        forgone.forgo();
        assert_eq!((forgone.size(1), forgone.build(&records, 1)), (0, None));
    }

    #[test]
    fn bytes_that_cannot_be_an_index_are_none() {
        let (records, made) = written((0..20).map(|number| number.to_string()));
        let bytes = made.build(&records, 20).unwrap();
        assert!(table(&bytes, 20).is_some());
        assert!(table(&bytes[1..], 20).is_none());
        assert!(table(&bytes, 36).is_none(), "fewer slots than members");
        for members in [0, 1, 1 << 32, u64::MAX] {
            assert!(table(&[], members).is_none());
        }
    }

    #[test]
    fn a_damaged_slot_is_nobodys() {
        let (records, made) = written((0..20).map(|number| number.to_string()));
        let bytes = made.build(&records, 20).unwrap();
        for at in 0..slots_for(20) as usize * Slot::SIZE {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let table = table(&bytes, 20).unwrap();
                for number in 0..20 {
                    let found = found(&table, &records, &number.to_string());
                    assert!(found.is_none_or(|found| found == number));
                }
            }
        }
    }
}
