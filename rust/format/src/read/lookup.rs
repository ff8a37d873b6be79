//! The members of an archive as a reader looks them up.
//!
//! Where a file is as mmnpz wrote it, by the index that is stored in it: opening reads nothing else,
//! however many members there are. Everywhere else by an [`WalkedIndex`] that a walk through the directory
//! makes.
//!
//! The stored index and the directory stay in the file, where others can change them: an append by mmnpz
//! overwrites both, and another program may edit a record in place. So what they say is checked whenever it
//! is used, and that there is *no* member of a name, or what all the names are, only counts once they have
//! been checked as a whole ([`Lookup::verify`]); where they are not what they were, a walk or a search takes
//! their place.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceBox;

use crate::additions::array_field;
use crate::additions::seal::Seal;
use crate::additions::stored_index::{self, Hit, Shape, StoredIndex};
use crate::bytes::touch;
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::npy::header::{Header, MAX_HEADER_SIZE};
use crate::read::walked_index::{Member, MemberId, WalkedIndex};
use crate::recover::recovery_scan::Effort;
use crate::recover::survey::{FoundDirectory, Source, Survey, Witness};
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

/// A directory and an index that are no larger together are checked as a whole when the file is opened: that
/// takes microseconds, and there is no more to be said of them.
const SMALL: u64 = 1 << 16;

/// Records up to this size are copied without asking for memory.
const ORDINARY_RECORD: usize = 256;

/// The bytes that a processor reads at once.
const CACHE_LINE: u64 = 64;

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

/// The index that is stored in the file.
#[derive(Debug, Clone, Copy)]
struct Stored {
    /// What tells of it.
    seal: Seal,
    /// How it lies in the file.
    shape: Shape,
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
    /// The stored index, if that is used.
    stored: Option<Stored>,
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
        window: impl Into<Window<'a>>,
        survey: &Survey,
        keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let window = window.into();
        let stored = stored(window, survey)?;
        let lookup = Lookup {
            directory: survey.location().cloned().unwrap_or_else(DirectoryLocation::none),
            stored,
            fields_from: survey.seal().map(|seal| seal.fields_from()),
            checked: AtomicBool::new(false),
            edited: AtomicBool::new(false),
            recovered: AtomicBool::new(false),
            walked: OnceBox::new(),
        };
        match lookup.stored {
            Some(stored) if lookup.directory.range.end - stored.seal.start() <= SMALL => {
                lookup.verify(window, None, true, keep_going)?;
            }
            Some(_) => {}
            None => lookup.take_over(WalkedIndex::of_survey(window, survey, keep_going)?, 0),
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
            (None, stored) => 0..stored.as_ref().map_or(0, |stored| stored.seal.members() as u32),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All numbers that members have or will have are less than this.
    pub fn limit(&self) -> usize {
        // Those of the stored index, and behind them those of what takes its place.
        self.stored.as_ref().map_or_else(|| self.len(), |stored| 2 * stored.seal.members() as usize)
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.walked.get().map_or(0, |walked| walked.index.memory())
    }

    #[inline]
    fn table<'a>(&self, window: Window<'a>) -> Option<StoredIndex<'a>> {
        let stored = self.stored.as_ref()?;
        Some(StoredIndex::again(&stored.seal, stored.shape, window))
    }

    /// The array of this name. Touches only what is going to be read for a view of it.
    ///
    /// # Errors
    /// If the bytes that tell were not fetched.
    #[inline]
    pub fn find(&self, window: Window<'_>, name: &str) -> Result<Found, Missing> {
        if self.fields_from.is_some() {
            self.find_again(window, name)
        } else {
            self.find_by(window, name, WalkedIndex::find)
        }
    }

    /// The array of this name. Touches the directory rather than the member.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    #[inline]
    pub fn find_again(&self, window: Window<'_>, name: &str) -> Result<Found, Missing> {
        self.find_by(window, name, WalkedIndex::find_again)
    }

    #[inline]
    fn find_by(
        &self,
        window: Window<'_>,
        name: &str,
        find: impl Fn(&WalkedIndex, Window<'_>, &str) -> Result<Option<MemberId>, Missing>,
    ) -> Result<Found, Missing> {
        if let Some(walked) = self.walked.get() {
            let found = find(&walked.index, window, name)?.and_then(|id| walked.get(id));
            return found.map_or_else(|| walked.without(window, name), |member| Ok(Found::Member(member)));
        }
        Ok(match self.find_stored(window, name.as_bytes())? {
            Some(member) => Found::Member(member),
            None if self.is_verified(window)? => Found::Nothing,
            None => Found::Unsure,
        })
    }

    fn find_stored(&self, window: Window<'_>, name: &[u8]) -> Result<Option<Member>, Missing> {
        let mut member = None;
        let Some(table) = self.table(window) else { return Ok(None) };
        table.find(stored_index::hash(name), |hit| {
            member = self.member_at_slot(window, name, hit)?;
            if member.is_none() {
                // The index leads to something else than it was made for.
                self.edited.store(true, Ordering::Release);
            }
            Ok(member.is_some())
        })?;
        Ok(member)
    }

    /// Whether names are looked up in the index that is stored in the file.
    pub fn uses_stored(&self) -> bool {
        self.stored.is_some() && self.walked.get().is_none()
    }

    /// The array that a slot of the stored index leads to, if it is of this name.
    #[inline]
    fn member_at_slot(&self, window: Window<'_>, name: &[u8], hit: Hit) -> Result<Option<Member>, Missing> {
        let Ok(at) = usize::try_from(hit.place) else { return Ok(None) };
        let record = self.directory.record(window, at)?.filter(|(record, _)| is_named(record, name));
        let prefix_len = self.directory.prefix_len;
        Ok(record.and_then(|(record, _)| Member::of(window.len(), &record, prefix_len, hit.number)))
    }

    /// What [`Lookup::find_again`] finds for each of these names. To read the index and the directory for one
    /// name after the other would be to wait for memory as often; so each step is taken for all of them.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    pub fn find_all<'n>(
        &self,
        window: Window<'_>,
        names: impl Iterator<Item = Option<&'n str>>,
    ) -> Result<Vec<Option<MemberId>>, Missing> {
        let id = |member: Member| member.id;
        let Some(table) = self.table(window).filter(|_| self.uses_stored()) else {
            let found = |name| Ok(self.find_again(window, name)?.member().map(id));
            return names.map(|name| name.map_or(Ok(None), found)).collect();
        };
        let names: Vec<_> = names.map(|name| name.map(str::as_bytes)).collect();
        let hashes: Vec<_> = names.iter().map(|name| stored_index::hash(name.unwrap_or_default())).collect();
        let slots = table.find_all(&hashes)?;
        let read = slots.iter().flatten().filter_map(|hit| {
            let start = self.directory.range.start.checked_add(hit.place)?;
            let record = window.get(start..start + CACHE_LINE + 1).ok()??;
            Some(record.first()? ^ record.last()?)
        });
        touch(read);
        let found = names.into_iter().zip(slots).map(|(name, slot)| {
            let Some((name, hit)) = name.zip(slot) else { return Ok(None) };
            let member = match self.member_at_slot(window, name, hit)? {
                Some(member) => Some(member),
                None => self.find_stored(window, name)?,
            };
            Ok(member.map(id))
        });
        found.collect()
    }

    /// Whether what is said of all members, and of those that are not there, is right.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    #[inline]
    pub fn is_verified(&self, window: Window<'_>) -> Result<bool, Missing> {
        let is_checked = || self.checked.load(Ordering::Acquire) && !self.edited.load(Ordering::Acquire);
        Ok(self.walked.get().is_some() || (is_checked() && self.is_there(window)?))
    }

    /// Whether the directory has not been overwritten: a writer of mmnpz takes its end record away first, and
    /// when that of another directory is in its place, another seal is, too.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    pub fn is_there(&self, window: Window<'_>) -> Result<bool, Missing> {
        let at = self.directory.comment.start.saturating_sub(EndRecord::SIZE as u64);
        Ok(EndRecord::find(window, at)?.is_some()
            && match &self.stored {
                Some(stored) => stored.seal.is_there(window)?,
                None => true,
            })
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
        window: impl Into<Window<'a>>,
        newer: Option<Window<'_>>,
        is_quiet: bool,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<()> {
        let window = window.into();
        let Some(Stored { seal, .. }) = self.stored else { return Ok(()) };
        if self.is_verified(window)? {
            return Ok(());
        }
        // Checked less than 2**32.
        let members = seal.members() as u32;
        let is_edited = self.edited.load(Ordering::Acquire);
        if !is_edited && seal.is_right(window, &mut keep_going)? && self.is_there(window)? {
            self.checked.store(true, Ordering::Release);
            return Ok(());
        }
        let index = if self.is_there(window)? {
            // Edited in place, or torn by a power failure.
            let index = match WalkedIndex::build(window, self.directory.clone(), &mut keep_going) {
                Err(error) if error.is_about_file() => {
                    let index = recover(window, error, &mut keep_going)?;
                    self.recovered.store(self.is_there(window)?, Ordering::Release);
                    index
                }
                index => index?,
            };
            if !self.is_there(window)? {
                return Err(ErrorKind::NoEndRecord.into());
            }
            index
        } else {
            let newer = match newer {
                Some(newer) => successor(newer, &seal, &mut keep_going)?,
                None => None,
            };
            match newer {
                Some(index) => index,
                None => search(window, &seal, &mut keep_going)?,
            }
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
    ///
    /// # Errors
    /// If the directory was not fetched. Each member has its own error.
    pub fn members<'a>(
        &'a self,
        window: Window<'a>,
    ) -> Result<impl Iterator<Item = Result<(Member, String)>> + 'a, Missing> {
        self.members_from(window, 0)
    }

    /// The members from a position on with their names, in archive order, once that is settled.
    ///
    /// # Errors
    /// As for [`Lookup::members`].
    pub fn members_from<'a>(
        &'a self,
        window: Window<'a>,
        position: usize,
    ) -> Result<impl Iterator<Item = Result<(Member, String)>> + 'a, Missing> {
        let walked = self.walked.get();
        let listed = walked.map(|walked| {
            walked.index.ids().skip(position).filter_map(move |id| {
                let member = walked.get(id)?;
                Some(walked.index.name(window, id).map(|name| (member, name)))
            })
        });
        let walk = if walked.is_some() { None } else { self.walk_from(window, position)? };
        let len = window.len();
        let stored =
            walk.into_iter().flatten().map(move |(record, number)| self.listed(len, &record, number));
        Ok(listed.into_iter().flatten().chain(stored))
    }

    /// The records of the directory from a position on, with their numbers.
    fn walk_from<'a>(
        &self,
        window: Window<'a>,
        position: usize,
    ) -> Result<Option<impl Iterator<Item = (CentralRecord<'a>, u32)> + use<'a>>, Missing> {
        let Ok(number) = u32::try_from(position) else { return Ok(None) };
        let first = match self.table(window) {
            Some(table) if number > 0 => table.record(&self.directory, number)?.map(|record| record.at),
            _ => (number == 0).then_some(0),
        };
        let records = window.get(self.directory.range.clone())?.unwrap_or_default();
        Ok(first.map(|at| Walk::from(records, at).zip(number..)))
    }

    /// The array at a position in archive order, if that is known without a look at the directory.
    pub fn known(&self, position: usize) -> Option<Member> {
        self.walked.get()?.get(MemberId(u32::try_from(position).ok()?))
    }

    fn listed(&self, file_len: u64, record: &CentralRecord<'_>, number: u32) -> Result<(Member, String)> {
        let changed = || Error::at(ErrorKind::NamesDiffer, self.directory.range.start + record.at as u64);
        let name = record.array_name().ok().flatten().ok_or_else(changed)?;
        let name = String::from_utf8(name.into_owned()).map_err(|_| changed())?;
        let member = Member::of(file_len, record, self.directory.prefix_len, number).ok_or_else(changed)?;
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
    pub fn name(&self, window: Window<'_>, id: MemberId) -> Result<String> {
        if let Some(walked) = self.walked.get()
            && id.0 >= walked.base
        {
            return walked.index.name(window, MemberId(id.0 - walked.base));
        }
        self.listed_at(window, id.0).map(|(_, name)| name)
    }

    /// The array at a position in archive order, and its name, once it is settled which that is.
    ///
    /// # Errors
    /// If there is none, or it cannot be told any more.
    pub fn at(&self, window: Window<'_>, position: usize) -> Result<(Member, String)> {
        let number = u32::try_from(position).map_err(|_| ErrorKind::DirectoryTruncated)?;
        let Some(walked) = self.walked.get() else { return self.listed_at(window, number) };
        // Without the base, which is added by `get`.
        let member = walked.get(MemberId(number)).ok_or(ErrorKind::DirectoryTruncated)?;
        Ok((member, walked.index.name(window, MemberId(number))?))
    }

    fn listed_at(&self, window: Window<'_>, number: u32) -> Result<(Member, String)> {
        let table = self.table(window).ok_or(ErrorKind::DirectoryTruncated)?;
        let record = table.record(&self.directory, number)?.ok_or(ErrorKind::DirectoryTruncated)?;
        self.listed(window.len(), &record, number)
    }

    /// The array of a member whose name is `name`: by what the directory says of it if that can be believed,
    /// else by the member's own headers. A header of more than `max_header_size` characters is refused.
    ///
    /// # Errors
    /// As for [`Member::file`] and [`Header::parse`].
    pub fn locate<'a>(
        &self,
        window: Window<'a>,
        member: &Member,
        name: &str,
        max_header_size: usize,
    ) -> Result<LocatedArray<'a>> {
        // Headers that are longer than usual have no hint.
        if max_header_size >= MAX_HEADER_SIZE
            && self.fields_from.is_some()
            && let Some(located) = self.array_field(window, member, name)?
        {
            return Ok(located);
        }
        let Range { start, end } = member.file(window, name)?;
        let (header, data) = Header::read(window, start..end, max_header_size)?;
        let offset = start + data as u64;
        Ok(LocatedArray { header, offset, stored: end - offset })
    }

    /// Whether the members' own headers are not needed, as the directory has what they say.
    pub fn has_headers(&self) -> bool {
        self.fields_from.is_some()
    }

    fn array_field(
        &self,
        window: Window<'_>,
        member: &Member,
        name: &str,
    ) -> Result<Option<LocatedArray<'static>>, Missing> {
        let believed = |at: &usize| self.fields_from.is_some_and(|from| *at as u64 >= from);
        let Some(at) = member.record().filter(believed) else { return Ok(None) };
        let raw = self.directory.raw_record(window, at)?;
        Ok(raw.and_then(|raw| self.by_array_field(window.len(), raw, name)))
    }

    /// The array of a member by its record.
    fn by_array_field(&self, file_len: u64, raw: &[u8], name: &str) -> Option<LocatedArray<'static>> {
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
        let member = Member::of(file_len, &record, self.directory.prefix_len, 0).filter(|_| is_it)?;
        member.check().ok()?;
        let (local, size) = member.extent();
        let offset = local.checked_add(array_field.data)?;
        let stored = size.checked_sub(array_field.npy_header)?;
        let is_inside = offset.checked_add(stored)? <= file_len;
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
    fn without(&self, window: Window<'_>, name: &str) -> Result<Found, Missing> {
        Ok(self.index.renamed(window, name)?.map_or(Found::Nothing, Found::Renamed))
    }
}

fn is_named(record: &CentralRecord<'_>, name: &[u8]) -> bool {
    record.array_name().is_ok_and(|other| other.is_some_and(|other| *other == *name))
}

/// The stored index of a file, if it has one, and nothing that this does not have.
fn stored(window: Window<'_>, survey: &Survey) -> Result<Option<Stored>, Missing> {
    let Some(seal) = survey.seal().filter(Seal::is_last) else { return Ok(None) };
    let members = seal.members();
    let is_whole = survey.is_whole() && survey.location().is_some_and(|it| it.count == members);
    let can_be_used = is_whole && members < u64::from(u32::MAX) / 2 && seal.ends(window)?;
    let index = StoredIndex::of(&seal, window).filter(|_| can_be_used);
    Ok(index.map(|index| Stored { seal, shape: index.shape() }))
}

/// What is not there, or is not what it should be, is none; that it cannot be told is an error.
fn none_if_wrong<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_about_file() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The members of an archive from the file as it is after an append, whose directory begins with what was
/// there.
fn successor(
    newer: Window<'_>,
    seal: &Seal,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Option<WalkedIndex>> {
    let survey = none_if_wrong(Survey::new(newer, Effort::Read, &mut *keep_going))?;
    let Some(mut directory) = survey.and_then(|survey| survey.location().cloned()) else { return Ok(None) };
    if !cut(newer, &mut directory, seal)? {
        return Ok(None);
    }
    let range = directory.range.clone();
    let Some(index) = none_if_wrong(WalkedIndex::build(newer, directory, keep_going))? else {
        return Ok(None);
    };
    // The next append may have begun to overwrite it while it was read.
    let holds = newer.get(range)?.is_some_and(|records| seal.is_of(records));
    Ok(holds.then(|| index.without_directory()))
}

/// The members of an archive whose directory cannot be read to its end, with the error that tells why.
fn recover(window: Window<'_>, error: Error, keep_going: &mut dyn FnMut() -> bool) -> Result<WalkedIndex> {
    let survey = Survey::without_directory(window, error, Effort::Read, &mut *keep_going)?;
    WalkedIndex::of_survey(window, &survey, keep_going).map(WalkedIndex::without_directory)
}

/// The members of an archive without its directory.
fn search(window: Window<'_>, seal: &Seal, keep_going: &mut dyn FnMut() -> bool) -> Result<WalkedIndex> {
    let error = ErrorKind::NoEndRecord.into();
    let mut survey = Survey::without_directory(window, error, Effort::Read, &mut *keep_going)?;
    survey.found.retain(|member| member.header < seal.members_end());
    // That of another program stays; one of mmnpz can have been overwritten as soon as it was read.
    let (is_same, range) = match &mut survey.source {
        Source::Directory(FoundDirectory { location, witness: Witness::Seal(..), .. }) => {
            (cut(window, location, seal)?, Some(location.range.clone()))
        }
        _ => (true, None),
    };
    let index = WalkedIndex::of_survey(window, &survey, keep_going)?;
    let holds = match range {
        Some(range) => window.get(range)?.is_some_and(|records| seal.is_of(records)),
        None => true,
    };
    if is_same && holds { Ok(index.without_directory()) } else { Err(ErrorKind::NoEndRecord.into()) }
}

/// Cuts a directory that begins with the one of `seal` to that; says whether it does.
fn cut(window: Window<'_>, directory: &mut DirectoryLocation, seal: &Seal) -> Result<bool, Missing> {
    let size = seal.directory_end() - seal.directory();
    let Range { start, end } = directory.range;
    directory.range = start..start.saturating_add(size).min(end);
    directory.count = seal.members();
    Ok(window.get(directory.range.clone())?.is_some_and(|records| seal.is_of(records)))
}
