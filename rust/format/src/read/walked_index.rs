//! From the bytes of an archive to its members: the end record, the central directory, the name table.
//!
//! Where archives can be read in two ways, this follows Python's `zipfile`, so that NumPy and we see the same
//! members: the last end record counts, the directory ends where its end record starts (which shows how many
//! bytes stand in front of the archive), and of two members with one name the last wins.
//!
//! An index holds numbers only, 24 bytes a member and a table of their hashes; names stay in the archive.
//! What a member is read from (its local header's place, its stored size) was copied when the index was
//! built, so that a directory overwritten later, as every zip tool does when it appends, cannot lead a reader
//! astray: a name that is no longer in the directory is looked for in the member's own local header.

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

/// Memory for this many members is taken on the word of the end record, if there is as much; for more, only
/// as they are found.
const TRUSTED_COUNT: usize = 1 << 22;

/// The caller is asked whether to go on each time this many members have been read.
const POLL_INTERVAL: usize = 1 << 16;

/// What the index keeps of a member. The two packed numbers leave 40 bits for a place in the directory (a
/// terabyte) and 48 bits for a place in the file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Place in the directory << 24 | 24 bits of the name's hash.
    record_and_hash: u64,
    /// Offset of the local header << 16 | general-purpose flags.
    local_and_flags: u64,
    /// Stored bytes that may be read.
    size: u64,
}

/// The place in the directory of a member that is not in it.
const NO_RECORD: u64 = (1 << 40) - 1;

/// The offset of a local header that is not inside the file.
const NOWHERE: u64 = (1 << 48) - 1;

/// The size of an entry whose name was taken by a later member that is not listed.
const GONE: u64 = u64::MAX;

impl Entry {
    /// What a record of the directory says.
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
            // GONE is beyond any file.
            size: extent.compressed.min(extent.uncompressed).min(GONE - 1),
        })
    }

    fn record(&self) -> usize {
        // Was a usize before it was packed.
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

/// The bits of a hash that an entry keeps: others than those that chose its place in the table.
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
    table: HashTable<u32>,
    hasher: RandomState,
}

impl WalkedIndex {
    /// Walks the central directory at `directory` and indexes the stored arrays.
    ///
    /// `keep_going` is asked every 65,536 members whether to.
    ///
    /// # Errors
    /// If a record is not one, [`ErrorKind::Interrupted`] and [`ErrorKind::Missing`].
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
            table: HashTable::new(),
            hasher: RandomState::default(),
        };
        // What was claimed and cannot be had is not needed either: both grow with the members that are there.
        let _ = index.entries.try_reserve_exact(count);
        let _ = index.table.try_reserve(count, |_| 0);
        let mut gone = false;
        let mut walk = Walk::new(records);
        for (number, record) in walk.by_ref().enumerate() {
            match index.add(window.len(), records, &record) {
                Ok(took_a_name) => gone |= took_a_name,
                Err(kind) => return Err(index.error_at(kind, &record)),
            }
            if number % POLL_INTERVAL == POLL_INTERVAL - 1 && !keep_going() {
                return Err(ErrorKind::Interrupted.into());
            }
        }
        walk.finish().map_err(|error| at_directory(error, &index.directory))?;
        if gone {
            index.drop_gone(records);
        }
        index.entries.shrink_to_fit();
        Ok(index)
    }

    /// Indexes the stored arrays of a file that was surveyed: those of its directory, and those that were
    /// found.
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

    /// Takes up a record; says whether it took the name of an earlier member without being listed itself.
    fn add(&mut self, file_len: u64, records: &[u8], record: &CentralRecord<'_>) -> Result2<bool> {
        let Some(name) = record.array_name().map_err(|_| ErrorKind::NameEncoding)? else {
            return Ok(false);
        };
        let listed = record.header.method.get() == STORED;
        let hash = self.hash(&name);
        let entry = Entry::of(file_len, record, self.directory.prefix_len, hash)?;
        let number = u32::try_from(self.entries.len()).map_err(|_| ErrorKind::TooManyMembers)?;
        let (entries, hasher) = (&self.entries, &self.hasher);
        let same = |&id: &u32| {
            let entry = &entries[id as usize];
            entry.has_hash(hash) && record_name(records, entry).is_some_and(|other| other == name)
        };
        let rehash =
            |&id: &u32| record_name(records, &entries[id as usize]).map_or(0, |name| hash_of(hasher, &name));
        match self.table.entry(hash, same, rehash) {
            Slot::Occupied(slot) if listed => self.entries[*slot.get() as usize] = entry,
            Slot::Occupied(slot) => {
                let (id, _) = slot.remove();
                self.entries[id as usize].size = GONE;
                return Ok(true);
            }
            Slot::Vacant(slot) if listed => {
                slot.insert(number);
                self.entries.push(entry);
            }
            Slot::Vacant(_) => {}
        }
        Ok(false)
    }

    /// Removes the entries that a later, unlisted member replaced, and numbers the others anew.
    fn drop_gone(&mut self, records: &[u8]) {
        self.entries.retain(|entry| entry.size != GONE);
        self.table.clear();
        let (entries, hasher) = (&self.entries, &self.hasher);
        let rehash =
            |&id: &u32| record_name(records, &entries[id as usize]).map_or(0, |name| hash_of(hasher, &name));
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
        // Checked when the index was built: there are less than 2**32.
        (0..self.entries.len() as u32).map(MemberId)
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.table.allocation_size()
    }

    /// The array of this name. Touches the directory rather than the member.
    ///
    /// # Errors
    /// If the bytes that tell were not fetched; so in all that follows.
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

    /// The array of this name. Touches the member, which is going to be read, rather than the directory.
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
                    // Nothing is said of the others before this was fetched.
                    missing = Some(range);
                    true
                })
        };
        let found = self.table.find(hash, same).copied().map(MemberId);
        missing.map_or(Ok(found), Err)
    }

    /// Where a member is that was of this name, if what was found to be of none is because that has another
    /// name now.
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

    /// The records of the directory; none where the file has become shorter.
    fn records<'a>(&self, window: Window<'a>) -> Result<&'a [u8], Missing> {
        Ok(window.get(self.directory.range.clone())?.unwrap_or_default())
    }

    /// The name of a member: from the directory, or from its local header if the directory was overwritten.
    ///
    /// It is copied before it is compared: a writer can overwrite the directory at any moment, and what is
    /// not the name any more need not be text either.
    ///
    /// # Errors
    /// [`ErrorKind::NamesDiffer`] if neither has the name that was indexed, and [`ErrorKind::Missing`].
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
        Some(Member { id, entry: *self.entries.get(id.0 as usize)? })
    }

    /// The stored bytes of the member `id`, see [`Member::file`].
    ///
    /// # Errors
    /// Those.
    pub fn member(&self, window: Window<'_>, id: MemberId, name: &str) -> Result<Range<u64>> {
        Member { id, entry: self.entries[id.0 as usize] }.file(window, name)
    }

    /// The index of an archive whose directory is in other bytes than those of the archive.
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
    /// Its number.
    pub id: MemberId,
    entry: Entry,
}

impl Member {
    /// The member of a record of the directory that is a stored array.
    pub(crate) fn of(
        file_len: u64,
        record: &CentralRecord<'_>,
        prefix_len: i64,
        number: u32,
    ) -> Option<Self> {
        let entry = Entry::of(file_len, record, prefix_len, 0).ok()?;
        (record.header.method.get() == STORED).then_some(Member { id: MemberId(number), entry })
    }

    /// The member with another number.
    pub(crate) fn numbered(self, id: MemberId) -> Self {
        Member { id, ..self }
    }

    /// Where its record starts in the directory, unless none lists it.
    pub(crate) fn record(&self) -> Option<usize> {
        (self.entry.record() != NO_RECORD as usize).then_some(self.entry.record())
    }

    /// Where its local header is, and how many bytes are stored.
    pub fn extent(&self) -> (u64, u64) {
        (self.entry.local(), self.entry.size)
    }

    /// Whether it can be read at all.
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

    /// Its stored bytes, if its name is `name`: one `.npy` file.
    ///
    /// # Errors
    /// If its local header is not where the directory has it, does not have its name, or gives it bytes that
    /// the file does not have; for encrypted members; and [`ErrorKind::Missing`].
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

/// The name that an entry's record in the directory has now.
fn record_name<'a>(records: &'a [u8], entry: &Entry) -> Option<Cow<'a, [u8]>> {
    CentralRecord::read(records, entry.record())?.0.array_name().ok()?
}

/// The name, as stored, and the flags that an entry's local header has now.
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
/// instead of one for each. What was not fetched is not waited for.
fn fetch_headers(window: Window<'_>, local: u64) {
    let bytes = window.get_inside(local..local.saturating_add(256)).unwrap_or_default();
    touch(bytes.iter().step_by(64).copied());
}

/// Errors of the walk count from the start of the directory; users want a place in the file.
fn at_directory(error: Error, directory: &DirectoryLocation) -> Error {
    Error { offset: error.offset.map(|offset| offset + directory.range.start), ..error }
}
