//! The walked index: an index in memory, from a name to a member, which a walk through the central directory
//! makes.
//!
//! Of two members with one name, the last one counts, as for Python's `zipfile`, so that NumPy and mmnpz see
//! the same members.
//!
//! The index holds only numbers: 24 bytes a member, 24 more if it is compressed, and a table of hashes. Names
//! stay in the archive. The numbers that a reader needs for a member, such as the place of its local header
//! and its sizes, are copied when the index is built. So a program that overwrites the directory later, as
//! every zip tool does when it appends, cannot lead a reader astray. A name that is no longer in the
//! directory is looked for in the local header of the member.

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::bytes::touch;
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::recover::survey::Survey;
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::name;
use crate::zip::records::{CentralHeader, Extent, LocalHeader, Record, STORED, flags};

/// The index asks for memory for up to this many members because the end record counts them. For more
/// members, it asks when it finds them.
const TRUSTED_COUNT: usize = 1 << 22;

/// The index asks the caller whether to go on every time it has read this many members.
const POLL_INTERVAL: usize = 1 << 16;

/// What the index keeps of a member. The two packed numbers leave 40 bits for a place in the directory (a
/// terabyte) and 48 bits for a place in the file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Place in the directory << 24 | 24 bits of the name's hash.
    record_and_hash: u64,
    /// Offset of the local header << 16 | general-purpose flags.
    local_and_flags: u64,
    /// Bytes in the file that may be read. Of a compressed member, [`COMPRESSED`] and its number among those.
    size: u64,
}

/// Marks the size of a compressed member. No file is so long.
const COMPRESSED: u64 = 1 << 63;

/// The number of a member that is not compressed, among those that are.
const STORED_ONE: u32 = u32::MAX;

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
    /// That of a record of the directory, unless its member is stored.
    fn of(record: &CentralRecord<'_>) -> Result2<Option<Self>> {
        let method = record.header.method.get();
        if method == STORED {
            return Ok(None);
        }
        let extent = Extent::read(record.header, record.extra)?;
        let (size, stored) = (extent.uncompressed, extent.compressed);
        Ok(Some(Compressed { method, size, crc: record.header.crc.get(), stored }))
    }
}

/// The place in the directory of a member that the directory does not list.
const NO_RECORD: u64 = (1 << 40) - 1;

/// The offset of a local header that is not inside the file.
const NOWHERE: u64 = (1 << 48) - 1;

/// The size of an entry that does not count, as its member is left out.
const GONE: u64 = u64::MAX;

impl Entry {
    /// The entry of a record of the directory.
    fn of(file_len: u64, record: &CentralRecord<'_>, prefix_len: i64, hash: u64) -> Result2<Self> {
        let extent = Extent::read(record.header, record.extra)?;
        let local = i64::try_from(extent.local_offset)
            .ok()
            .and_then(|offset| offset.checked_add(prefix_len))
            .and_then(|offset| u64::try_from(offset).ok())
            .filter(|&offset| offset < NOWHERE && offset < file_len)
            .unwrap_or(NOWHERE);
        Ok(Entry {
            record_and_hash: (record.at as u64) << 24 | kept_bits(hash),
            local_and_flags: local << 16 | u64::from(record.header.flags.get()),
            // No file is so long.
            size: extent.compressed.min(extent.uncompressed).min(COMPRESSED - 1),
        })
    }

    /// The number of a compressed member among those.
    fn compressed(&self) -> Option<usize> {
        (self.size & COMPRESSED != 0).then_some((self.size & !COMPRESSED) as usize)
    }

    fn record(&self) -> usize {
        // The place was a usize when it was packed.
        (self.record_and_hash >> 24) as usize
    }

    fn local(&self) -> u64 {
        self.local_and_flags >> 16
    }

    fn flags(&self) -> u16 {
        (self.local_and_flags & 0xffff) as u16
    }

    fn has_hash(&self, hash: u64) -> bool {
        self.record_and_hash & 0xff_ffff == kept_bits(hash)
    }
}

/// The bits of a hash that an entry keeps. The table chooses the place by other bits.
fn kept_bits(hash: u64) -> u64 {
    (hash >> 32) & 0xff_ffff
}

/// The number of a member: its position in archive order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

/// The members of an archive by name and in order.
#[derive(Debug, Clone)]
pub struct WalkedIndex {
    directory: DirectoryLocation,
    entries: Vec<Entry>,
    compressed: Vec<Compressed>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl WalkedIndex {
    /// The directory that it was made of.
    pub(crate) fn directory(&self) -> &DirectoryLocation {
        &self.directory
    }

    /// Walks the central directory at `directory` and indexes the arrays.
    ///
    /// Asks `keep_going` every 65,536 members.
    ///
    /// # Errors
    /// If the directory has bytes that are no record; [`ErrorKind::Interrupted`] and [`ErrorKind::Missing`].
    pub fn build(
        window: Window<'_>,
        directory: DirectoryLocation,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let records = directory.records(window)?;
        if records.len() as u64 >= 1 << 40 {
            return Err(ErrorKind::TooManyMembers.into());
        }
        let most = records.len() / CentralHeader::SIZE;
        let count = usize::try_from(directory.count).unwrap_or(most).min(most).min(TRUSTED_COUNT);
        let mut index = WalkedIndex {
            directory,
            entries: Vec::new(),
            compressed: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::default(),
        };
        // If there is no memory for the count that the archive claims, both grow with the members that are
        // there.
        let _ = index.entries.try_reserve_exact(count);
        let _ = index.table.try_reserve(count, |_| 0);
        let mut walk = Walk::new(records);
        for (number, record) in walk.by_ref().enumerate() {
            if let Err(kind) = index.add(window.len(), records, &record) {
                return Err(index.error_at(kind, &record));
            }
            if number % POLL_INTERVAL == POLL_INTERVAL - 1 && !keep_going() {
                return Err(ErrorKind::Interrupted.into());
            }
        }
        walk.finish().map_err(|error| at_directory(error, &index.directory))?;
        index.entries.shrink_to_fit();
        index.compressed.shrink_to_fit();
        Ok(index)
    }

    /// Indexes the arrays of a file, from its survey: those in its directory, and those that a
    /// recovery scan found.
    ///
    /// # Errors
    /// As for [`WalkedIndex::build`].
    pub fn of_survey(window: Window<'_>, survey: &Survey, keep_going: impl FnMut() -> bool) -> Result<Self> {
        let directory = survey.location().cloned().unwrap_or_else(DirectoryLocation::none);
        let mut index = Self::build(window, directory, keep_going)?;
        for member in &survey.found {
            let Ok(Some(name)) = name::array_name(member.name(window)?, member.flags) else { continue };
            let hash = index.hash(&name);
            let entry = Entry {
                record_and_hash: NO_RECORD << 24 | kept_bits(hash),
                local_and_flags: member.header.min(NOWHERE) << 16 | u64::from(member.flags),
                size: member.end - member.file,
            };
            let number = u32::try_from(index.entries.len()).map_err(|_| ErrorKind::TooManyMembers)?;
            let records = index.directory.records(window)?;
            let (entries, hasher) = (&index.entries, &index.hasher);
            let missing = Cell::new(None);
            let name_of = |id: u32| {
                let entry = &entries[id as usize];
                record_name(records, entry).or_else(|| {
                    local_name(window, entry).unwrap_or_else(|range| {
                        missing.set(Some(range));
                        None
                    })
                })
            };
            let same = |&id: &u32| {
                entries[id as usize].has_hash(hash) && name_of(id).is_some_and(|other| other == name)
            };
            let rehash = |&id: &u32| name_of(id).map_or(0, |name| hash_of(hasher, &name));
            match index.table.entry(hash, same, rehash) {
                Slot::Occupied(slot) => index.entries[*slot.get() as usize] = entry,
                Slot::Vacant(slot) => {
                    slot.insert(number);
                    index.entries.push(entry);
                }
            }
            if let Some(missing) = missing.take() {
                return Err(missing.into());
            }
        }
        Ok(index)
    }

    #[cold]
    fn error_at(&self, kind: ErrorKind, record: &CentralRecord<'_>) -> Error {
        Error::at(kind, self.directory.range.start + record.at as u64).in_member(&record.shown_name())
    }

    /// Adds a record.
    fn add(&mut self, file_len: u64, records: &[u8], record: &CentralRecord<'_>) -> Result2<()> {
        let Some(name) = record.array_name().map_err(|_| ErrorKind::NameEncoding)? else {
            return Ok(());
        };
        let hash = self.hash(&name);
        let mut entry = Entry::of(file_len, record, self.directory.prefix_len, hash)?;
        if let Some(compressed) = Compressed::of(record)? {
            entry.size = COMPRESSED | self.compressed.len() as u64;
            self.compressed.push(compressed);
        }
        let number = u32::try_from(self.entries.len()).map_err(|_| ErrorKind::TooManyMembers)?;
        let (entries, hasher) = (&self.entries, &self.hasher);
        let same = |&id: &u32| {
            let entry = &entries[id as usize];
            entry.has_hash(hash) && record_name(records, entry).is_some_and(|other| other == name)
        };
        let rehash =
            |&id: &u32| record_name(records, &entries[id as usize]).map_or(0, |name| hash_of(hasher, &name));
        match self.table.entry(hash, same, rehash) {
            Slot::Occupied(slot) => self.entries[*slot.get() as usize] = entry,
            Slot::Vacant(slot) => {
                slot.insert(number);
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    /// Removes these members, and renumbers the others.
    ///
    /// # Errors
    /// If the directory was not fetched.
    pub fn leave_out(&mut self, window: Window<'_>, ids: &[MemberId]) -> Result<()> {
        for id in ids {
            if let Some(entry) = self.entries.get_mut(id.0 as usize) {
                entry.size = GONE;
            }
        }
        let records = self.directory.records(window)?;
        self.drop_gone(window, records);
        Ok(())
    }

    /// Removes the entries that do not count, and renumbers the others.
    fn drop_gone(&mut self, window: Window<'_>, records: &[u8]) {
        self.entries.retain(|entry| entry.size != GONE);
        self.table.clear();
        let (entries, hasher) = (&self.entries, &self.hasher);
        let name_of = |entry| record_name(records, entry).or_else(|| local_name(window, entry).ok()?);
        let rehash = |&id: &u32| name_of(&entries[id as usize]).map_or(0, |name| hash_of(hasher, &name));
        for id in (0..).take(entries.len()) {
            self.table.insert_unique(rehash(&id), id, rehash);
        }
    }

    fn hash(&self, name: &[u8]) -> u64 {
        hash_of(&self.hasher, name)
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All members, in archive order.
    pub fn ids(&self) -> impl Iterator<Item = MemberId> + use<> {
        // Less than 2**32, which was checked when the index was built.
        (0..self.entries.len() as u32).map(MemberId)
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        let entries = self.entries.capacity() * size_of::<Entry>();
        entries + self.compressed.capacity() * size_of::<Compressed>() + self.table.allocation_size()
    }

    /// Finds the array of this name. Touches the directory rather than the member.
    ///
    /// # Errors
    /// If bytes that the lookup needs were not fetched.
    pub fn find_again(&self, window: Window<'_>, name: &str) -> Result<Option<MemberId>, Missing> {
        let name = name.as_bytes();
        self.find_by(name, |entry| {
            Ok(self.in_directory(window, entry, name)? || in_local(window, entry, name)?)
        })
    }

    /// Whether there is an array of this name.
    ///
    /// # Errors
    /// As for [`WalkedIndex::find_again`].
    pub fn contains(&self, window: Window<'_>, name: &str) -> Result<bool, Missing> {
        Ok(self.find_again(window, name)?.is_some())
    }

    /// Finds the array of this name, for a caller that then reads it. Touches the member rather than the
    /// directory.
    ///
    /// # Errors
    /// As for [`WalkedIndex::find_again`].
    pub fn find(&self, window: Window<'_>, name: &str) -> Result<Option<MemberId>, Missing> {
        let name = name.as_bytes();
        self.find_by(name, |entry| {
            fetch_headers(window, entry.local());
            Ok(in_local(window, entry, name)? || self.in_directory(window, entry, name)?)
        })
    }

    #[inline]
    fn find_by(
        &self,
        name: &[u8],
        is_it: impl Fn(&Entry) -> Result<bool, Missing>,
    ) -> Result<Option<MemberId>, Missing> {
        let hash = self.hash(name);
        let mut missing = None;
        let same = |&id: &u32| {
            let entry = &self.entries[id as usize];
            entry.has_hash(hash)
                && is_it(entry).unwrap_or_else(|range| {
                    // Stops here: the other entries are looked at once this range was fetched.
                    missing = Some(range);
                    true
                })
        };
        let found = self.table.find(hash, same).copied().map(MemberId);
        missing.map_or(Ok(found), Err)
    }

    /// Where the local header of the member is that had this name, if another program has renamed it since.
    ///
    /// # Errors
    /// As for [`WalkedIndex::find_again`].
    pub fn renamed(&self, window: Window<'_>, name: &str) -> Result<Option<u64>, Missing> {
        let records = self.records(window)?;
        let is_own = |entry: &Entry, other: Option<Cow<'_, [u8]>>| {
            other.is_some_and(|other| entry.has_hash(self.hash(&other)))
        };
        let is_other = |entry: &Entry| {
            Ok(!is_own(entry, record_name(records, entry)) && !is_own(entry, local_name(window, entry)?))
        };
        let found = self.find_by(name.as_bytes(), is_other)?;
        Ok(found.map(|id| self.entries[id.0 as usize].local()))
    }

    fn in_directory(&self, window: Window<'_>, entry: &Entry, name: &[u8]) -> Result<bool, Missing> {
        Ok(record_name(self.records(window)?, entry).is_some_and(|other| other == name))
    }

    /// The records of the directory. None if the file has become shorter.
    fn records<'a>(&self, window: Window<'a>) -> Result<&'a [u8], Missing> {
        Ok(window.get(self.directory.range.clone())?.unwrap_or_default())
    }

    /// The name of a member: from the directory, or from its local header if the directory was overwritten.
    ///
    /// The name is copied before it is compared: a writer can overwrite the directory at any moment, and the
    /// bytes are then not even text.
    ///
    /// # Errors
    /// [`ErrorKind::NamesDiffer`] if neither has the name any more, and [`ErrorKind::Missing`].
    pub fn name(&self, window: Window<'_>, id: MemberId) -> Result<String> {
        let entry = &self.entries[id.0 as usize];
        let copied = |name: Option<Cow<'_, [u8]>>| {
            let name = name?.into_owned();
            entry.has_hash(self.hash(&name)).then_some(name).and_then(|name| String::from_utf8(name).ok())
        };
        if let Some(name) = copied(record_name(self.directory.records(window)?, entry)) {
            return Ok(name);
        }
        copied(local_name(window, entry)?).ok_or_else(|| Error::at(ErrorKind::NamesDiffer, entry.local()))
    }

    /// The member with this number.
    pub fn get(&self, id: MemberId) -> Option<Member> {
        self.entries.get(id.0 as usize).map(|entry| self.member_of(id, *entry))
    }

    fn member_of(&self, id: MemberId, mut entry: Entry) -> Member {
        let number = entry.compressed();
        if let Some(compressed) = number.and_then(|number| self.compressed.get(number)) {
            entry.size = compressed.stored;
        }
        // There are no more compressed members than members.
        Member { id, compressed: number.map_or(STORED_ONE, |number| number as u32), entry }
    }

    /// Whether any member is compressed.
    pub(crate) fn has_compressed(&self) -> bool {
        !self.compressed.is_empty()
    }

    /// What tells how to decompress a member, if it is compressed.
    pub(crate) fn compressed(&self, member: &Member) -> Option<&Compressed> {
        self.compressed.get(member.compressed as usize)
    }

    /// The stored bytes of the member `id`, see [`Member::file`].
    ///
    /// # Errors
    /// Those of [`Member::file`].
    pub fn member(&self, window: Window<'_>, id: MemberId, name: &str) -> Result<Range<u64>> {
        self.member_of(id, self.entries[id.0 as usize]).file(window, name)
    }

    /// The index without the directory: names are then looked for in the local headers only.
    pub(crate) fn without_directory(mut self) -> Self {
        self.directory = DirectoryLocation::none();
        for entry in &mut self.entries {
            entry.record_and_hash |= NO_RECORD << 24;
        }
        self
    }
}

/// A member, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// The number of the member.
    pub id: MemberId,
    /// Its number among the compressed members of the index.
    compressed: u32,
    entry: Entry,
}

impl Member {
    /// The member of a record of the directory, if it is stored without compression.
    pub(crate) fn of(
        file_len: u64,
        record: &CentralRecord<'_>,
        prefix_len: i64,
        number: u32,
    ) -> Option<Self> {
        let entry = Entry::of(file_len, record, prefix_len, 0).ok()?;
        let is_stored = record.header.method.get() == STORED;
        is_stored.then_some(Member { id: MemberId(number), compressed: STORED_ONE, entry })
    }

    /// The member with another number.
    pub(crate) fn numbered(self, id: MemberId) -> Self {
        Member { id, ..self }
    }

    /// Where its record starts in the directory. None if the directory does not list it.
    pub(crate) fn record(&self) -> Option<usize> {
        (self.entry.record() != NO_RECORD as usize).then_some(self.entry.record())
    }

    /// Whether its bytes in the file are compressed.
    pub fn is_compressed(&self) -> bool {
        self.compressed != STORED_ONE
    }

    /// Where its local header is, and how many bytes it has in the file.
    pub fn extent(&self) -> (u64, u64) {
        (self.entry.local(), self.entry.size)
    }

    /// Checks that the member can be read at all.
    ///
    /// # Errors
    /// If it is encrypted, or its local header is not inside the file.
    pub(crate) fn check(&self) -> Result<()> {
        if self.entry.flags() & (flags::ENCRYPTED | flags::STRONG_ENCRYPTION) != 0 {
            return Err(ErrorKind::Encrypted.into());
        }
        if self.entry.flags() & flags::PATCHED != 0 {
            return Err(ErrorKind::Patched.into());
        }
        if self.entry.local() == NOWHERE {
            return Err(ErrorKind::LocalOutside.into());
        }
        Ok(())
    }

    /// The CRC-32 that its local header has.
    ///
    /// # Errors
    /// If there is no such header where the directory has it, and [`ErrorKind::Missing`].
    pub fn local_checksum(&self, window: Window<'_>) -> Result<u32> {
        Ok(LocalHeader::read(window, self.entry.local(), ErrorKind::LocalOutside)?.crc.get())
    }

    /// The range of its bytes in the file, which are one `.npy` file, compressed or not. Its name must be
    /// `name`.
    ///
    /// # Errors
    /// If its local header is not where the directory says, or does not have this name; if its bytes reach
    /// past the end of the file; if it is encrypted; and [`ErrorKind::Missing`].
    pub fn file(&self, window: Window<'_>, name: &str) -> Result<Range<u64>> {
        self.check()?;
        let entry = &self.entry;
        let header = LocalHeader::read(window, entry.local(), ErrorKind::LocalOutside)?;
        if !in_local(window, entry, name.as_bytes())? {
            return Err(Error::at(ErrorKind::NamesDiffer, entry.local()));
        }
        let head =
            LocalHeader::SIZE as u64 + u64::from(header.name_len.get()) + u64::from(header.extra_len.get());
        let start = entry.local() + head;
        let end = start.checked_add(entry.size).filter(|&end| end <= window.len());
        match end {
            Some(end) => Ok(start..end),
            None => Err(Error::at(ErrorKind::DataOutside { size: entry.size }, start)),
        }
    }
}

type Result2<T> = std::result::Result<T, ErrorKind>;

fn hash_of(hasher: &RandomState, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(name);
    state.finish()
}

/// The name in the record of an entry, as the directory is now.
fn record_name<'a>(records: &'a [u8], entry: &Entry) -> Option<Cow<'a, [u8]>> {
    CentralRecord::read(records, entry.record())?.0.array_name().ok()?
}

/// The stored name and the flags in the local header of an entry, as the file is now.
fn local_raw_name<'a>(window: Window<'a>, entry: &Entry) -> Result<Option<(&'a [u8], u16)>, Missing> {
    let Some(header) = LocalHeader::find(window, entry.local())? else { return Ok(None) };
    let start = entry.local() + LocalHeader::SIZE as u64;
    let raw = window.get(start..start + u64::from(header.name_len.get()))?;
    Ok(raw.map(|raw| (raw, header.flags.get())))
}

fn local_name<'a>(window: Window<'a>, entry: &Entry) -> Result<Option<Cow<'a, [u8]>>, Missing> {
    let raw = local_raw_name(window, entry)?;
    Ok(raw.and_then(|(raw, flag_bits)| name::array_name(raw, flag_bits).ok()?))
}

fn in_local(window: Window<'_>, entry: &Entry, name: &[u8]) -> Result<bool, Missing> {
    let raw = local_raw_name(window, entry)?;
    Ok(raw.is_some_and(|(raw, flag_bits)| name::is_array_name(raw, flag_bits, name)))
}

/// Brings the local header and the `.npy` header of a member into the cache of the processor, in one wait
/// instead of one for each. Skips bytes that were not fetched.
fn fetch_headers(window: Window<'_>, local: u64) {
    let bytes = window.get_inside(local..local.saturating_add(256)).unwrap_or_default();
    touch(bytes.iter().step_by(64).copied());
}

/// Makes the offset of an error, which the walk counts from the start of the directory, a place in the file.
fn at_directory(error: Error, directory: &DirectoryLocation) -> Error {
    Error { offset: error.offset.map(|offset| offset + directory.range.start), ..error }
}
