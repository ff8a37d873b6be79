//! What a walked index keeps of a member, and the table by which it finds members by their names.
//!
//! Members are looked up by their *keys*: that of an array is its name without the extension. Names stay in
//! the archive, in the directory and in the local headers.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::error::{ErrorKind, Missing};
use crate::window::Window;
use crate::zip::central::CentralRecord;
use crate::zip::name;
use crate::zip::records::{Extent, LocalHeader, Record};

/// The place in the directory of a member that the directory does not list.
pub(crate) const NO_RECORD: u64 = (1 << 40) - 1;

/// The offset of a local header that is not inside the file.
pub(crate) const NOWHERE: u64 = (1 << 48) - 1;

/// The size of an entry that does not count, as its member is left out.
pub(crate) const GONE: u64 = u64::MAX;

/// Marks the size of a compressed member. No file is so long.
const COMPRESSED: u64 = 1 << 63;

/// Marks the size of a member whose key is its whole name. No file is so long.
const WHOLE_NAME: u64 = 1 << 62;

/// The number of a member that is not compressed, among those that are.
pub(crate) const STORED_ONE: u32 = u32::MAX;

pub(crate) type Result2<T> = std::result::Result<T, ErrorKind>;

/// What tells how to decompress a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    /// The compression method (APPNOTE 4.4.5).
    pub method: u16,
    /// How many bytes the member has when it is decompressed.
    pub size: u64,
    /// The CRC-32 of those bytes.
    pub crc: u32,
    /// How many bytes it has in the file.
    pub stored: u64,
}

impl Compressed {
    /// That of a record of the directory.
    pub(crate) fn of(record: &CentralRecord<'_>) -> Result2<Self> {
        let extent = Extent::read(record.header, record.extra)?;
        let (size, stored) = (extent.uncompressed, extent.compressed);
        Ok(Compressed { method: record.header.method.get(), size, crc: record.header.crc.get(), stored })
    }
}

/// What the index keeps of a member. The two packed numbers leave 40 bits for a place in the directory (a
/// terabyte) and 48 bits for a place in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Place in the directory << 24 | 24 bits of the key's hash.
    pub(crate) record_and_hash: u64,
    /// Offset of the local header << 16 | general-purpose flags.
    pub(crate) local_and_flags: u64,
    /// Bytes in the file that may be read. Of a compressed member, [`COMPRESSED`] and its number among those.
    /// With [`WHOLE_NAME`], the key is the whole name.
    size: u64,
}

impl Entry {
    /// The entry of a record of the directory.
    #[inline]
    pub(crate) fn of(file_len: u64, record: &CentralRecord<'_>, prefix_len: i64, hash: u64) -> Result2<Self> {
        let extent = Extent::read(record.header, record.extra)?;
        let local = i64::try_from(extent.local_offset)
            .ok()
            .and_then(|offset| offset.checked_add(prefix_len))
            .and_then(|offset| u64::try_from(offset).ok())
            .filter(|&offset| offset < NOWHERE && offset < file_len)
            .unwrap_or(NOWHERE);
        let flags = record.header.flags.get();
        Ok(Self::new(record.at as u64, hash, local, flags, extent.compressed.min(extent.uncompressed)))
    }

    #[inline]
    pub(crate) fn new(record: u64, hash: u64, local: u64, flags: u16, size: u64) -> Self {
        Entry {
            record_and_hash: record << 24 | kept_bits(hash),
            local_and_flags: local.min(NOWHERE) << 16 | u64::from(flags),
            // No file is so long.
            size: size.min(WHOLE_NAME - 1),
        }
    }

    /// Makes it that of a compressed member with this number among those.
    pub(crate) fn set_compressed(&mut self, number: usize) {
        self.size = COMPRESSED | self.size & WHOLE_NAME | number as u64;
    }

    /// Makes the whole name the key.
    pub(crate) fn set_whole_name(&mut self) {
        self.size |= WHOLE_NAME;
    }

    /// Makes it the entry of another key.
    pub(crate) fn set_hash(&mut self, hash: u64) {
        self.record_and_hash = self.record_and_hash & !0xff_ffff | kept_bits(hash);
    }

    pub(crate) fn set_gone(&mut self) {
        self.size = GONE;
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.size == GONE
    }

    /// The number of a compressed member among those.
    pub(crate) fn compressed(&self) -> Option<usize> {
        (self.size & COMPRESSED != 0).then_some((self.size & !(COMPRESSED | WHOLE_NAME)) as usize)
    }

    /// How many bytes of a stored member may be read.
    pub(crate) fn size(&self) -> u64 {
        self.size & !(COMPRESSED | WHOLE_NAME)
    }

    pub(crate) fn has_whole_name(&self) -> bool {
        self.size & WHOLE_NAME != 0
    }

    pub(crate) fn record(&self) -> usize {
        // The place was a usize when it was packed.
        (self.record_and_hash >> 24) as usize
    }

    pub(crate) fn local(&self) -> u64 {
        self.local_and_flags >> 16
    }

    pub(crate) fn flags(&self) -> u16 {
        (self.local_and_flags & 0xffff) as u16
    }

    pub(crate) fn has_hash(&self, hash: u64) -> bool {
        self.record_and_hash & 0xff_ffff == kept_bits(hash)
    }

    /// The key in its record, as the directory is now.
    #[inline]
    pub(crate) fn key_in_record<'a>(&self, records: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let (record, _) = CentralRecord::read(records, self.record())?;
        name::key(record.name, record.header.flags.get(), self.has_whole_name())
    }

    /// The key in its local header, as the file is now.
    pub(crate) fn key_in_local<'a>(&self, window: Window<'a>) -> Result<Option<Cow<'a, [u8]>>, Missing> {
        let Some(header) = LocalHeader::find(window, self.local())? else { return Ok(None) };
        let start = self.local() + LocalHeader::SIZE as u64;
        let raw = window.get(start..start + u64::from(header.name_len.get()))?;
        Ok(raw.and_then(|raw| name::key(raw, header.flags.get(), self.has_whole_name())))
    }

    /// The key, as far as it was fetched. Another program may have overwritten the record since, so it counts
    /// only if it has the hash.
    pub(crate) fn key<'a>(
        &self,
        window: Window<'a>,
        records: &'a [u8],
        hasher: &RandomState,
    ) -> Option<Cow<'a, [u8]>> {
        let listed = self.key_in_record(records).filter(|key| self.has_hash(hash_of(hasher, key)));
        listed.or_else(|| self.key_in_local(window).ok()?)
    }

    /// Whether its local header has this key.
    pub(crate) fn is_in_local(&self, window: Window<'_>, key: &[u8]) -> Result<bool, Missing> {
        Ok(self.key_in_local(window)?.is_some_and(|other| *other == *key))
    }
}

/// The bits of a hash that an entry keeps. The table chooses the place by other bits.
fn kept_bits(hash: u64) -> u64 {
    (hash >> 32) & 0xff_ffff
}

#[inline]
pub(crate) fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(key);
    state.finish()
}

/// Entries in archive order, and a table from the hash of a key to the number of an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entries {
    pub(crate) list: Vec<Entry>,
    table: HashTable<u32>,
}

impl Entries {
    /// Asks for memory for this many entries. Without it, both grow with the entries that are there.
    pub(crate) fn reserve(&mut self, count: usize) {
        let _ = self.list.try_reserve_exact(count);
        let _ = self.table.try_reserve(count, |_| 0);
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        self.list.shrink_to_fit();
    }

    /// Bytes of memory that this takes.
    pub(crate) fn memory(&self) -> usize {
        self.list.capacity() * size_of::<Entry>() + self.table.allocation_size()
    }

    /// Puts an entry with this key in: in the place of one that has the same key, or behind all others.
    /// `hash` is that of the key.
    #[inline]
    pub(crate) fn put<'a>(
        &mut self,
        hasher: &RandomState,
        hash: u64,
        key: &[u8],
        entry: Entry,
        key_of: impl Fn(&Entry) -> Option<Cow<'a, [u8]>>,
    ) -> Result2<()> {
        let number = u32::try_from(self.list.len()).map_err(|_| ErrorKind::TooManyMembers)?;
        let entries = &self.list;
        let same = |&id: &u32| {
            let entry = &entries[id as usize];
            entry.has_hash(hash) && key_of(entry).is_some_and(|other| *other == *key)
        };
        let rehash = |&id: &u32| key_of(&entries[id as usize]).map_or(0, |key| hash_of(hasher, &key));
        match self.table.entry(hash, same, rehash) {
            Slot::Occupied(slot) => {
                let id = *slot.get() as usize;
                self.list[id] = entry;
            }
            Slot::Vacant(slot) => {
                slot.insert(number);
                self.list.push(entry);
            }
        }
        Ok(())
    }

    /// Removes the entries that do not count, and renumbers the others.
    pub(crate) fn drop_gone<'a>(
        &mut self,
        hasher: &RandomState,
        key_of: impl Fn(&Entry) -> Option<Cow<'a, [u8]>>,
    ) {
        self.list.retain(|entry| !entry.is_gone());
        self.table.clear();
        let entries = &self.list;
        let rehash = |&id: &u32| key_of(&entries[id as usize]).map_or(0, |key| hash_of(hasher, &key));
        for id in (0..).take(entries.len()) {
            self.table.insert_unique(rehash(&id), id, rehash);
        }
    }

    /// The number of the entry with this hash for which `is_it` is true.
    #[inline]
    pub(crate) fn find(
        &self,
        hash: u64,
        is_it: impl Fn(&Entry) -> Result<bool, Missing>,
    ) -> Result<Option<u32>, Missing> {
        let mut missing = None;
        let same = |&id: &u32| {
            let entry = &self.list[id as usize];
            entry.has_hash(hash)
                && is_it(entry).unwrap_or_else(|range| {
                    // Stops here: the other entries are looked at once this range was fetched.
                    missing = Some(range);
                    true
                })
        };
        let found = self.table.find(hash, same).copied();
        missing.map_or(Ok(found), Err)
    }
}
