//! The stored name index: from a name to its record in the central directory, without a walk through that.
//!
//! It lies in front of the seal, and has two parts. The *slots* are a hash table with linear probing; a slot
//! has the number of a member and the place of its record, under a checksum that takes in the name's hash, so
//! that neither a slot of another name nor a damaged one is taken for it. The *places* are those of every
//! sixteenth record, so that a record is found by its number. There is one for every sixteenth slot: as long
//! as the slots suffice, members are added without moving anything.
//!
//! An index that does not fit into one extra field is cut into *blocks*, each of which begins with a
//! fence, so that programs that go through an archive without its directory get across it.
//!
//! All that is found here is a hint: the record is read, and its name compared.

use std::collections::{BTreeMap, HashMap};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::additions::checksum::{self, MULTIPLIER};
use crate::additions::fence::{self, FENCE};
use crate::additions::seal::{IndexForm, Seal, SealedIndex};
use crate::bytes::{copied, touch};
use crate::error::ErrorKind;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::records::STORED;

/// So many records share a place.
const STRIDE: usize = 16;

/// At most so many of so many slots are in use.
const FULL: u64 = 17;

const PARTS: u64 = 20;

/// A table has so many slots, or that and an eighth as often as it takes: so that an index is the same, byte
/// for byte, however many sessions added its members, and seldom has to be made anew.
const FEWEST: u64 = 8;

/// A name is found within so many slots, or there is no table: names that were made to collide get none.
const PROBES: u64 = 1 << 12;

/// Places in the directory have so many bits.
const PLACE_BITS: u32 = 40;

/// Zero, or the number of a member plus one; the place of its record << 24 | a checksum.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Slot {
    number_plus_one: U32,
    place_and_check: U64,
}

impl Slot {
    const SIZE: usize = size_of::<Self>();

    fn new(hash: u64, number: u32, place: u64) -> Self {
        Slot {
            number_plus_one: (number + 1).into(),
            place_and_check: (place << 24 | check(hash, number, place)).into(),
        }
    }

    /// The member's number and the place of its record, if the slot is that of a name with this hash.
    fn of(&self, hash: u64) -> Option<(u32, u64)> {
        let number = self.number_plus_one.get().checked_sub(1)?;
        let packed = self.place_and_check.get();
        let place = packed >> 24;
        (packed & 0xff_ffff == check(hash, number, place)).then_some((number, place))
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

/// How many slots the table of so many members has.
fn slots_for(members: u64) -> u64 {
    let mut slots = FEWEST;
    while members * PARTS > slots * FULL {
        slots += slots / 8;
    }
    slots
}

/// An index of more bytes is cut: with the seal and what can be between two fences, it is too long for an
/// extra field.
const MOST_UNCUT: u64 = u16::MAX as u64 - Seal::SIZE as u64 - FENCE;

/// A block has so many bytes, so that the seal behind the last one fits into an extra field, too.
const BLOCK: usize = (1 << 16) - Seal::SIZE;

/// What is in front of its slots: a fence and zeros.
const BLOCK_HEAD: usize = 64;

/// So many bytes of slots or places: whole ones of both.
const BLOCK_CONTENT: usize = BLOCK - BLOCK_HEAD;

const _: () =
    assert!(BLOCK_CONTENT.is_multiple_of(Slot::SIZE) && BLOCK_CONTENT.is_multiple_of(size_of::<U64>()));

/// How an index lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    slots: usize,
    is_cut: bool,
}

impl Shape {
    /// That of a new index.
    fn new(slots: u64) -> Self {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        let uncut = Shape { slots, is_cut: false };
        Shape { is_cut: uncut.size() > MOST_UNCUT, ..uncut }
    }

    /// That of an index of so many bytes, if it can be one.
    fn of(bytes: usize, is_cut: bool) -> Option<Self> {
        let heads = if is_cut { bytes.div_ceil(BLOCK) * BLOCK_HEAD } else { 0 };
        let content = bytes.saturating_sub(heads);
        // Sixteen slots and their place have 200 bytes, and less than two slots are lost where there are
        // fewer.
        let slots = content / 25 * 2 + content % 25 * 2 / 25;
        let shape = |slots| Shape { slots, is_cut };
        [slots, slots.saturating_sub(1)].map(shape).into_iter().find(|shape| shape.size() == bytes as u64)
    }

    /// Where the places start, apart from what is in front of blocks.
    fn places(self) -> u64 {
        let slots = self.slots as u64 * Slot::SIZE as u64;
        if self.is_cut { slots.next_multiple_of(size_of::<U64>() as u64) } else { slots }
    }

    /// How many bytes there are, apart from what is in front of blocks.
    fn content(self) -> u64 {
        self.places() + self.slots.div_ceil(STRIDE) as u64 * size_of::<U64>() as u64
    }

    /// How many bytes there are.
    fn size(self) -> u64 {
        let content = self.content();
        if self.is_cut {
            content + content.div_ceil(BLOCK_CONTENT as u64) * BLOCK_HEAD as u64
        } else {
            content
        }
    }

    /// Where a byte of the content is in the index.
    #[inline]
    fn at(self, content: usize) -> usize {
        if self.is_cut {
            content / BLOCK_CONTENT * BLOCK + BLOCK_HEAD + content % BLOCK_CONTENT
        } else {
            content
        }
    }

    /// The index with this content.
    fn cut(self, content: Vec<u8>) -> Option<Vec<u8>> {
        if !self.is_cut {
            return Some(content);
        }
        let size = usize::try_from(self.size()).ok()?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).ok()?;
        for part in content.chunks(BLOCK_CONTENT) {
            let start = bytes.len();
            let end = size.min(start + BLOCK);
            let behind = if end == size { Seal::SIZE } else { 0 };
            // At most 65,490.
            bytes.extend_from_slice(&fence::fence((end + behind - start) as u64 - FENCE));
            bytes.resize(start + BLOCK_HEAD, 0);
            bytes.extend_from_slice(part);
        }
        Some(bytes)
    }
}

/// Whether a new index of so many bytes is cut.
pub(crate) fn is_cut(bytes: u64) -> bool {
    bytes > MOST_UNCUT
}

/// How a new index of this many bytes lies in the file.
pub(crate) fn form(bytes: u64) -> IndexForm {
    if is_cut(bytes) { IndexForm::Blocks } else { IndexForm::OnePiece }
}

/// What stands in the place of an index of so many bytes that could not be made.
pub(crate) fn empty(bytes: u64) -> Vec<u8> {
    let size = usize::try_from(bytes).unwrap_or_default();
    let cut = Shape::of(size, is_cut(bytes)).and_then(|shape| shape.cut(vec![0; shape.content() as usize]));
    cut.unwrap_or_else(|| vec![0; size])
}

/// Whether a member can be in an index: only those that readers list.
pub(crate) fn can_list(record: &CentralRecord<'_>) -> bool {
    record.header.method.get() == STORED && matches!(record.array_name(), Ok(Some(_)))
}

/// A stored index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredIndex<'a> {
    bytes: &'a [u8],
    shape: Shape,
    members: u32,
}

impl<'a> StoredIndex<'a> {
    /// The table that these bytes are, if they can be one.
    pub(crate) fn new(index: SealedIndex<'a>) -> Option<Self> {
        let shape = Shape::of(index.bytes.len(), index.is_cut)?;
        let members = u32::try_from(index.members).ok()?;
        // Where none is empty, only the limit would end a search.
        (shape.slots > members as usize).then_some(StoredIndex { bytes: index.bytes, shape, members })
    }

    /// How it lies in the file.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The same table again, of which it is known how it lies in the file.
    pub(crate) fn again(index: SealedIndex<'a>, shape: Shape) -> Self {
        StoredIndex { bytes: index.bytes, shape, members: index.members as u32 }
    }

    /// A slot by its number, which is less than that of all slots.
    #[inline]
    fn slot(&self, at: u64) -> Option<&'a Slot> {
        let start = self.shape.at(at as usize * Slot::SIZE);
        Slot::ref_from_bytes(self.bytes.get(start..start + Slot::SIZE)?).ok()
    }

    fn place(&self, number: usize) -> Option<u64> {
        let start = self.shape.at(self.shape.places() as usize + number * size_of::<U64>());
        self.bytes.get(start..)?.first_chunk().map(|place| u64::from_le_bytes(*place))
    }

    /// The content, without what is in front of blocks.
    fn content(&self) -> Result<Vec<u8>, ErrorKind> {
        if !self.shape.is_cut {
            return copied(self.bytes, 0);
        }
        let mut content = copied(&[], self.shape.content() as usize)?;
        self.bytes
            .chunks(BLOCK)
            .for_each(|block| content.extend_from_slice(block.get(BLOCK_HEAD..).unwrap_or_default()));
        Ok(content)
    }

    /// The number and the place of a member whose name has this hash and that is the one that is meant.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32, u64) -> bool) -> Option<(u32, u64)> {
        let count = self.shape.slots as u64;
        let mut at = home(hash, count);
        for _ in 0..PROBES.min(count) {
            let slot = self.slot(at)?;
            if slot.number_plus_one.get() == 0 {
                return None;
            }
            if let Some((number, place)) = slot.of(hash)
                && number < self.members
                && is_it(number, place)
            {
                return Some((number, place));
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        None
    }

    /// For each hash the number and the place of the first member whose name has it.
    pub(crate) fn find_all(&self, hashes: &[u64]) -> Vec<Option<(u32, u64)>> {
        let count = self.shape.slots as u64;
        // None of these waits for the one before it, as one search would for another.
        let homes = hashes.iter().filter_map(|&hash| self.slot(home(hash, count)));
        touch(homes.map(|slot| slot.number_plus_one.get() as u8));
        hashes.iter().map(|&hash| self.find(hash, |_, _| true)).collect()
    }

    /// What changes in the index when members with these hashes, whose records are at these places, are
    /// added: bytes by where they are in it. None if it would be made otherwise for so many members, or there
    /// may be one of the same name.
    pub(crate) fn additions(&self, added: &[(u64, u64)]) -> Option<BTreeMap<usize, Vec<u8>>> {
        let count = self.shape.slots as u64;
        let members = u64::from(self.members) + added.len() as u64;
        (members < u64::from(u32::MAX) && slots_for(members) == count).then_some(())?;
        let mut changes = BTreeMap::new();
        let mut taken = HashMap::new();
        for (number, &(hash, place)) in (self.members..).zip(added) {
            let mut at = home(hash, count);
            let mut probes = 0..PROBES.min(count);
            loop {
                probes.next()?;
                let slot = taken.get(&at).or(self.slot(at))?;
                if slot.number_plus_one.get() == 0 {
                    break;
                }
                slot.of(hash).is_none().then_some(())?;
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
        Some(changes)
    }

    /// The record of a member, by its number.
    pub(crate) fn record<'r>(&self, records: &'r [u8], number: u32) -> Option<CentralRecord<'r>> {
        let place = self.place(number as usize / STRIDE).filter(|_| number < self.members)?;
        let mut at = usize::try_from(place).ok()?;
        for _ in 0..number as usize % STRIDE {
            at = CentralRecord::read(records, at)?.1;
        }
        CentralRecord::read(records, at).map(|(record, _)| record)
    }
}

/// What a stored index is made of, while members are written.
#[derive(Debug, Clone)]
pub struct StoredIndexBuilder {
    /// The hashes of the names, and the places of their records, of all members behind those of `old`.
    added: Vec<(u64, u64)>,
    old: Option<Old>,
    /// Records up to this byte are in neither.
    unread: usize,
    /// Not as soon as there is a member that has no place in an index.
    is_possible: bool,
}

/// The content of the index of an archive that is appended to.
#[derive(Debug, Clone)]
struct Old {
    content: Vec<u8>,
    members: u64,
}

impl StoredIndexBuilder {
    /// Of a new archive.
    pub(crate) fn new() -> Self {
        StoredIndexBuilder { added: Vec::new(), old: None, unread: 0, is_possible: true }
    }

    /// Of an archive with so many bytes of records, of which the first are those of `members` members with
    /// this index, if there is one that is known to be sound.
    ///
    /// # Errors
    /// [`ErrorKind::NoMemory`].
    pub(crate) fn resume(records: usize, old: Option<SealedIndex<'_>>) -> Result<Self, ErrorKind> {
        let table = old.and_then(StoredIndex::new);
        let is_as_new = |table: &StoredIndex<'_>| table.shape == Shape::new(slots_for(table.members.into()));
        let Some(table) = table.filter(is_as_new) else { return Ok(Self::of_records(records)) };
        let old = Old { content: table.content()?, members: table.members.into() };
        Ok(StoredIndexBuilder { old: Some(old), ..Self::new() })
    }

    /// Of an archive with so many bytes of records and no index.
    pub(crate) fn of_records(records: usize) -> Self {
        StoredIndexBuilder { unread: records, ..Self::new() }
    }

    /// A member of this name was added, whose record is at `place`.
    #[inline]
    pub(crate) fn push(&mut self, name: &[u8], place: u64) {
        self.added.push((hash(name), place));
    }

    /// A member was found that has this record, `behind` so many bytes of others.
    pub(crate) fn push_record(&mut self, record: &CentralRecord<'_>, behind: usize) {
        if let Ok(Some(name)) = record.array_name() {
            self.push(&name, (behind + record.at) as u64);
        }
    }

    /// The hashes of the names of the members that were pushed, and the places of their records; none if
    /// there can be no index.
    pub(crate) fn added(&self) -> Option<&[(u64, u64)]> {
        self.is_possible.then_some(&self.added[..])
    }

    /// Of an archive to which these members were added, and of which `old` is what it had before.
    pub(crate) fn behind(self, mut old: StoredIndexBuilder) -> StoredIndexBuilder {
        old.added.extend(self.added);
        old.is_possible &= self.is_possible;
        old
    }

    /// There will be no index, as there is a member that has no place in it.
    pub(crate) fn forgo(&mut self) {
        self.is_possible = false;
    }

    /// The records of the last members were moved: where each was, and where it is now, in the new order.
    pub(crate) fn rearrange(&mut self, moved: &[(u64, u64)]) {
        let first = moved.iter().map(|(from, _)| *from).min().unwrap_or(u64::MAX);
        let before = self.added.split_off(self.added.partition_point(|(_, place)| *place < first));
        self.added.extend(moved.iter().filter_map(|(from, to)| {
            let at = before.binary_search_by_key(from, |(_, place)| *place).ok()?;
            Some((before[at].0, *to))
        }));
    }

    /// How large the index is for so many members.
    pub(crate) fn size(&self, members: u64) -> u64 {
        if !self.is_possible || members == 0 {
            return 0;
        }
        Shape::new(slots_for(members)).size()
    }

    /// The index of `members` members with these records; none if a name is there twice, a member is not a
    /// stored array, or names collide that much.
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
        // Without the memory for an index, there is none.
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

    /// Adds the members in front of those that were pushed by their records: the first `old` of these, or
    /// those that are in front of all others.
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
            if let Some((_, other)) = slot.of(hash) {
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

    /// The records of arrays with these names, and what an index of them is made of.
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
        let is_it = |_: u32, place: u64| {
            let record = CentralRecord::read(records, place as usize);
            record.is_some_and(|(record, _)| record.name == format!("{name}.npy").as_bytes())
        };
        table.find(hash(name.as_bytes()), is_it).map(|(number, _)| number)
    }

    #[test]
    fn names_are_found_and_others_are_not() {
        for count in [1, 2, 7, 16, 17, 3000, 12_000] {
            let (records, made) = written((0..count).map(|number| format!("n{number}")));
            let bytes = made.build(&records, count).unwrap();
            let table = table(&bytes, count).unwrap();
            for number in 0..count as u32 {
                assert_eq!(found(&table, &records, &format!("n{number}")), Some(number));
                assert_eq!(table.record(&records, number).unwrap().name, format!("n{number}.npy").as_bytes());
            }
            assert_eq!(found(&table, &records, "n"), None);
            assert_eq!(found(&table, &records, &format!("n{count}")), None);
            assert!(table.record(&records, count as u32).is_none());
        }
    }

    #[test]
    fn an_index_is_the_same_however_it_was_made() {
        let names = |range: std::ops::Range<u64>| range.map(|number| format!("n{number}"));
        // The second is cut.
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
            let additions = table(&bytes, before).unwrap().additions(&added);
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
        assert_eq!(table.additions(&[twice]), None, "the same name");
        assert_eq!(table.additions(&[(5, 100), (5, 100)]), None, "the same name twice");
        assert!(table.additions(&[(5, 100)]).is_some());
    }

    #[test]
    fn an_index_tells_by_its_size_how_many_slots_it_has() {
        let mut sizes = std::collections::HashSet::new();
        for slots in 1..40_000 {
            let shape = Shape::new(slots);
            let size = shape.size() as usize;
            assert_eq!(Shape::of(size, shape.is_cut), Some(shape));
            assert_eq!(is_cut(size as u64), shape.is_cut);
            assert_eq!(empty(size as u64).len(), size);
            sizes.insert(size);
        }
        let is_new = |shape: Shape| shape == Shape::new(shape.slots as u64);
        let is_one = |size| Shape::of(size, is_cut(size as u64)).is_some_and(is_new);
        assert!((1..400_000).all(|size| sizes.contains(&size) == is_one(size)));
        let uncut = Shape { slots: 20_000, is_cut: false };
        assert_eq!(Shape::of(uncut.size() as usize, false), Some(uncut));
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
