//! The walked index: an index in memory, from a name to a member, which a walk through the central directory
//! makes.
//!
//! Of two members with one name, the last one counts, as for Python's `zipfile`, so that NumPy and mmnpz see
//! the same members.
//!
//! Arrays are the members whose names end in `.npy`. The other members are found by their whole names, and
//! are not listed. If one of them has the name under which an array is listed, that name leads to it, as
//! NumPy has it, and the array is found by its whole name.
//!
//! The index holds only numbers: 24 bytes a member, 24 more if it is compressed, and a table of hashes. Names
//! stay in the archive. The numbers that a reader needs for a member, such as the place of its local header
//! and its sizes, are copied when the index is built. So a program that overwrites the directory later, as
//! every zip tool does when it appends, cannot lead a reader astray. A name that is no longer in the
//! directory is looked for in the local header of the member.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::bytes::touch;
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::read::entry::{Compressed, Entries, Entry, NO_RECORD, NOWHERE, Result2, STORED_ONE, hash_of};
use crate::recover::survey::Survey;
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::name;
use crate::zip::records::{CentralHeader, DATA_DESCRIPTOR, LocalHeader, Record, STORED, flags};

/// The index asks for memory for up to this many members because the end record counts them. For more
/// members, it asks when it finds them.
const TRUSTED_COUNT: usize = 1 << 22;

/// The index asks the caller whether to go on every time it has read this many members.
const POLL_INTERVAL: usize = 1 << 16;

/// The number of a member. That of an array is its position in archive order; those of other members follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

/// The members of an archive by name and in order.
#[derive(Debug, Clone)]
pub struct WalkedIndex {
    directory: DirectoryLocation,
    arrays: Entries,
    /// The other members.
    others: Entries,
    compressed: Vec<Compressed>,
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
        keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        Self::walk(window, directory, keep_going)?.finished(window)
    }

    fn finished(mut self, window: Window<'_>) -> Result<Self> {
        self.let_whole_names_win(window)?;
        self.arrays.shrink_to_fit();
        self.others.shrink_to_fit();
        self.compressed.shrink_to_fit();
        Ok(self)
    }

    fn walk(
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
            arrays: Entries::default(),
            others: Entries::default(),
            compressed: Vec::new(),
            hasher: RandomState::default(),
        };
        // There may be no memory for the count that the archive claims.
        index.arrays.reserve(count);
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
        Ok(index)
    }

    /// Indexes the arrays of a file, from its survey: those in its directory, and those that a
    /// recovery scan found.
    ///
    /// # Errors
    /// As for [`WalkedIndex::build`].
    pub fn of_survey(window: Window<'_>, survey: &Survey, keep_going: impl FnMut() -> bool) -> Result<Self> {
        let directory = survey.location().cloned().unwrap_or_else(DirectoryLocation::none);
        let mut index = Self::walk(window, directory, keep_going)?;
        for member in &survey.found {
            let Ok(Some(name)) = name::array_name(member.name(window)?, member.flags) else { continue };
            let hash = index.hash(&name);
            let size = member.end - member.file;
            let entry = Entry::new(NO_RECORD, hash, member.header, member.flags, size);
            let records = index.directory.records(window)?;
            let missing = Cell::new(None);
            let key_of = |entry: &Entry| {
                entry.key_in_record(records).or_else(|| {
                    entry.key_in_local(window).unwrap_or_else(|range| {
                        missing.set(Some(range));
                        None
                    })
                })
            };
            index.arrays.put(&index.hasher, hash, &name, entry, key_of)?;
            if let Some(missing) = missing.take() {
                return Err(missing.into());
            }
        }
        index.finished(window)
    }

    #[cold]
    fn error_at(&self, kind: ErrorKind, record: &CentralRecord<'_>) -> Error {
        Error::at(kind, self.directory.range.start + record.at as u64).in_member(&record.shown_name())
    }

    /// Adds a record.
    fn add(&mut self, file_len: u64, records: &[u8], record: &CentralRecord<'_>) -> Result2<()> {
        let name = record.array_name().map_err(|_| ErrorKind::NameEncoding)?;
        let Some(name) = name else {
            self.add_other(file_len, records, record);
            return Ok(());
        };
        let hash = self.hash(&name);
        let mut entry = Entry::of(file_len, record, self.directory.prefix_len, hash)?;
        if record.header.method.get() != STORED {
            self.set_compressed(&mut entry, record)?;
        }
        self.arrays.put(&self.hasher, hash, &name, entry, |entry| entry.key_in_record(records))
    }

    #[cold]
    fn set_compressed(&mut self, entry: &mut Entry, record: &CentralRecord<'_>) -> Result2<()> {
        let compressed = Compressed::of(record)?;
        entry.set_compressed(self.compressed.len());
        self.compressed.push(compressed);
        Ok(())
    }

    /// Adds the record of a member that is no array. What is wrong with it does not matter for the arrays.
    #[cold]
    fn add_other(&mut self, file_len: u64, records: &[u8], record: &CentralRecord<'_>) {
        let Some(key) = name::key(record.name, record.header.flags.get(), true) else { return };
        let hash = self.hash(&key);
        let entry = Entry::of(file_len, record, self.directory.prefix_len, hash);
        let Ok(mut entry) = entry else { return };
        if record.header.method.get() != STORED && self.set_compressed(&mut entry, record).is_err() {
            return;
        }
        entry.set_whole_name();
        let _ = self.others.put(&self.hasher, hash, &key, entry, |entry| entry.key_in_record(records));
    }

    /// Has a name under which an array is listed lead to another member that has just this name.
    fn let_whole_names_win(&mut self, window: Window<'_>) -> Result<()> {
        let records = self.directory.records(window)?;
        for number in 0..self.others.list.len() {
            let Some(key) = self.others.list[number].key_in_record(records) else { continue };
            let is_it = |entry: &Entry| {
                Ok(self.in_directory(window, entry, &key)? || entry.is_in_local(window, &key)?)
            };
            let Some(array) = self.arrays.find(self.hash(&key), is_it)? else { continue };
            let whole = [&key, name::EXTENSION.as_bytes()].concat();
            let mut shadowed =
                std::mem::replace(&mut self.arrays.list[array as usize], self.others.list[number]);
            shadowed.set_whole_name();
            let hash = self.hash(&whole);
            shadowed.set_hash(hash);
            self.others.list[number].set_gone();
            let hasher = &self.hasher;
            let key_of = |entry: &Entry| entry.key(window, records, hasher);
            self.others.put(hasher, hash, &whole, shadowed, key_of)?;
        }
        let hasher = &self.hasher;
        self.others.drop_gone(hasher, |entry| entry.key(window, records, hasher));
        Ok(())
    }

    /// Removes these members, and renumbers the others.
    ///
    /// # Errors
    /// If the directory was not fetched.
    pub fn leave_out(&mut self, window: Window<'_>, ids: &[MemberId]) -> Result<()> {
        for id in ids {
            if let Some(entry) = self.arrays.list.get_mut(id.0 as usize) {
                entry.set_gone();
            }
        }
        let records = self.directory.records(window)?;
        let hasher = &self.hasher;
        self.arrays.drop_gone(hasher, |entry| entry.key(window, records, hasher));
        Ok(())
    }

    fn hash(&self, name: &[u8]) -> u64 {
        hash_of(&self.hasher, name)
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.arrays.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.arrays.list.is_empty()
    }

    /// All members, in archive order.
    pub fn ids(&self) -> impl Iterator<Item = MemberId> + use<> {
        // Less than 2**32, which was checked when the index was built.
        (0..self.arrays.list.len() as u32).map(MemberId)
    }

    /// Bytes of memory that the index takes.
    pub fn memory(&self) -> usize {
        let compressed = self.compressed.capacity() * size_of::<Compressed>();
        self.arrays.memory() + self.others.memory() + compressed
    }

    /// The number of members that are no arrays by their names.
    pub(crate) fn count_of_others(&self) -> usize {
        self.others.list.len()
    }

    /// The names of those members that the directory still has.
    ///
    /// # Errors
    /// If the directory was not fetched.
    pub(crate) fn names_of_others<'a>(
        &'a self,
        window: Window<'a>,
    ) -> Result<impl Iterator<Item = String> + 'a, Missing> {
        let records = self.records(window)?;
        // First copied, then looked at: others may write to a map.
        let text = |name: Cow<'_, [u8]>| {
            let name = name.into_owned();
            String::from_utf8_lossy(&name).into_owned()
        };
        Ok(self.others.list.iter().filter_map(move |entry| entry.key_in_record(records).map(text)))
    }

    /// Finds the member that is not listed and has just this name.
    ///
    /// # Errors
    /// As for [`WalkedIndex::find_again`].
    pub(crate) fn find_other(&self, window: Window<'_>, name: &str) -> Result<Option<MemberId>, Missing> {
        if self.others.list.is_empty() {
            return Ok(None);
        }
        let name = name.as_bytes();
        let is_it =
            |entry: &Entry| Ok(self.in_directory(window, entry, name)? || entry.is_in_local(window, name)?);
        let found = self.others.find(self.hash(name), is_it)?;
        // Less than 2**32 together, as the records have that many bytes.
        Ok(found.map(|number| MemberId(self.arrays.list.len() as u32 + number)))
    }

    /// Finds the array of this name. Touches the directory rather than the member.
    ///
    /// # Errors
    /// If bytes that the lookup needs were not fetched.
    pub fn find_again(&self, window: Window<'_>, name: &str) -> Result<Option<MemberId>, Missing> {
        let name = name.as_bytes();
        self.find_by(name, |entry| {
            Ok(self.in_directory(window, entry, name)? || entry.is_in_local(window, name)?)
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
            Ok(entry.is_in_local(window, name)? || self.in_directory(window, entry, name)?)
        })
    }

    #[inline]
    fn find_by(
        &self,
        name: &[u8],
        is_it: impl Fn(&Entry) -> Result<bool, Missing>,
    ) -> Result<Option<MemberId>, Missing> {
        Ok(self.arrays.find(self.hash(name), is_it)?.map(MemberId))
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
            Ok(!is_own(entry, entry.key_in_record(records)) && !is_own(entry, entry.key_in_local(window)?))
        };
        let found = self.find_by(name.as_bytes(), is_other)?;
        Ok(found.map(|id| self.arrays.list[id.0 as usize].local()))
    }

    fn in_directory(&self, window: Window<'_>, entry: &Entry, name: &[u8]) -> Result<bool, Missing> {
        Ok(entry.key_in_record(self.records(window)?).is_some_and(|other| *other == *name))
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
        let entry = self.entry(id).ok_or(ErrorKind::NamesDiffer)?;
        let copied = |name: Option<Cow<'_, [u8]>>| {
            let name = name?.into_owned();
            entry.has_hash(self.hash(&name)).then_some(name).and_then(|name| String::from_utf8(name).ok())
        };
        if let Some(name) = copied(entry.key_in_record(self.directory.records(window)?)) {
            return Ok(name);
        }
        copied(entry.key_in_local(window)?).ok_or_else(|| Error::at(ErrorKind::NamesDiffer, entry.local()))
    }

    fn entry(&self, id: MemberId) -> Option<&Entry> {
        let number = id.0 as usize;
        let others = number.checked_sub(self.arrays.list.len());
        others.map_or_else(|| self.arrays.list.get(number), |number| self.others.list.get(number))
    }

    /// The member with this number.
    pub fn get(&self, id: MemberId) -> Option<Member> {
        let entry = *self.entry(id)?;
        let number = entry.compressed();
        let compressed = number.and_then(|number| self.compressed.get(number));
        let size = compressed.map_or(entry.size(), |compressed| compressed.stored);
        // There are no more compressed members than members.
        Some(Member { id, compressed: number.map_or(STORED_ONE, |number| number as u32), size, entry })
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
        self.get(id).ok_or(ErrorKind::NamesDiffer)?.file(window, name)
    }

    /// The index without the directory: names are then looked for in the local headers only.
    pub(crate) fn without_directory(mut self) -> Self {
        self.directory = DirectoryLocation::none();
        for entry in self.arrays.list.iter_mut().chain(&mut self.others.list) {
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
    /// How many bytes it has in the file.
    size: u64,
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
        let (id, size) = (MemberId(number), entry.size());
        is_stored.then_some(Member { id, compressed: STORED_ONE, size, entry })
    }

    /// The member with another number.
    pub(crate) fn numbered(self, id: MemberId) -> Self {
        Member { id, ..self }
    }

    /// Where its record starts in the directory. None if the directory does not list it.
    pub(crate) fn record(&self) -> Option<usize> {
        (self.entry.record() != NO_RECORD as usize).then_some(self.entry.record())
    }

    /// Whether this record of the directory has the member's key `name`.
    pub(crate) fn is_named(&self, record: &CentralRecord<'_>, name: &[u8]) -> bool {
        let key = name::key(record.name, record.header.flags.get(), self.has_whole_name());
        key.is_some_and(|other| *other == *name)
    }

    /// Whether it is found by its whole name, not by that of an array. It need not be one.
    pub fn has_whole_name(&self) -> bool {
        self.entry.has_whole_name()
    }

    /// Whether its bytes in the file are compressed.
    pub fn is_compressed(&self) -> bool {
        self.compressed != STORED_ONE
    }

    /// Where its local header is, and how many bytes it has in the file.
    pub fn extent(&self) -> (u64, u64) {
        (self.entry.local(), self.size)
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

    /// The CRC-32 that its data descriptor has, if it has one (APPNOTE 4.3.9).
    ///
    /// # Errors
    /// As for [`Member::file`].
    pub(crate) fn descriptor_checksum(&self, window: Window<'_>, name: &str) -> Result<Option<u32>> {
        if self.entry.flags() & flags::DATA_DESCRIPTOR == 0 {
            return Ok(None);
        }
        let end = self.file(window, name)?.end;
        let number = |at: u64| -> Result<Option<u32>> {
            let bytes = window.get(at..at.saturating_add(4))?.and_then(<[u8]>::first_chunk);
            Ok(bytes.copied().map(u32::from_le_bytes))
        };
        // Its signature is optional.
        let first = number(end)?;
        if first == Some(DATA_DESCRIPTOR) { number(end + 4) } else { Ok(first) }
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
        if !entry.is_in_local(window, name.as_bytes())? {
            return Err(Error::at(ErrorKind::NamesDiffer, entry.local()));
        }
        let head =
            LocalHeader::SIZE as u64 + u64::from(header.name_len.get()) + u64::from(header.extra_len.get());
        let start = entry.local() + head;
        let end = start.checked_add(self.size).filter(|&end| end <= window.len());
        match end {
            Some(end) => Ok(start..end),
            None => Err(Error::at(ErrorKind::DataOutside { size: self.size }, start)),
        }
    }
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
