//! What members there are in a file, with or without a directory that lists them.
//!
//! A writer that was killed leaves members that no directory has: behind a directory that they have
//! overwritten, behind the archive that was appended to, or in the room in front of the last directory that
//! was flushed. Each of them has a mark in its local header, and every directory that was whole has a seal in
//! front or a base behind it ([`crate::additions::mark`]). A survey goes through the file from member to
//! member and believes nothing else, so that it neither misses a member nor takes something inside of an
//! array for one.
//!
//! The highest low-water mark that it meets vouches for all members below. Of those above it, which were
//! being written when the last one was begun, the large ones are finished if their local header says so, and
//! the bytes of the others are compared with their checksum: about one for each thread that wrote, whatever
//! the size of the archive.

use std::collections::HashSet;
use std::ops::Range;

use memchr::memmem;

use crate::additions::base::{self, Base};
use crate::additions::filler::Filler;
use crate::additions::local_member::{LocalMember, MarkedMember};
use crate::additions::mark::MemberState;
use crate::additions::seal::Seal;
use crate::bytes::slice;
use crate::error::{Error, ErrorKind, Result};
use crate::recover::stale_index;
use crate::recover::survey::{DirectoryState, Origin, Survey, Unfinished};
use crate::sparse::Sparse;
use crate::zip::central::Walk;
use crate::zip::end::DirectoryLocation;
use crate::zip::name;
use crate::zip::records::{EndRecord, Extent, LocalHeader, Record, Zip64EndRecord, Zip64Locator};

/// A member of ours starts so far from the start of the file at most, even if an extra field cannot hold its
/// padding.
const FIRST_MEMBER: usize = 1 << 17;

/// So many zeros in front of it are skipped.
const MOST_ZEROS: usize = 1 << 30;

/// How far from the end of the file a record of ours is looked for to tell whether the file could be ours.
const LAST_RECORD: u64 = 1 << 21;

/// The caller is asked whether to go on each time so many bytes were searched or members were found.
const POLL_BYTES: u64 = 1 << 26;

const POLL_MEMBERS: usize = 1 << 12;

/// The signature of a local header.
const LOCAL_HEADER: [u8; 4] = LocalHeader::SIGNATURE.to_le_bytes();

/// The signature of an end record.
const END_RECORD: [u8; 4] = EndRecord::SIGNATURE.to_le_bytes();

/// How thoroughly to look into a file without a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For what was written by us, if the file looks like it near its ends; a directory that is there is
    /// taken as it is, as who only reads finds out what is wrong with it, see [`Survey::without_directory`].
    Read,
    /// The same, and the directory is read to its end, unless it can be added to where it is.
    Append,
    /// The same, and it is only added to where it is if it is what its seal says: a power failure may have
    /// torn it.
    AppendChecked,
    /// Everywhere, and if there is nothing of ours, for members of other programs, too.
    Full,
}

/// The room in front of the directory of a file whose writer was closed: its seal says that there is no
/// member in it, and nobody looks for one there. Empty for any other file.
pub fn closed_room(bytes: &[u8]) -> Range<u64> {
    let seal = DirectoryLocation::locate(bytes).ok().and_then(|directory| Seal::before(&directory, bytes));
    seal.filter(|seal| seal.is_last() && seal.ends(bytes))
        .map_or(0..0, |seal| seal.members_end()..seal.start())
}

impl Survey {
    /// Surveys a file, without a look at its holes; `keep_going` is asked from time to time.
    ///
    /// # Errors
    /// Those of [`DirectoryLocation::locate`] if there is nothing that could be read, and
    /// [`ErrorKind::Interrupted`].
    pub fn new<'a>(
        file: impl Into<Sparse<'a>>,
        effort: Effort,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let file = file.into();
        let bytes = file.bytes;
        let located = DirectoryLocation::locate(bytes).and_then(|directory| {
            directory.is_begun(bytes)?;
            let seal = Seal::before(&directory, bytes);
            let can_grow = seal.filter(|seal| seal.can_grow(bytes));
            let state = match effort {
                Effort::Read => DirectoryState::Unknown,
                Effort::Append if can_grow.is_some() => DirectoryState::CanGrow,
                _ => match (can_grow, seal) {
                    (Some(seal), _)
                        if effort == Effort::AppendChecked && seal.is_right(file, &mut keep_going)? =>
                    {
                        DirectoryState::CanGrow
                    }
                    // Its checksum is checked in less time than its records.
                    (_, Some(seal)) if seal.is_whole(file, &mut keep_going)? => DirectoryState::Sound,
                    _ => {
                        directory.is_readable(bytes)?;
                        DirectoryState::Unknown
                    }
                },
            };
            Ok((directory, state))
        });
        let error = match located {
            Ok((directory, state)) => {
                match Self::with_directory(file, directory, state, effort, &mut keep_going)? {
                    Some(survey) => return Ok(survey),
                    // Its end record is not the one that belongs to it.
                    None => ErrorKind::NoEndRecord.into(),
                }
            }
            Err(error) if matches!(error.kind, ErrorKind::MultiDisk | ErrorKind::Interrupted) => {
                return Err(error);
            }
            Err(error) => error,
        };
        Self::without_directory(file, error, effort, keep_going)
    }

    /// Surveys a file whose directory cannot be read, with the error that tells why.
    ///
    /// # Errors
    /// That error if there is nothing else, and [`ErrorKind::Interrupted`].
    pub fn without_directory<'a>(
        file: impl Into<Sparse<'a>>,
        error: Error,
        effort: Effort,
        mut keep_going: impl FnMut() -> bool,
    ) -> Result<Self> {
        let file = file.into();
        if effort != Effort::Full && !could_be_ours(file) {
            return Err(error);
        }
        let mut scan = Scan::new(file, Survey::default(), &mut keep_going);
        scan.run(0..file.len())?;
        scan.conclude()?;
        if scan.survey.is_empty() && effort == Effort::Full && !is_begun(file) {
            // Not one of ours; perhaps another program was killed before it wrote the directory.
            scan.chain()?;
        }
        // A file in which there is nothing is what the first look says that it is, unless a writer of ours
        // began it, and was killed before its first member was finished.
        if scan.survey.is_empty() && !is_begun(file) { Err(error) } else { Ok(scan.survey) }
    }

    /// There is a directory at the end: what could it not list?
    fn with_directory(
        file: Sparse<'_>,
        directory: DirectoryLocation,
        state: DirectoryState,
        effort: Effort,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Self>> {
        let (bytes, len) = (file.bytes, file.len());
        let seal = Seal::before(&directory, bytes);
        if let Some(seal) = seal.filter(|seal| !seal.has_end_records(bytes)) {
            // It leads to what the seal stands for if another program has given the archive a comment.
            let is_same = directory.range == (seal.directory()..seal.directory_end())
                && directory.count == seal.members();
            if !is_same || (state != DirectoryState::Sound && !seal.is_whole(file, &mut *keep_going)?) {
                return Ok(None);
            }
        }
        let room =
            seal.filter(|seal| !seal.is_last()).map_or(0..0, |seal| seal.complete_below()..seal.start());
        if seal.is_none() && directory.prefix_len != 0 && (effort == Effort::Full || could_be_ours(file)) {
            // Something stands in front of this archive. If that is an archive of ours, this one is inside of
            // an array that was being written, unless it was put behind it.
            let mut scan = Scan::new(file, Survey::default(), keep_going);
            scan.run(0..len)?;
            scan.conclude()?;
            let outer = scan.survey;
            let end = outer.directory.as_ref().map(|directory| directory.comment.end);
            let is_behind = outer.found.is_empty()
                && end.and_then(|end| i64::try_from(end).ok()) == Some(directory.prefix_len);
            if !is_behind && (!outer.is_empty() || is_begun(file)) {
                return Ok(Some(outer));
            }
        }
        let seal = seal.filter(|seal| seal.ends(bytes) || !seal.is_last());
        let state = if seal.is_some() { state } else { DirectoryState::Unknown };
        let mut survey = Survey { seal, state, is_clean: true, ..Survey::default() };
        if seal.is_none() && effort != Effort::Read {
            survey.stale_indexes = stale_index::find(bytes, &directory);
        }
        // Behind the end record there can be members that were appended to another program's archive, and a
        // part of a directory of ours: at most 64 KiB, or the end record would not have been found.
        let behind = directory.comment.end..len;
        let is_at_end = directory.is_near_end(bytes);
        survey.is_at_end = is_at_end;
        survey.end = seal.map_or(len, |seal| seal.members_end());
        let range = directory.range.clone();
        survey.directory = Some(directory);
        if room.is_empty() && behind.is_empty() {
            return Ok(Some(survey));
        }
        let mut scan = Scan::new(file, survey, keep_going);
        let behind_end = behind.clone();
        scan.run(room)?;
        scan.run(behind)?;
        scan.conclude()?;
        let mut survey = scan.survey;
        // The one that was found by its end record may have been passed over.
        survey.is_at_end = is_at_end && survey.directory.as_ref().is_some_and(|found| found.range == range);
        // Other programs take the last end record. If it is torn, so that an earlier one counts here, that is
        // no state to leave a file in.
        let end_record = memmem::find(slice(bytes, &behind_end).unwrap_or_default(), &END_RECORD);
        survey.is_clean =
            end_record.is_none() && (seal.is_some_and(|seal| seal.ends(bytes)) || survey.end == len);
        Ok(Some(survey))
    }
}

/// The first local header near the start of a file; or near where it is not zero any more, if a writer was
/// killed before it wrote anything of its first member, while another thread had begun to write behind it.
fn first_header(file: Sparse<'_>) -> Option<u64> {
    let mut zeros = 0;
    for data in file.data_in(0..file.len()) {
        let bytes = file.slice(&data)?;
        let bytes = &bytes[..bytes.len().min(MOST_ZEROS - zeros)];
        if let Some(first) = bytes.iter().position(|&byte| byte != 0) {
            let start = &bytes[first..bytes.len().min(first + FIRST_MEMBER)];
            let found = memmem::find(start, &LOCAL_HEADER)?;
            return Some(data.start + (first + found) as u64);
        }
        zeros += bytes.len();
    }
    None
}

/// Whether a file has what a file of ours has somewhere near its ends.
fn could_be_ours(file: Sparse<'_>) -> bool {
    let is_marked = |at: u64| LocalMember::marked(file.until_hole(at), at).is_some();
    let mut end = file.data_in(file.len().saturating_sub(LAST_RECORD)..file.len());
    first_header(file).is_some()
        || end.any(|data| {
            let bytes = file.slice(&data).unwrap_or_default();
            let mut headers = memmem::find_iter(bytes, &LOCAL_HEADER);
            memmem::find(bytes, b"PKmm").is_some() || headers.any(|at| is_marked(data.start + at as u64))
        })
}

/// Whether a file starts with a member that a writer of ours began, or with what stands in the place of one.
fn is_begun(file: Sparse<'_>) -> bool {
    first_header(file).is_some_and(|at| {
        let bytes = file.until_hole(at);
        LocalMember::marked(bytes, at).is_some() || Filler::is_at(bytes, at)
    })
}

struct Scan<'a, 'f> {
    file: Sparse<'a>,
    bytes: &'a [u8],
    survey: Survey,
    keep_going: &'f mut dyn FnMut() -> bool,
    /// Where the local headers of the members are that the directory of the survey lists.
    listed: Option<HashSet<u64>>,
    /// The members that it came across that the directory lists.
    met: Vec<Range<u64>>,
    /// Where members can be that the directory does not list: from here on, nothing must be between members.
    first: u64,
    /// Behind the members that the directory lists.
    end: u64,
    /// All members below this byte are finished.
    low_water: u64,
    /// So many bytes of directories may still be read: real ones do not overlap, forged ones could.
    budget: u64,
}

impl<'a, 'f> Scan<'a, 'f> {
    fn new(file: Sparse<'a>, survey: Survey, keep_going: &'f mut dyn FnMut() -> bool) -> Self {
        let seal = survey.seal;
        Scan {
            file,
            bytes: file.bytes,
            keep_going,
            listed: None,
            met: Vec::new(),
            first: seal.map_or(survey.end, |seal| seal.complete_below()),
            end: survey.end,
            low_water: seal.map_or(0, |seal| seal.complete_below()),
            budget: file.len(),
            survey,
        }
    }

    /// Goes through a part of the file.
    fn run(&mut self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        // In a stretch that is not members of ours, what its first local header says is worth a report; those
        // behind may be part of an array.
        let mut lost = false;
        let mut steps = 0;
        while let Some(data) = self.file.data_from(at).filter(|data| data.start < range.end) {
            at = data.start;
            steps += 1;
            if steps % POLL_MEMBERS == 0 {
                self.poll()?;
            }
            let marked = LocalMember::marked(self.file.until_hole(at), at);
            if let Some(marked) = marked.filter(|marked| self.is_whole(marked)) {
                at = self.take(&marked);
                lost = false;
            } else if let Some(end) = self.take_directory(at) {
                at = end;
                lost = false;
            } else {
                let hop = self.step_over(at, &mut lost);
                let Some(next) = (match hop {
                    Some(next) => Some(next),
                    None => self.next_record(at + 1..range.end)?,
                }) else {
                    break;
                };
                at = next;
            }
        }
        Ok(())
    }

    /// Whether a member is finished, as far as its local header and the length of the file tell.
    fn is_whole(&self, marked: &MarkedMember) -> bool {
        marked.state == MemberState::Finished && marked.member.end <= self.bytes.len() as u64
    }

    /// Takes up a member that its header says is finished; gives back what is behind it.
    fn take(&mut self, marked: &MarkedMember) -> u64 {
        let member = marked.member;
        self.low_water = self.low_water.max(marked.low_water);
        if self.survey.directory.is_some() {
            let listed =
                self.listed.get_or_insert_with(|| listed(self.bytes, self.survey.directory.as_ref()));
            if listed.contains(&member.header) {
                self.met.push(member.header..member.end);
                return member.end;
            }
        }
        self.survey.found.push(member);
        member.end
    }

    /// Once all has been gone through: drops members that are not finished after all, and finds the gaps.
    fn conclude(&mut self) -> Result<()> {
        let found = std::mem::take(&mut self.survey.found);
        let mut sound = Vec::with_capacity(found.len());
        for member in found {
            if member.is_large() || member.end <= self.low_water || self.is_sound(&member)? {
                sound.push(member);
            } else {
                self.push_unfinished(member.header);
            }
        }
        self.survey.unfinished.sort_unstable_by_key(|member| member.header);
        let mut ranges = std::mem::take(&mut self.met);
        ranges.extend(sound.iter().map(|member| member.header..member.end));
        ranges.sort_unstable_by_key(|range| range.start);
        let mut reached = self.first;
        for range in ranges {
            if range.start > reached && !self.is_filled(&(reached..range.start))? {
                self.survey.gaps.push(reached..range.start);
            }
            reached = reached.max(range.end);
        }
        // Behind the members that a directory lists can be others that were reserved before it was written,
        // and never finished.
        self.survey.end = if reached < self.end { self.end_of_listed().max(reached) } else { reached };
        self.survey.found = sound;
        Ok(())
    }

    /// Whether a filler is in a range, and all of it: a kill can leave a part.
    fn is_filled(&mut self, range: &Range<u64>) -> Result<bool> {
        let here = self.file.until_hole(range.start);
        let filler = Filler::is_at(here, range.start).then(|| LocalMember::read(here, range.start)).flatten();
        match filler.filter(|filler| filler.end == range.end) {
            Some(filler) => self.is_sound(&filler),
            None => Ok(false),
        }
    }

    /// Where the last member ends that the directory lists, if all of them can be read; else what its seal
    /// says.
    fn end_of_listed(&mut self) -> u64 {
        let bytes = self.bytes;
        if self.survey.seal.is_none() {
            return self.end;
        }
        let listed = self.listed.get_or_insert_with(|| listed(bytes, self.survey.directory.as_ref()));
        let behind = listed.iter().filter(|&&header| header >= self.first);
        let ends = behind.map(|&header| LocalMember::read(bytes, header).map(|member| member.end));
        ends.map(|end| end.unwrap_or(self.end)).fold(self.first, u64::max)
    }

    fn is_sound(&mut self, member: &LocalMember) -> Result<bool> {
        let crc = self.file.crc(&(member.file..member.end), &mut *self.keep_going)?;
        Ok(crc == Some(member.crc))
    }

    /// Reports what a local header says that was begun.
    fn push_unfinished(&mut self, at: u64) {
        let bytes = self.file.until_hole(at);
        let Ok(header) = LocalHeader::read(bytes, at, ErrorKind::LocalOutside) else { return };
        let start = at + LocalHeader::SIZE as u64;
        let end = (start + u64::from(header.name_len.get())).min(bytes.len() as u64);
        // A power failure can have kept a part of the name from the disk: the header counts all the same.
        let raw = slice(bytes, &(start..end)).unwrap_or_default();
        let name = name::decode(raw, header.flags.get()).unwrap_or_default();
        let name = name.strip_suffix(name::EXTENSION).unwrap_or(&name).to_owned();
        self.survey.unfinished.push(Unfinished { header: at, name });
    }

    /// Takes up a directory that a record at `at` vouches for; gives back what is behind it.
    fn take_directory(&mut self, at: u64) -> Option<u64> {
        let bytes = self.bytes;
        let here = self.file.until_hole(at);
        if let Some(base) = Base::read(here, at).or_else(|| base::base_in(self.file, at))
            && self.survey.seal.is_none_or(|known| base.end_record() >= known.directory_end())
        {
            let directory = base.directory(bytes).ok()?;
            self.can_read(&directory).then_some(())?;
            let end = base.end();
            if self.survey.origin == Origin::Base && self.survey.directory.as_ref() == Some(&directory) {
                // One that was killed before it went on has left it, too.
                return Some(end);
            }
            self.survey =
                Survey { directory: Some(directory), origin: Origin::Base, end, ..Survey::default() };
            self.listed = None;
            self.met.clear();
            (self.first, self.end) = (end, end);
            self.low_water = self.low_water.max(end);
            return Some(self.survey.end);
        }
        let seal = Seal::read(here, at)?;
        // One that was flushed earlier stays behind in the file until members overwrite it.
        // Some are older than a directory that was kept since.
        let is_behind_base = self.survey.origin != Origin::Base || seal.members_end() >= self.survey.end;
        let is_newer = self.survey.seal.is_none_or(|known| seal.members_end() > known.members_end());
        (is_newer && is_behind_base).then_some(())?;
        let (directory, behind) = self.sealed(&seal)?;
        let in_directory = listed(bytes, Some(&directory));
        let mut found = std::mem::take(&mut self.survey.found);
        found.retain(|member| member.header >= seal.complete_below());
        let (in_directory_too, found): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|member| in_directory.contains(&member.header));
        self.met.retain(|range| range.start >= seal.complete_below());
        self.met.extend(in_directory_too.iter().map(|member| member.header..member.end));
        (self.first, self.end) = (seal.complete_below(), seal.members_end());
        self.low_water = self.low_water.max(seal.complete_below());
        self.survey = Survey {
            directory: Some(directory),
            seal: Some(seal),
            state: if seal.holds(bytes) { DirectoryState::Sound } else { DirectoryState::Unknown },
            found,
            unfinished: std::mem::take(&mut self.survey.unfinished),
            end: seal.members_end(),
            ..Survey::default()
        };
        self.listed = Some(in_directory);
        Some(behind)
    }

    /// The directory of a seal, if it is whole, and what is behind it.
    fn sealed(&mut self, seal: &Seal) -> Option<(DirectoryLocation, u64)> {
        let range = seal.directory()..seal.directory_end();
        if seal.is_growing() {
            // Its end record may be gone: all that this said is known from the archive that it goes on with,
            // if any. Its checksum is not asked: whoever adds to a directory does not know whether it is
            // right.
            let base = self.survey.directory.as_ref();
            let directory = DirectoryLocation {
                range,
                prefix_len: base.map_or(0, |base| base.prefix_len),
                comment: base.map_or(0..0, |base| base.comment.clone()),
                count: seal.members(),
            };
            let behind = seal.directory_end();
            let is_whole = self.can_read(&directory)
                && slice(self.bytes, &directory.range)
                    .is_some_and(|records| Walk::new(records).count() as u64 == seal.members());
            return is_whole.then_some((directory, behind));
        }
        let directory = DirectoryLocation::from_end_record(
            self.bytes,
            end_record_behind(self.bytes, seal.directory_end())?,
        )
        .ok()?;
        let is_whole = directory.range == range
            && seal.has_end_records(self.bytes)
            && self.can_read(&directory)
            && seal.holds(self.bytes);
        let behind = directory.comment.end;
        is_whole.then_some((directory, behind))
    }

    /// Whether all of a directory can be read.
    fn can_read(&mut self, directory: &DirectoryLocation) -> bool {
        let size = directory.range.end - directory.range.start;
        let Some(budget) = self.budget.checked_sub(size) else { return false };
        self.budget = budget;
        directory.is_readable(self.bytes).is_ok()
    }

    /// What a local header at `at` of no finished member says where the next record is.
    fn step_over(&mut self, at: u64, lost: &mut bool) -> Option<u64> {
        let here = self.file.until_hole(at);
        let member = LocalMember::read(here, at);
        let marked = LocalMember::marked(here, at);
        if let Some(marked) = marked {
            // When it was begun, the members below were finished, whatever became of it.
            self.low_water = self.low_water.max(marked.low_water);
        }
        if (!*lost || marked.is_some()) && !Filler::is_at(here, at) {
            LocalHeader::read(here, at, ErrorKind::LocalOutside).ok()?;
            self.push_unfinished(at);
            *lost = true;
        }
        // This only saves going through the bytes of the member: where no record is, they are gone through.
        let end = member?.end;
        let there = self.file.until_hole(end);
        if LocalMember::marked(there, end).is_some() {
            return Some(end);
        }
        let record = slice(there, &(end..end.checked_add(4)?))?;
        matches!(record, b"PK\x03\x04" | b"PK\x01\x02" | b"PK\x05\x06" | b"PK\x06\x06" | b"PKmm")
            .then_some(end)
    }

    /// Where the next record starts that could be a member or vouch for a directory.
    fn next_record(&mut self, mut range: Range<u64>) -> Result<Option<u64>> {
        let finder = memmem::Finder::new(b"PK");
        while let Some(data) = self.file.data_from(range.start).filter(|data| data.start < range.end) {
            // Four bytes more, so that a signature across the boundary is seen.
            let end = data.end.min(range.end).min(data.start + POLL_BYTES);
            let Some(part) = slice(self.bytes, &(data.start..(end + 4).min(data.end).min(range.end))) else {
                break;
            };
            let signature = |&at: &usize| matches!(part.get(at + 2..at + 4), Some(b"\x03\x04" | b"mm"));
            if let Some(found) = finder.find_iter(part).find(signature) {
                return Ok(Some(data.start + found as u64));
            }
            range.start = end;
            self.poll()?;
        }
        Ok(None)
    }

    fn poll(&mut self) -> Result<()> {
        if (self.keep_going)() { Ok(()) } else { Err(ErrorKind::Interrupted.into()) }
    }

    /// Follows the members of another program from the start of the file, as long as their checksums are
    /// right.
    fn chain(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(member) = LocalMember::read(self.file.until_hole(at), at) {
            if !self.is_sound(&member)? {
                break;
            }
            self.survey.found.push(member);
            at = member.end;
        }
        if at > 0 {
            self.survey.origin = Origin::Members;
            self.survey.end = self.bytes.len() as u64;
            self.survey.unfinished.clear();
            self.survey.gaps.clear();
            self.step_over(at, &mut false);
        }
        Ok(())
    }
}

/// Where the local headers of the members are that a directory lists.
fn listed(bytes: &[u8], directory: Option<&DirectoryLocation>) -> HashSet<u64> {
    let Some(directory) = directory else { return HashSet::new() };
    let records = slice(bytes, &directory.range).unwrap_or_default();
    let place = |extent: Extent| extent.local_offset.checked_add_signed(directory.prefix_len);
    Walk::new(records)
        .filter_map(|record| Extent::read(record.header, record.extra).ok().and_then(place))
        .collect()
}

/// Where the end record of a directory is that ends at `at`.
fn end_record_behind(bytes: &[u8], at: u64) -> Option<u64> {
    let is = |at| EndRecord::read(bytes, at, ErrorKind::NoEndRecord).is_ok();
    let behind_zip64 = at.checked_add((Zip64EndRecord::SIZE + Zip64Locator::SIZE) as u64)?;
    [at, behind_zip64].into_iter().find(|&at| is(at))
}
