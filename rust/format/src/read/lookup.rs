//! The members of an archive as a reader looks them up.
//!
//! Where a file of ours is as we wrote it, by the index that is stored in it: opening reads nothing else,
//! however many members there are. Everywhere else by an [`WalkedIndex`] that a walk through the directory
//! makes.
//!
//! The stored index and the directory stay in the file, where others can change them: an append of ours
//! overwrites both, and another program may edit a record in place. So what they say is checked whenever it
//! is used, and that there is *no* member of a name, or what all the names are, only counts once they have
//! been checked as a whole ([`Lookup::verify`]); where they are not what they were, a walk or a search takes
//! their place.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceBox;

use crate::additions::array_field;
use crate::additions::seal::Seal;
use crate::additions::stored_index::{self, Shape, StoredIndex};
use crate::bytes::{slice, touch};
use crate::error::{Error, ErrorKind, Result};
use crate::npy::header::{Header, MAX_HEADER_SIZE};
use crate::read::walked_index::{Member, MemberId, WalkedIndex};
use crate::recover::recovery_scan::Effort;
use crate::recover::survey::Survey;
use crate::sparse::Sparse;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

/// A directory and an index that are no larger together are checked as a whole when the file is opened: that
/// takes microseconds, and there is no more to be said of them.
const SMALL: u64 = 1 << 16;

/// Records up to this size are copied without asking for memory.
const ORDINARY_RECORD: usize = 256;

/// A processor reads so many bytes at once.
const CACHE_LINE: usize = 64;

/// What a lookup finds.
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// The array.
    Member(Member),
    /// There is none of this name.
    Nothing,
    /// There was one, whose local header is here. Somebody has given it another name since.
    Renamed(u64),
    /// None was found, and [`Lookup::verify`] has to say whether there is one.
    Unsure,
}

impl Found {
    /// The array, if one was found.
    pub fn member(self) -> Option<Member> {
        match self {
            Found::Member(member) => Some(member),
            _ => None,
        }
    }
}

/// An array in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedArray<'a> {
    /// What its `.npy` header says.
    pub header: Header<'a>,
    /// Where its first byte is in the file.
    pub offset: u64,
    /// How many bytes are stored from there on.
    pub stored: u64,
}

/// An index that took the place of the stored one.
#[derive(Debug)]
struct Walked {
    index: WalkedIndex,
    /// What to add to its numbers: members that the stored index numbered otherwise keep theirs.
    base: u32,
}

/// The members of an archive.
#[derive(Debug)]
pub struct Lookup {
    directory: DirectoryLocation,
    /// What the seal says of the stored index, if that is used.
    stored: Option<Seal>,
    /// How that lies in the file.
    shape: Option<Shape>,
    /// From which byte of the directory on the `.npy` headers in it can be believed, if they can.
    fields_from: Option<u64>,
    /// The stored index and the directory have been found to be what they were.
    checked: AtomicBool,
    /// One of both has changed, whatever was found before.
    edited: AtomicBool,
    /// The directory cannot be read, and the members were found without it.
    recovered: AtomicBool,
    walked: OnceBox<Walked>,
}

impl Lookup {
    /// The members of a file that was surveyed; `keep_going` is asked every 65,536 members whether to.
    ///
    /// # Errors
    /// As for [`WalkedIndex::build`].
    pub fn new<'a>(
        file: impl Into<Sparse<'a>>,
        survey: &Survey,
        keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let file = file.into();
        let bytes = file.bytes;
        let stored = stored(bytes, survey);
        let lookup = Lookup {
            directory: survey.directory.clone().unwrap_or_else(DirectoryLocation::none),
            shape: stored.and_then(|seal| Some(StoredIndex::new(seal.index(bytes)?)?.shape())),
            stored,
            fields_from: survey.seal.map(|seal| seal.fields_from()),
            checked: AtomicBool::new(false),
            edited: AtomicBool::new(false),
            recovered: AtomicBool::new(false),
            walked: OnceBox::new(),
        };
        match lookup.stored {
            Some(seal) if lookup.directory.range.end - seal.start() <= SMALL => {
                lookup.verify(file, None, true, keep_going)?;
            }
            Some(_) => {}
            None => lookup.take_over(WalkedIndex::of_survey(bytes, survey, keep_going)?, 0),
        }
        Ok(lookup)
    }

    fn take_over(&self, index: WalkedIndex, base: u32) {
        // Another thread may have been faster, with the same.
        let _ = self.walked.set(Box::new(Walked { index, base }));
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.numbers().len()
    }

    /// The numbers of all members, in archive order: these, one after the other.
    fn numbers(&self) -> Range<u32> {
        match (self.walked.get(), &self.stored) {
            // Both count less than 2**31 where there is a base.
            (Some(walked), _) => walked.base..walked.base + walked.index.len() as u32,
            // It is used only if it counts less than 2**31.
            (None, stored) => 0..stored.as_ref().map_or(0, |seal| seal.members() as u32),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All numbers that members have or will have are less than this.
    pub fn limit(&self) -> usize {
        // Those of the stored index, and behind them those of what takes its place.
        self.stored.as_ref().map_or_else(|| self.len(), |seal| 2 * seal.members() as usize)
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.walked.get().map_or(0, |walked| walked.index.memory())
    }

    fn table<'a>(&self, bytes: &'a [u8]) -> Option<StoredIndex<'a>> {
        Some(StoredIndex::again(self.stored.as_ref()?.index(bytes)?, self.shape?))
    }

    fn records<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        slice(bytes, &self.directory.range).unwrap_or_default()
    }

    /// The array of this name. Touches only what is going to be read for a view of it.
    #[inline]
    pub fn find(&self, bytes: &[u8], name: &str) -> Found {
        if self.fields_from.is_some() {
            self.find_again(bytes, name)
        } else {
            self.find_by(bytes, name, WalkedIndex::find)
        }
    }

    /// The array of this name. Touches the directory rather than the member.
    #[inline]
    pub fn find_again(&self, bytes: &[u8], name: &str) -> Found {
        self.find_by(bytes, name, WalkedIndex::find_again)
    }

    #[inline]
    fn find_by(
        &self,
        bytes: &[u8],
        name: &str,
        find: impl Fn(&WalkedIndex, &[u8], &str) -> Option<MemberId>,
    ) -> Found {
        if let Some(walked) = self.walked.get() {
            let found = find(&walked.index, bytes, name).and_then(|id| walked.get(id));
            return found.map_or_else(|| walked.without(bytes, name), Found::Member);
        }
        match self.find_stored(bytes, name.as_bytes()) {
            Some(member) => Found::Member(member),
            None if self.is_verified(bytes) => Found::Nothing,
            None => Found::Unsure,
        }
    }

    fn find_stored(&self, bytes: &[u8], name: &[u8]) -> Option<Member> {
        let mut member = None;
        self.table(bytes)?.find(stored_index::hash(name), |number, place| {
            member = self.member_at_slot(bytes, name, number, place);
            if member.is_none() {
                // The index leads to something else than it was made for.
                self.edited.store(true, Ordering::Release);
            }
            member.is_some()
        })?;
        member
    }

    /// Whether names are looked up in the index that is stored in the file.
    pub fn uses_stored(&self) -> bool {
        self.stored.is_some() && self.walked.get().is_none()
    }

    /// The array that a slot of the stored index leads to, if it is of this name.
    fn member_at_slot(&self, bytes: &[u8], name: &[u8], number: u32, place: u64) -> Option<Member> {
        let (record, _) = CentralRecord::read(self.records(bytes), usize::try_from(place).ok()?)?;
        is_named(&record, name)
            .then(|| Member::of(bytes, &record, self.directory.prefix_len, number))
            .flatten()
    }

    /// What [`Lookup::find_again`] finds for each of these names. To read the index and the directory for one
    /// name after the other would be to wait for memory as often; so each step is taken for all of them.
    pub fn find_all<'n>(
        &self,
        bytes: &[u8],
        names: impl Iterator<Item = Option<&'n str>>,
    ) -> Vec<Option<MemberId>> {
        let id = |member: Member| member.id;
        let Some(table) = self.table(bytes).filter(|_| self.uses_stored()) else {
            return names.map(|name| self.find_again(bytes, name?).member().map(id)).collect();
        };
        let names: Vec<_> = names.map(|name| name.map(str::as_bytes)).collect();
        let hashes: Vec<_> = names.iter().map(|name| stored_index::hash(name.unwrap_or_default())).collect();
        let slots = table.find_all(&hashes);
        let records = self.records(bytes);
        let read = slots.iter().flatten().filter_map(|&(_, place)| {
            let record = records.get(usize::try_from(place).ok()?..)?;
            Some(record.first()? ^ record.get(CACHE_LINE)?)
        });
        touch(read);
        let found = names.into_iter().zip(slots).map(|(name, slot)| {
            let (name, (number, place)) = (name?, slot?);
            let member = self.member_at_slot(bytes, name, number, place);
            member.or_else(|| self.find_stored(bytes, name)).map(id)
        });
        found.collect()
    }

    /// Whether what is said of all members, and of those that are not there, is right.
    #[inline]
    pub fn is_verified(&self, bytes: &[u8]) -> bool {
        let is_checked = || self.checked.load(Ordering::Acquire) && !self.edited.load(Ordering::Acquire);
        self.walked.get().is_some() || (is_checked() && self.is_there(bytes))
    }

    /// Whether the directory has not been overwritten: a writer of ours takes its end record away first, and
    /// when that of another directory is in its place, another seal is, too.
    pub fn is_there(&self, bytes: &[u8]) -> bool {
        let at = self.directory.comment.start.saturating_sub(EndRecord::SIZE as u64);
        EndRecord::read(bytes, at, ErrorKind::NoEndRecord).is_ok()
            && self.stored.is_none_or(|seal| seal.is_there(bytes))
    }

    /// Whether the directory turned out to be one that cannot be read, so that members were found without it.
    pub fn is_recovered(&self) -> bool {
        self.recovered.load(Ordering::Acquire)
    }

    /// Finds out whether the stored index and the directory are what they were when the file was closed, and
    /// if not, puts an index in their place. `newer` is the same file as it is now, if it has grown.
    /// `is_quiet` says that nobody writes to it: then there is no more to be had than is found.
    ///
    /// # Errors
    /// If they are not, and what members there are cannot be told, or was overwritten meanwhile; and
    /// [`ErrorKind::Interrupted`].
    pub fn verify<'a>(
        &self,
        file: impl Into<Sparse<'a>>,
        newer: Option<Sparse<'_>>,
        is_quiet: bool,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<()> {
        let file = file.into();
        let bytes = file.bytes;
        let Some(seal) = self.stored.filter(|_| !self.is_verified(bytes)) else { return Ok(()) };
        // Checked less than 2**32.
        let members = seal.members() as u32;
        let is_edited = self.edited.load(Ordering::Acquire);
        if !is_edited && seal.is_right(file, &mut keep_going)? && self.is_there(bytes) {
            self.checked.store(true, Ordering::Release);
            return Ok(());
        }
        let index = if self.is_there(bytes) {
            // Edited in place, or torn by a power failure.
            let index = match WalkedIndex::build(bytes, self.directory.clone(), &mut keep_going) {
                Err(error) if error.kind != ErrorKind::Interrupted => {
                    let index = recover(file, error, &mut keep_going)?;
                    self.recovered.store(self.is_there(bytes), Ordering::Release);
                    index
                }
                index => index?,
            };
            if !self.is_there(bytes) {
                return Err(ErrorKind::NoEndRecord.into());
            }
            index
        } else if let Some(index) = newer.and_then(|newer| successor(newer, &seal, &mut keep_going)) {
            index
        } else {
            search(file, &seal, &mut keep_going)?
        };
        if index.len() > members as usize || (index.len() < members as usize && !is_quiet) {
            return Err(ErrorKind::DirectoryTruncated.into());
        }
        // Members lie in the file in the order of the directory, so that those that are found have the same
        // numbers.
        let base = if index.len() == members as usize { 0 } else { members };
        self.take_over(index, base);
        Ok(())
    }

    /// All members with their names, in archive order, once that is settled.
    pub fn members<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = Result<(Member, String)>> + 'a {
        self.members_from(bytes, 0)
    }

    /// The same from a position on.
    pub fn members_from<'a>(
        &'a self,
        bytes: &'a [u8],
        position: usize,
    ) -> impl Iterator<Item = Result<(Member, String)>> + 'a {
        let walked = self.walked.get();
        let listed = walked.map(|walked| {
            walked.index.ids().skip(position).filter_map(move |id| {
                let member = walked.get(id)?;
                Some(walked.index.name(bytes, id).map(|name| (member, name)))
            })
        });
        let walk = if walked.is_some() { None } else { self.walk_from(bytes, position) };
        let stored = walk.into_iter().flatten().map(|(record, number)| self.listed(bytes, &record, number));
        listed.into_iter().flatten().chain(stored)
    }

    /// The records of the directory from a position on, with their numbers.
    fn walk_from<'a>(
        &self,
        bytes: &'a [u8],
        position: usize,
    ) -> Option<impl Iterator<Item = (CentralRecord<'a>, u32)> + use<'a>> {
        let records = self.records(bytes);
        let number = u32::try_from(position).ok()?;
        let at = if number == 0 { 0 } else { self.table(bytes)?.record(records, number)?.at };
        Some(Walk::from(records, at).zip(number..))
    }

    /// The array at a position in archive order, if that is known without a look at the directory.
    pub fn known(&self, position: usize) -> Option<Member> {
        self.walked.get()?.get(MemberId(u32::try_from(position).ok()?))
    }

    fn listed(&self, bytes: &[u8], record: &CentralRecord<'_>, number: u32) -> Result<(Member, String)> {
        let changed = || Error::at(ErrorKind::NamesDiffer, self.directory.range.start + record.at as u64);
        let name = record.array_name().ok().flatten().ok_or_else(changed)?;
        let name = String::from_utf8(name.into_owned()).map_err(|_| changed())?;
        let member = Member::of(bytes, record, self.directory.prefix_len, number).ok_or_else(changed)?;
        Ok((member, name))
    }

    /// The number that a member of this position in archive order has.
    pub fn id(&self, position: usize) -> Option<MemberId> {
        self.numbers().nth(position).map(MemberId)
    }

    /// The position in archive order of a member that was found.
    pub fn position(&self, id: MemberId) -> u32 {
        id.0.saturating_sub(self.walked.get().map_or(0, |walked| walked.base))
    }

    /// The name of a member that was found, or has a position.
    ///
    /// # Errors
    /// If it cannot be told any more.
    pub fn name(&self, bytes: &[u8], id: MemberId) -> Result<String> {
        if let Some(walked) = self.walked.get()
            && id.0 >= walked.base
        {
            return walked.index.name(bytes, MemberId(id.0 - walked.base));
        }
        self.listed_at(bytes, id.0).map(|(_, name)| name)
    }

    /// The array at a position in archive order, and its name, once it is settled which that is.
    ///
    /// # Errors
    /// If there is none, or it cannot be told any more.
    pub fn at(&self, bytes: &[u8], position: usize) -> Result<(Member, String)> {
        let number = u32::try_from(position).map_err(|_| ErrorKind::DirectoryTruncated)?;
        let Some(walked) = self.walked.get() else { return self.listed_at(bytes, number) };
        // Without the base, which is added by `get`.
        let member = walked.get(MemberId(number)).ok_or(ErrorKind::DirectoryTruncated)?;
        Ok((member, walked.index.name(bytes, MemberId(number))?))
    }

    fn listed_at(&self, bytes: &[u8], number: u32) -> Result<(Member, String)> {
        let records = self.records(bytes);
        let record = self.table(bytes).and_then(|table| table.record(records, number));
        self.listed(bytes, &record.ok_or(ErrorKind::DirectoryTruncated)?, number)
    }

    /// The array of a member whose name is `name`: by what the directory says of it if that can be believed,
    /// else by the member's own headers. A header of more than `max_header_size` characters is refused.
    ///
    /// # Errors
    /// As for [`Member::file`] and [`Header::parse`].
    pub fn locate<'a>(
        &self,
        bytes: &'a [u8],
        member: &Member,
        name: &str,
        max_header_size: usize,
    ) -> Result<LocatedArray<'a>> {
        // Headers that are longer than usual have no hint.
        if max_header_size >= MAX_HEADER_SIZE
            && self.fields_from.is_some()
            && let Some(located) = self.array_field(bytes, member, name)
        {
            return Ok(located);
        }
        let Range { start, end } = member.file(bytes, name)?;
        let file = slice(bytes, &(start..end)).ok_or(ErrorKind::DataOutside { size: end - start })?;
        let (header, data) = Header::parse(file, max_header_size)?;
        let offset = start + data as u64;
        Ok(LocatedArray { header, offset, stored: end - offset })
    }

    /// Whether the members' own headers are not needed, as the directory has what they say.
    pub fn has_headers(&self) -> bool {
        self.fields_from.is_some()
    }

    fn array_field(&self, bytes: &[u8], member: &Member, name: &str) -> Option<LocatedArray<'static>> {
        let records = self.records(bytes);
        let at = member.record().filter(|&at| self.fields_from.is_some_and(|from| at as u64 >= from))?;
        let (_, end) = CentralRecord::read(records, at)?;
        let raw = records.get(at..end)?;
        // A writer may overwrite it at any time: what is checked and what is read are one copy.
        let mut ordinary = [0; ORDINARY_RECORD];
        let long;
        let whole = if let Some(copy) = ordinary.get_mut(..raw.len()) {
            copy.copy_from_slice(raw);
            &*copy
        } else {
            long = raw.to_vec();
            &long[..]
        };
        let (record, _) = CentralRecord::read(whole, 0)?;
        let array_field = array_field::read(&record, whole)?;
        let is_it = is_named(&record, name.as_bytes());
        let member = Member::of(bytes, &record, self.directory.prefix_len, 0).filter(|_| is_it)?;
        member.check().ok()?;
        let (local, size) = member.extent();
        let offset = local.checked_add(array_field.data)?;
        let stored = size.checked_sub(array_field.npy_header)?;
        let is_inside = offset.checked_add(stored)? <= bytes.len() as u64;
        is_inside.then_some(LocatedArray { header: array_field.header, offset, stored })
    }
}

impl Walked {
    fn get(&self, id: MemberId) -> Option<Member> {
        let member = self.index.get(id)?;
        Some(member.numbered(MemberId(id.0 + self.base)))
    }

    /// What it means that there is no member of this name.
    #[cold]
    fn without(&self, bytes: &[u8], name: &str) -> Found {
        self.index.renamed(bytes, name).map_or(Found::Nothing, Found::Renamed)
    }
}

fn is_named(record: &CentralRecord<'_>, name: &[u8]) -> bool {
    record.array_name().is_ok_and(|other| other.is_some_and(|other| *other == *name))
}

/// The seal of a file that has a stored index, and nothing that this does not have.
fn stored(bytes: &[u8], survey: &Survey) -> Option<Seal> {
    let seal = survey.seal.filter(|seal| seal.is_last() && seal.ends(bytes))?;
    let (table, members) = (StoredIndex::new(seal.index(bytes)?), seal.members());
    let is_whole = survey.is_whole() && survey.directory.as_ref()?.count == members;
    (is_whole && table.is_some() && members < u64::from(u32::MAX) / 2).then_some(seal)
}

/// The members of an archive from the file as it is after an append, whose directory begins with what was
/// there.
fn successor(newer: Sparse<'_>, seal: &Seal, keep_going: &mut dyn FnMut() -> bool) -> Option<WalkedIndex> {
    let mut directory = Survey::new(newer, Effort::Read, &mut *keep_going).ok()?.directory?;
    let newer = newer.bytes;
    cut(newer, &mut directory, seal).then_some(())?;
    let range = directory.range.clone();
    let index = WalkedIndex::build(newer, directory, keep_going).ok()?;
    // The next append may have begun to overwrite it while it was read.
    seal.is_of(slice(newer, &range)?).then(|| index.without_directory())
}

/// The members of an archive whose directory cannot be read to its end, with the error that tells why.
fn recover(file: Sparse<'_>, error: Error, keep_going: &mut dyn FnMut() -> bool) -> Result<WalkedIndex> {
    let survey = Survey::without_directory(file, error, Effort::Read, &mut *keep_going)?;
    WalkedIndex::of_survey(file.bytes, &survey, keep_going).map(WalkedIndex::without_directory)
}

/// The members of an archive without its directory.
fn search(file: Sparse<'_>, seal: &Seal, keep_going: &mut dyn FnMut() -> bool) -> Result<WalkedIndex> {
    let (bytes, error) = (file.bytes, ErrorKind::NoEndRecord.into());
    let mut survey = Survey::without_directory(file, error, Effort::Read, &mut *keep_going)?;
    survey.found.retain(|member| member.header < seal.members_end());
    // That of another program stays; one of ours can have been overwritten as soon as it was read.
    let mut ours = survey.directory.as_mut().filter(|_| survey.seal.is_some());
    let is_same = ours.as_mut().is_none_or(|directory| cut(bytes, directory, seal));
    let range = ours.map(|directory| directory.range.clone());
    let index = WalkedIndex::of_survey(bytes, &survey, keep_going)?;
    let holds = range.is_none_or(|range| slice(bytes, &range).is_some_and(|records| seal.is_of(records)));
    if is_same && holds { Ok(index.without_directory()) } else { Err(ErrorKind::NoEndRecord.into()) }
}

/// Cuts a directory that begins with the one of `seal` to that.
fn cut(bytes: &[u8], directory: &mut DirectoryLocation, seal: &Seal) -> bool {
    let size = seal.directory_end() - seal.directory();
    let Range { start, end } = directory.range;
    directory.range = start..start.saturating_add(size).min(end);
    directory.count = seal.members();
    slice(bytes, &directory.range).is_some_and(|records| seal.is_of(records))
}
