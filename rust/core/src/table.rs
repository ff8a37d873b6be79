//! The stored name index: from a name to its record in the central directory, without a walk through that.
//!
//! It lies in front of the seal, and has two parts. The *slots* are a hash table with linear probing; a slot has the
//! number of a member and the place of its record, under a checksum that takes in the name's hash, so that neither a
//! slot of another name nor a damaged one is taken for it. The *places* are those of every sixteenth record, so that
//! a record is found by its number.
//!
//! All that is found here is a hint: the record is read, and its name compared.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::index::{CentralRecord, Walk};
use crate::mark::{self, MULTIPLIER};
use crate::zip::STORED;

/// So many records share a place.
const STRIDE: usize = 16;
/// Of so many slots, a new table has [`FILLED`] in use, and one that is added to at most [`FULL`].
const PARTS: u64 = 20;
const FILLED: u64 = 15;
const FULL: u64 = 17;
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
    mark::state_of(&[name])
}

/// The first slot of a hash.
fn home(hash: u64, slots: u64) -> u64 {
    ((u128::from(hash) * u128::from(slots)) >> 64) as u64
}

/// How many slots a new table for so many members has.
fn slots_for(members: u64) -> u64 {
    members * PARTS / FILLED + 1
}

/// How many places there are for so many members.
fn places_for(members: u64) -> u64 {
    members.div_ceil(STRIDE as u64)
}

/// Whether a member can be in an index: only those that readers list.
pub(crate) fn can_list(record: &CentralRecord<'_>) -> bool {
    record.header.method.get() == STORED && matches!(record.array_name(), Ok(Some(_)))
}

/// A stored index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    slots: &'a [Slot],
    places: &'a [U64],
    members: u32,
}

impl<'a> Table<'a> {
    /// The bytes of an index for so many members, if they can be one.
    pub(crate) fn new(bytes: &'a [u8], members: u64) -> Option<Self> {
        let places = usize::try_from(places_for(members)).ok()?.checked_mul(size_of::<U64>())?;
        let (slots, places) = bytes.split_at_checked(bytes.len().checked_sub(places)?)?;
        let slots = <[Slot]>::ref_from_bytes(slots).ok()?;
        let places = <[U64]>::ref_from_bytes(places).ok()?;
        let members = u32::try_from(members).ok()?;
        // Where none is empty, only the limit would end a search.
        (slots.len() > members as usize).then_some(Table { slots, places, members })
    }

    /// The number and the place of a member whose name has this hash and that is the one that is meant.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32, u64) -> bool) -> Option<(u32, u64)> {
        let count = self.slots.len() as u64;
        let mut at = home(hash, count);
        for _ in 0..PROBES.min(count) {
            // Less than `count`, which is the length of a slice.
            let slot = &self.slots[at as usize];
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

    /// The record of a member, by its number.
    pub(crate) fn record<'r>(&self, records: &'r [u8], number: u32) -> Option<CentralRecord<'r>> {
        let place = self.places.get(number as usize / STRIDE).filter(|_| number < self.members)?;
        let mut at = usize::try_from(place.get()).ok()?;
        for _ in 0..number as usize % STRIDE {
            at = CentralRecord::read(records, at)?.1;
        }
        CentralRecord::read(records, at).map(|(record, _)| record)
    }
}

/// What a stored index is made of, while members are written.
#[derive(Debug, Clone)]
pub struct Names {
    /// The hashes of the names, and the places of their records, of all members behind those of `old`.
    added: Vec<(u64, u64)>,
    old: Option<Old>,
    /// Records up to this byte are in neither.
    unread: usize,
    /// Not as soon as there is a member that has no place in an index.
    is_possible: bool,
}

/// The index of an archive that is appended to.
#[derive(Debug, Clone)]
struct Old {
    bytes: Vec<u8>,
    members: u64,
}

impl Names {
    /// Of a new archive.
    pub(crate) fn new() -> Self {
        Names { added: Vec::new(), old: None, unread: 0, is_possible: true }
    }

    /// Of an archive with so many bytes of records, of which the first are those of `members` members with this
    /// index, if there is one that is known to be sound.
    pub(crate) fn resume(records: usize, old: Option<(&[u8], u64)>) -> Self {
        let old = old.filter(|(bytes, members)| Table::new(bytes, *members).is_some());
        let old = old.map(|(bytes, members)| Old { bytes: bytes.to_vec(), members });
        let unread = if old.is_some() { 0 } else { records };
        Names { old, unread, ..Self::new() }
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
        let slots = match self.grows(members) {
            Some(old) => slots_of(old),
            None => slots_for(members),
        };
        slots * Slot::SIZE as u64 + places_for(members) * size_of::<U64>() as u64
    }

    /// The index that there was, if it has room for so many members.
    fn grows(&self, members: u64) -> Option<&Old> {
        let old = self.old.as_ref()?;
        (members * PARTS <= slots_of(old) * FULL).then_some(old)
    }

    /// The index of `members` members with these records; none if a name is there twice, a member is not a stored
    /// array, or names collide that much.
    pub(crate) fn build(mut self, records: &[u8], members: u64) -> Option<Vec<u8>> {
        let size = self.size(members);
        if size == 0 || members >= u64::from(u32::MAX) || records.len() as u64 >= 1 << PLACE_BITS {
            return None;
        }
        let size = usize::try_from(size).ok()?;
        let grows = self.grows(members).is_some();
        let old = self.old.take();
        let mut first = old.as_ref().map_or(0, |old| old.members);
        let mut bytes = match old {
            Some(old) if grows => old.bytes,
            _ => {
                let before = first;
                first = 0;
                self.read(records, before)?;
                Vec::new()
            }
        };
        bytes.resize(size, 0);
        let slot_count = size - places_for(members) as usize * size_of::<U64>();
        let (slots, places) = bytes.split_at_mut(slot_count);
        let slots = <[Slot]>::mut_from_bytes(slots).ok()?;
        let places = <[U64]>::mut_from_bytes(places).ok()?;
        // Members whose slots are near each other come together, so that the slots are in the cache.
        let mut parts = Parts::new(self.added.len());
        for (number, &(hash, place)) in (first..).zip(&self.added) {
            if number.is_multiple_of(STRIDE as u64) {
                *places.get_mut(number as usize / STRIDE)? = place.into();
            }
            // Less than 2**32: checked above.
            parts.push(hash, place, number as u32);
        }
        (first + self.added.len() as u64 == members).then_some(())?;
        let mut build = Build { records, slots };
        parts.0.iter().flatten().try_for_each(|&(hash, place, number)| build.add(hash, place, number))?;
        Some(bytes)
    }

    /// Adds the members in front of those that were pushed by their records: the first `old` of these, or those that are
    /// in front of all others.
    fn read(&mut self, records: &[u8], old: u64) -> Option<()> {
        let end = if old > 0 {
            self.added.first().map_or(records.len(), |(_, place)| *place as usize)
        } else {
            self.unread
        };
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

fn slots_of(old: &Old) -> u64 {
    (old.bytes.len() as u64 - places_for(old.members) * size_of::<U64>() as u64) / Slot::SIZE as u64
}

/// Members by the upper bits of their names' hashes: hash, place and number.
struct Parts([Vec<(u64, u64, u32)>; Parts::COUNT]);

impl Parts {
    const BITS: u32 = 8;
    const COUNT: usize = 1 << Self::BITS;

    fn new(members: usize) -> Self {
        // A little more than a fair share, which nearly all parts get on with.
        let share = members / Self::COUNT;
        Parts(std::array::from_fn(|_| Vec::with_capacity(share + share / 8)))
    }

    fn push(&mut self, hash: u64, place: u64, number: u32) {
        self.0[(hash >> (u64::BITS - Self::BITS)) as usize].push((hash, place, number));
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
