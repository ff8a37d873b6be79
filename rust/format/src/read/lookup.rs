//! Lookup: from a name or a position to a member of an archive.
//!
//! In a file that is as mmnpz wrote it, the lookup uses the stored index: opening reads nothing else, however
//! many members there are. In any other file it uses a [`WalkedIndex`], which a walk through the directory
//! makes.
//!
//! The stored index and the directory stay in the file, where others can change them: an append by mmnpz
//! overwrites both, and another program may edit a record in place. So each use checks what they say. That
//! the archive has *no* member of a name, or what all the names are, counts only once both have been checked
//! as a whole ([`Lookup::verify`]). If they have changed, a walk or a search takes their place.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceBox;

use crate::additions::array_field;
use crate::additions::seal::Seal;
use crate::additions::stored_index::{self, Hit, Shape, StoredIndex};
use crate::bytes::touch;
use crate::error::{Error, ErrorKind, Missing, Result};
use crate::npy::header::{Header, MAX_HEADER_SIZE};
use crate::read::entry::Compressed;
use crate::read::searched_index::{recover, search, successor};
use crate::read::walked_index::{Member, MemberId, WalkedIndex};
use crate::recover::listed;
use crate::recover::survey::Survey;
use crate::window::Window;
use crate::zip::central::{CentralRecord, Walk};
use crate::zip::end::DirectoryLocation;
use crate::zip::records::{EndRecord, Record};

/// If directory and index are no larger together, opening the file checks them as a whole: that takes
/// microseconds.
const SMALL: u64 = 1 << 16;

/// Records up to this size are copied to the stack.
pub(super) const ORDINARY_RECORD: usize = 256;

/// How many bytes the processor reads at once.
const CACHE_LINE: u64 = 64;

/// What a lookup finds.
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// There is an array of this name.
    Member(Member),
    /// There is no array of this name.
    Nothing,
    /// There was an array of this name, whose local header is at this byte. Another program has renamed it
    /// since.
    Renamed(u64),
    /// No array was found. Only after [`Lookup::verify`] it is certain whether there is one.
    Unsure,
}

impl Found {
    /// The member, if one was found.
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
    /// Where the array starts in the file.
    pub offset: u64,
    /// How many stored bytes of the member follow from there on.
    pub stored: u64,
}

impl LocatedArray<'_> {
    /// The same, with no part of the bytes that it was read from.
    #[must_use]
    pub fn into_owned(self) -> LocatedArray<'static> {
        let LocatedArray { header, offset, stored } = self;
        LocatedArray { header: header.into_owned(), offset, stored }
    }
}

/// The stored index of the file.
#[derive(Debug, Clone, Copy)]
struct Stored {
    /// The seal behind the index.
    seal: Seal,
    /// How the index lies in the file.
    shape: Shape,
}

/// An index in memory, which a walk made.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) index: WalkedIndex,
    /// What to add to the numbers of this index, so that no number means one member in the stored index and
    /// another one here.
    base: u32,
}

/// The members of an archive.
#[derive(Debug)]
pub struct Lookup {
    pub(super) directory: DirectoryLocation,
    /// The stored index, if the file has one that can be used.
    stored: Option<Stored>,
    /// From which byte of the directory on the array fields can be believed, if any can.
    pub(super) fields_from: Option<u64>,
    /// The checksums of the stored index and of the directory matched the seal.
    checked: AtomicBool,
    /// A lookup found that the index or the directory was changed since. This overrides `checked`.
    edited: AtomicBool,
    /// The directory cannot be read, and the members were found without it.
    recovered: AtomicBool,
    pub(super) walked: OnceBox<Walked>,
}

impl Lookup {
    /// The lookup of a file, from its survey. Asks `keep_going` every 65,536 members.
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

    /// Leaves members out, as if they were not there. Another index takes the place of the stored one.
    ///
    /// # Errors
    /// As for [`WalkedIndex::build`], and if a writer overwrote the directory meanwhile.
    pub fn leave_out(
        &mut self,
        window: Window<'_>,
        members: &[MemberId],
        keep_going: impl FnMut() -> bool,
    ) -> Result<()> {
        let (mut index, base) = if let Some(walked) = self.walked.get() {
            (walked.index.clone(), walked.base)
        } else {
            let index = WalkedIndex::build(window, self.directory.clone(), keep_going)?;
            if !self.is_there(window)? {
                return Err(ErrorKind::NoEndRecord.into());
            }
            (index, 0)
        };
        let ids: Vec<_> = members.iter().filter_map(|id| Some(MemberId(id.0.checked_sub(base)?))).collect();
        index.leave_out(window, &ids)?;
        self.walked = OnceBox::new();
        self.take_over(index, 0);
        Ok(())
    }

    fn take_over(&self, index: WalkedIndex, base: u32) {
        // Another thread may have been faster. Its index is the same.
        let _ = self.walked.set(Box::new(Walked { index, base }));
    }

    /// The number of arrays.
    pub fn len(&self) -> usize {
        self.numbers().len()
    }

    /// The numbers of all members, which are consecutive in archive order.
    fn numbers(&self) -> Range<u32> {
        match (self.walked.get(), &self.stored) {
            // With a base, both indexes have less than 2**31 members.
            (Some(walked), _) => walked.base..walked.base + walked.index.len() as u32,
            // A stored index of 2**31 members or more is not used.
            (None, stored) => 0..stored.as_ref().map_or(0, |stored| stored.seal.members() as u32),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of memory the index takes.
    pub fn memory(&self) -> usize {
        self.walked.get().map_or(0, |walked| walked.index.memory())
    }

    #[inline]
    fn table<'a>(&self, window: Window<'a>) -> Option<StoredIndex<'a>> {
        let stored = self.stored.as_ref()?;
        Some(StoredIndex::again(&stored.seal, stored.shape, window))
    }

    /// Finds the array of this name, for a caller that then makes a view: touches only what the view needs.
    ///
    /// # Errors
    /// If bytes that the lookup needs were not fetched.
    #[inline]
    pub fn find(&self, window: Window<'_>, name: &str) -> Result<Found, Missing> {
        if self.fields_from.is_some() {
            self.find_again(window, name)
        } else {
            self.find_by(window, name, WalkedIndex::find)
        }
    }

    /// Finds the array of this name. Touches the directory rather than the member.
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
                // The index leads to a record that it was not made for.
                self.edited.store(true, Ordering::Release);
            }
            Ok(member.is_some())
        })?;
        Ok(member)
    }

    /// Finds the member that is not listed and has just this name. The lookup must be verified.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    pub fn find_other(&self, window: Window<'_>, name: &str) -> Result<Option<Member>, Missing> {
        // A stored index is there only if all members are arrays.
        let Some(walked) = self.walked.get() else { return Ok(None) };
        Ok(walked.index.find_other(window, name)?.and_then(|id| walked.get(id)))
    }

    /// The names of the members that are not listed. The lookup must be verified.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    pub fn names_of_others<'a>(
        &'a self,
        window: Window<'a>,
    ) -> Result<impl Iterator<Item = String> + 'a, Missing> {
        let names = self.walked.get().map(|walked| walked.index.names_of_others(window)).transpose()?;
        Ok(names.into_iter().flatten())
    }

    /// How many members are not listed. The lookup must be verified.
    pub fn count_of_others(&self) -> usize {
        self.walked.get().map_or(0, |walked| walked.index.count_of_others())
    }

    /// Whether the stored index is in use.
    pub fn uses_stored(&self) -> bool {
        self.stored.is_some() && self.walked.get().is_none()
    }

    /// The array to which a slot of the stored index leads, if it has this name.
    #[inline]
    fn member_at_slot(&self, window: Window<'_>, name: &[u8], hit: Hit) -> Result<Option<Member>, Missing> {
        let Ok(at) = usize::try_from(hit.place) else { return Ok(None) };
        let record = self.directory.record(window, at)?.filter(|(record, _)| is_named(record, name));
        let prefix_len = self.directory.prefix_len;
        Ok(record.and_then(|(record, _)| Member::of(window.len(), &record, prefix_len, hit.number)))
    }

    /// What [`Lookup::find_again`] finds for each of these names. One name after the other would wait for
    /// memory as often as there are names, so each step is taken for all names.
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

    /// Whether the lookup can be believed about all members, and about names that it does not find.
    ///
    /// # Errors
    /// As for [`Lookup::find`].
    #[inline]
    pub fn is_verified(&self, window: Window<'_>) -> Result<bool, Missing> {
        let is_checked = || self.checked.load(Ordering::Acquire) && !self.edited.load(Ordering::Acquire);
        Ok(self.walked.get().is_some() || (is_checked() && self.is_there(window)?))
    }

    /// Whether the directory has not been overwritten. A writer of mmnpz first overwrites the end record.
    /// Once the end record of another directory is in its place, so is another seal.
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

    /// The directories in which it looks members up.
    pub fn directories(&self) -> impl Iterator<Item = &DirectoryLocation> {
        let walked = self.walked.get().map(|walked| walked.index.directory());
        std::iter::once(&self.directory).chain(walked)
    }

    /// Whether the directory cannot be read, and the members were found without it.
    pub fn is_recovered(&self) -> bool {
        self.recovered.load(Ordering::Acquire)
    }

    /// Checks whether the stored index and the directory are what they were when the file was closed. If they
    /// are not, puts an index in memory in their place. `newer` is the file as it is now, if it has grown.
    /// `is_quiet` says that no writer has the file: members that are then not found are lost.
    ///
    /// # Errors
    /// If they are not, and the members cannot be found, or a writer overwrote the directory meanwhile; and
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
        // Less than 2**32, which `stored` checks.
        let members = seal.members() as u32;
        let is_edited = self.edited.load(Ordering::Acquire);
        if !is_edited && seal.is_right(window, &mut keep_going)? && self.is_there(window)? {
            self.checked.store(true, Ordering::Release);
            return Ok(());
        }
        let index = if self.is_there(window)? {
            // Edited in place, or torn by a power failure.
            let build = |()| WalkedIndex::build(window, self.directory.clone(), &mut keep_going);
            let index = match listed::check(window, &self.directory).and_then(build) {
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
        // Members lie in the file in the order of the directory. So if all were found, they have the same
        // numbers.
        let base = if index.len() == members as usize { 0 } else { members };
        self.take_over(index, base);
        Ok(())
    }

    /// All members with their names, in archive order. The lookup must be verified.
    ///
    /// # Errors
    /// If the directory was not fetched. An error of one member takes its place among the members.
    pub fn members<'a>(
        &'a self,
        window: Window<'a>,
    ) -> Result<impl Iterator<Item = Result<(Member, String)>> + 'a, Missing> {
        self.members_from(window, 0)
    }

    /// The members from a position on with their names, in archive order. The lookup must be verified.
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
    pub(super) fn walk_from<'a>(
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

    /// Whether any member is compressed.
    pub fn has_compressed(&self) -> bool {
        self.walked.get().is_some_and(|walked| walked.index.has_compressed())
    }

    /// What tells how to decompress a member, if it is compressed.
    pub fn compressed(&self, member: &Member) -> Option<Compressed> {
        // A stored index lists no compressed member.
        self.walked.get()?.index.compressed(member).copied()
    }

    /// The member at a position in archive order, if the index in memory has it.
    pub fn known(&self, position: usize) -> Option<Member> {
        self.walked.get()?.get(MemberId(u32::try_from(position).ok()?))
    }

    pub(super) fn listed(
        &self,
        file_len: u64,
        record: &CentralRecord<'_>,
        number: u32,
    ) -> Result<(Member, String)> {
        let changed = || Error::at(ErrorKind::NamesDiffer, self.directory.range.start + record.at as u64);
        let name = record.array_name().ok().flatten().ok_or_else(changed)?;
        let name = String::from_utf8(name.into_owned()).map_err(|_| changed())?;
        let member = Member::of(file_len, record, self.directory.prefix_len, number).ok_or_else(changed)?;
        Ok((member, name))
    }

    /// The number of the member at this position in archive order.
    pub fn id(&self, position: usize) -> Option<MemberId> {
        self.numbers().nth(position).map(MemberId)
    }

    /// The position in archive order of the member with this number.
    pub fn position(&self, id: MemberId) -> u32 {
        id.0.saturating_sub(self.walked.get().map_or(0, |walked| walked.base))
    }

    /// The name of a member that was found, or has a position.
    ///
    /// # Errors
    /// If the archive does not tell it any more.
    pub fn name(&self, window: Window<'_>, id: MemberId) -> Result<String> {
        if let Some(walked) = self.walked.get()
            && id.0 >= walked.base
        {
            return walked.index.name(window, MemberId(id.0 - walked.base));
        }
        self.listed_at(window, id.0).map(|(_, name)| name)
    }

    /// The member at a position in archive order, and its name. The lookup must be verified.
    ///
    /// # Errors
    /// If there is no such member, or the archive does not tell it any more.
    pub fn at(&self, window: Window<'_>, position: usize) -> Result<(Member, String)> {
        let number = u32::try_from(position).map_err(|_| ErrorKind::DirectoryTruncated)?;
        let Some(walked) = self.walked.get() else { return self.listed_at(window, number) };
        // Without the base, which `get` adds.
        let member = walked.get(MemberId(number)).ok_or(ErrorKind::DirectoryTruncated)?;
        Ok((member, walked.index.name(window, MemberId(number))?))
    }

    fn listed_at(&self, window: Window<'_>, number: u32) -> Result<(Member, String)> {
        let table = self.table(window).ok_or(ErrorKind::DirectoryTruncated)?;
        let record = table.record(&self.directory, number)?.ok_or(ErrorKind::DirectoryTruncated)?;
        self.listed(window.len(), &record, number)
    }

    /// Locates the array of a member whose name is `name`: by the array field in the directory if that can be
    /// believed, else by the headers of the member. Refuses a header of more than `max_header_size`
    /// characters.
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
        // An array field stands only for a header of at most `MAX_HEADER_SIZE` characters.
        if max_header_size >= MAX_HEADER_SIZE
            && self.fields_from.is_some()
            && let Some(located) = self.array_field(window, member, name)?
        {
            return Ok(located);
        }
        by_header(window, member, name, max_header_size)
    }

    /// The CRC-32 that the directory has of a member whose name is `name`, or else its data descriptor; none
    /// if the local header has it.
    ///
    /// # Errors
    /// If its record was not fetched.
    pub fn checksum(&self, window: Window<'_>, member: &Member, name: &str) -> Result<Option<u32>> {
        if let Some(compressed) = self.compressed(member) {
            return Ok(Some(compressed.crc));
        }
        let listed = self.listed_checksum(window, member, name)?;
        // The directory may have been overwritten since.
        listed.map_or_else(|| member.descriptor_checksum(window, name), |crc| Ok(Some(crc)))
    }

    fn listed_checksum(
        &self,
        window: Window<'_>,
        member: &Member,
        name: &str,
    ) -> Result<Option<u32>, Missing> {
        let Some(at) = member.record() else { return Ok(None) };
        let directory = self.walked.get().map_or(&self.directory, |walked| walked.index.directory());
        let raw = directory.raw_record(window, at)?;
        let record = raw.and_then(|raw| CentralRecord::read(raw, 0)).map(|(record, _)| record);
        Ok(record
            .filter(|record| member.is_named(record, name.as_bytes()))
            .map(|record| record.header.crc.get()))
    }

    /// Whether the directory has array fields, so that readers do not need the headers of the members.
    pub fn has_headers(&self) -> bool {
        self.fields_from.is_some()
    }

    /// Whether the directory tells where the array of a member is, whose name is `name`.
    pub fn has_array_field(&self, window: Window<'_>, member: &Member, name: &str) -> bool {
        self.array_field(window, member, name).is_ok_and(|located| located.is_some())
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

    /// The array of a member by the array field in its record.
    fn by_array_field(&self, file_len: u64, raw: &[u8], name: &str) -> Option<LocatedArray<'static>> {
        // A writer may overwrite the record at any time. So the checks and the reads use one copy of it.
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

/// The array of a member by its headers.
pub(super) fn by_header<'a>(
    window: Window<'a>,
    member: &Member,
    name: &str,
    max_header_size: usize,
) -> Result<LocatedArray<'a>> {
    let Range { start, end } = member.file(window, name)?;
    let (header, data) = Header::read(window, start..end, max_header_size)?;
    let offset = start + data as u64;
    Ok(LocatedArray { header, offset, stored: end - offset })
}

impl Walked {
    pub(super) fn get(&self, id: MemberId) -> Option<Member> {
        let member = self.index.get(id)?;
        Some(member.numbered(MemberId(id.0 + self.base)))
    }

    /// What it means that the index has no member of this name: the file has none, or the member was renamed.
    #[cold]
    fn without(&self, window: Window<'_>, name: &str) -> Result<Found, Missing> {
        Ok(self.index.renamed(window, name)?.map_or(Found::Nothing, Found::Renamed))
    }
}

fn is_named(record: &CentralRecord<'_>, name: &[u8]) -> bool {
    record.array_name().is_ok_and(|other| other.is_some_and(|other| *other == *name))
}

/// The stored index of a file, if it has one that lists all members.
fn stored(window: Window<'_>, survey: &Survey) -> Result<Option<Stored>, Missing> {
    let Some(seal) = survey.seal().filter(Seal::is_last) else { return Ok(None) };
    let members = seal.members();
    let is_whole = survey.is_whole() && survey.location().is_some_and(|it| it.count == members);
    let can_be_used = is_whole && members < u64::from(u32::MAX) / 2 && seal.ends(window)?;
    let index = StoredIndex::of(&seal, window).filter(|_| can_be_used);
    Ok(index.map(|index| Stored { seal, shape: index.shape() }))
}
