//! The search for members that no directory lists, from one member to the next.
//!
//! Each member of mmnpz has a mark in its local header, and every directory that was whole has a seal in
//! front or a base behind it ([`crate::additions::mark`]). A scan goes through the file from member to member
//! and believes nothing else, so that it neither misses a member nor takes something inside of an array for
//! one.
//!
//! The highest low-water mark that it meets vouches for all members below. Of those above it, which were
//! being written when the last one was begun, the large ones are finished if their local header says so, and
//! the bytes of the others are compared with their checksum: about one for each thread that wrote, whatever
//! the size of the archive.

use std::collections::BTreeMap;
use std::ops::Range;

use memchr::memmem;

use crate::additions::base::{self, Base};
use crate::additions::filler::{self, Filler};
use crate::additions::local_member::{LocalMember, MarkedMember};
use crate::additions::mark::MemberState;
use crate::additions::seal::Seal;
use crate::error::{ErrorKind, Missing, Result};
use crate::recover::listed::Listed;
use crate::recover::partial::Partial;
use crate::recover::provenance::LOCAL_HEADER;
use crate::recover::survey::{
    DirectoryState, FoundDirectory, Source, Survey, Unfinished, Visibility, Witness,
};
use crate::window::{POLL_BYTES, Window};
use crate::zip::central::Walk;
use crate::zip::end::{DirectoryLocation, end_record_behind};
use crate::zip::name;
use crate::zip::records::{LocalHeader, Record};

/// The caller is asked whether to go on every time this many members were found.
const POLL_MEMBERS: usize = 1 << 12;

/// A directory that the scan came across.
fn hidden(location: DirectoryLocation, witness: Witness) -> Source {
    Source::Directory(FoundDirectory { location, witness, visibility: Visibility::Hidden })
}

/// A scan on its way through a file.
pub(crate) struct Scan<'a, 'f> {
    window: Window<'a>,
    /// What was found so far.
    pub(crate) survey: Survey,
    keep_going: &'f mut dyn FnMut() -> bool,
    /// The members that the directory of the survey lists.
    listed: Option<Listed<'a>>,
    /// The members that it came across that the directory does not list, by their local headers. What a seal
    /// makes out of date is taken from the front: each member once, however many seals there are.
    found: BTreeMap<u64, LocalMember>,
    /// Those that the directory lists, from their local headers to their ends.
    met: BTreeMap<u64, u64>,
    /// One of those that were found, which is newer than a seal that says that it lists all down there.
    newer: Option<LocalMember>,
    /// Where members can be that the directory does not list: from here on, nothing must be between members.
    first: u64,
    /// Behind the members that the directory lists.
    end: u64,
    /// All members below this byte are finished.
    low_water: u64,
    /// How many bytes of directories may still be read: real ones do not overlap, forged ones could.
    budget: u64,
}

impl<'a, 'f> Scan<'a, 'f> {
    /// A scan that goes on from what a survey has found.
    pub(crate) fn new(window: Window<'a>, survey: Survey, keep_going: &'f mut dyn FnMut() -> bool) -> Self {
        let seal = survey.seal();
        Scan {
            window,
            keep_going,
            listed: None,
            found: BTreeMap::new(),
            met: BTreeMap::new(),
            newer: None,
            first: seal.map_or(survey.end, |seal| seal.complete_below()),
            end: survey.end,
            low_water: seal.map_or(0, |seal| seal.complete_below()),
            budget: window.len(),
            survey,
        }
    }

    /// Goes through a file from its first byte on.
    pub(crate) fn of_all(window: Window<'a>, keep_going: &'f mut dyn FnMut() -> bool) -> Result<Self> {
        let mut scan = Self::new(window, Survey::default(), keep_going);
        scan.run(0..window.len())?;
        scan.conclude()?;
        Ok(scan)
    }

    /// Goes through a part of the file.
    pub(crate) fn run(&mut self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        // In a stretch without members of mmnpz, what the first local header says is worth a report; those
        // behind may be part of an array.
        let mut lost = false;
        let mut steps = 0;
        while let Some(data) = self.window.data_from(at).filter(|data| data.start < range.end) {
            at = data.start;
            steps += 1;
            if steps % POLL_MEMBERS == 0 {
                self.poll()?;
            }
            let marked = LocalMember::marked(self.window.until_hole(at), at)?;
            if let Some(marked) = marked.filter(|marked| self.is_whole(marked)) {
                at = self.take(&marked)?;
                lost = false;
            } else if let Some(end) = self.take_directory(at)? {
                at = end;
                lost = false;
            } else {
                let hop = self.step_over(at, &mut lost)?;
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
        marked.state == MemberState::Finished && marked.member.end <= self.window.len()
    }

    /// Takes up a member that its header says is finished; gives back what is behind it.
    fn take(&mut self, marked: &MarkedMember) -> Result<u64, Missing> {
        let member = marked.member;
        self.low_water = self.low_water.max(marked.low_water);
        if self.survey.directory().is_some() && self.listed()?.has_place(member.header) {
            self.met.insert(member.header, member.end);
            return Ok(member.end);
        }
        self.found.insert(member.header, member);
        Ok(member.end)
    }

    /// The members that the directory of the survey lists.
    fn listed(&mut self) -> Result<&Listed<'a>, Missing> {
        let listed = match self.listed.take() {
            Some(listed) => listed,
            None => Listed::of(self.window, self.survey.location())?,
        };
        Ok(self.listed.insert(listed))
    }

    /// Once all has been gone through: drops members that are not finished after all, and finds the gaps.
    pub(crate) fn conclude(&mut self) -> Result<()> {
        let found: Vec<_> = self.found.values().copied().collect();
        let mut sound = Vec::with_capacity(found.len());
        for member in found {
            if self.is_finished(&member)? {
                sound.push(member);
                continue;
            }
            self.push_unfinished(member.header)?;
            // The header can be older than what was written into the range since.
            for inner in self.members_inside(&member)? {
                if self.is_sound(&inner)? {
                    sound.push(inner);
                }
            }
        }
        sound.sort_by_key(|member| member.header);
        self.survey.unfinished.sort_unstable_by_key(|member| member.header);
        let mut ranges: Vec<_> = self.met.iter().map(|(&start, &end)| start..end).collect();
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
        self.survey.end = if reached < self.end { self.end_of_listed()?.max(reached) } else { reached };
        self.survey.found = sound;
        Ok(())
    }

    /// Whether all bytes of a member are there. Of a small one, a low-water mark vouches for them, or their
    /// checksum: that alone if nothing follows the member where its header says that it ends, as a power
    /// failure can have brought an older header back.
    fn is_finished(&mut self, member: &LocalMember) -> Result<bool> {
        if member.is_large() {
            return Ok(true);
        }
        let is_vouched_for = member.end <= self.low_water
            && (self.found.contains_key(&member.end)
                || self.met.contains_key(&member.end)
                || Filler::is_at(self.window.until_hole(member.end), member.end)?);
        if is_vouched_for { Ok(true) } else { self.is_sound(member) }
    }

    /// The members of mmnpz whose headers are among the bytes of one that is not finished.
    fn members_inside(&mut self, member: &LocalMember) -> Result<Vec<LocalMember>> {
        let mut inside = Vec::new();
        let mut at = member.header + 1;
        // A header that begins with the last byte is seen, too.
        let end = member.end.saturating_add(LOCAL_HEADER.len() as u64 - 1).min(self.window.len());
        while let Some(next) = self.next_record(at..end)? {
            let marked = LocalMember::marked(self.window.until_hole(next), next)?;
            at = match marked.filter(|marked| self.is_whole(marked)) {
                Some(marked) => {
                    inside.push(marked.member);
                    marked.member.end
                }
                None => next + 1,
            };
        }
        Ok(inside)
    }

    /// Whether a filler is in a range, and all of it: a kill can leave a part.
    fn is_filled(&mut self, range: &Range<u64>) -> Result<bool> {
        let filler = filler::read(self.window.until_hole(range.start), range.start)?;
        match filler.filter(|filler| filler.end == range.end) {
            Some(filler) => self.is_sound(&filler),
            None => Ok(false),
        }
    }

    /// Where the last member ends that the directory lists, if all of them can be read; else what its seal
    /// says.
    fn end_of_listed(&mut self) -> Result<u64, Missing> {
        if self.survey.seal().is_none() {
            return Ok(self.end);
        }
        let (window, first, end_of_all) = (self.window, self.first, self.end);
        let mut end = first;
        for header in self.listed()?.places().filter(|&header| header >= first) {
            let member = LocalMember::read(window, header)?;
            end = end.max(member.map_or(end_of_all, |member| member.end));
        }
        Ok(end)
    }

    fn is_sound(&mut self, member: &LocalMember) -> Result<bool> {
        let crc = self.window.crc(&(member.file..member.end), &mut *self.keep_going)?;
        Ok(crc == Some(member.crc))
    }

    /// Reports what a local header says that was begun.
    fn push_unfinished(&mut self, at: u64) -> Result<(), Missing> {
        let here = self.window.until_hole(at);
        let Some(header) = LocalHeader::find(here, at)? else { return Ok(()) };
        let start = at + LocalHeader::SIZE as u64;
        // A power failure can have kept a part of the name from the disk: the header counts all the same.
        let raw = here.get_inside(start..start + u64::from(header.name_len.get()))?;
        let name = name::decode(raw, header.flags.get()).unwrap_or_default();
        let name = name.strip_suffix(name::EXTENSION).unwrap_or(&name).to_owned();
        let end = LocalMember::marked(here, at)?.map(|marked| marked.member.end);
        self.survey.unfinished.push(Unfinished { header: at, name, end });
        Ok(())
    }

    /// Takes up a directory that a record at `at` vouches for; gives back what is behind it.
    fn take_directory(&mut self, at: u64) -> Result<Option<u64>> {
        let here = self.window.until_hole(at);
        let base = match Base::read(here, at)? {
            Some(base) => Some(base),
            None => base::base_in(self.window, at)?,
        };
        if let Some(base) = base
            && self.survey.seal().is_none_or(|known| base.end_record() >= known.directory_end())
        {
            return self.take_base(&base);
        }
        match Seal::read(here, at)? {
            Some(seal) => self.take_seal(seal),
            None => Ok(None),
        }
    }

    /// Takes up the directory of another program that a base vouches for; gives back what is behind the base.
    fn take_base(&mut self, base: &Base) -> Result<Option<u64>> {
        let directory = match base.directory(self.window) {
            Ok(directory) => directory,
            Err(error) if error.is_about_file() => return Ok(None),
            Err(error) => return Err(error),
        };
        if !self.can_read(&directory)? {
            return Ok(None);
        }
        let end = base.end();
        if let Some(known) = self.survey.directory()
            && known.witness == Witness::Base
            && known.location == directory
        {
            // A writer that was killed before it went on has left it, too.
            return Ok(Some(end));
        }
        self.survey = Survey { source: hidden(directory, Witness::Base), end, ..Survey::default() };
        self.listed = None;
        self.found.clear();
        self.met.clear();
        self.newer = None;
        (self.first, self.end) = (end, end);
        self.low_water = self.low_water.max(end);
        Ok(Some(end))
    }

    /// Takes up the directory of a seal if that is the newest; gives back what is behind the directory.
    fn take_seal(&mut self, seal: Seal) -> Result<Option<u64>> {
        // One that was flushed earlier stays behind in the file until members overwrite it. Some are older
        // than a directory that was kept since.
        let is_newer = match self.survey.directory().map(|known| known.witness) {
            // Each directory ends the file, which never gets shorter: a later one is behind this one, or over
            // it. What is listed tells nothing: a place that was never written is used again, and one
            // directory can have what another had.
            Some(Witness::Seal(known, _)) => seal.at() > known.at(),
            Some(Witness::Base) => seal.members_end() >= self.survey.end,
            Some(Witness::EndRecord) | None => true,
        };
        if !is_newer {
            return Ok(None);
        }
        let Some((directory, behind)) = self.sealed(&seal)? else { return Ok(None) };
        let in_directory = Listed::of(self.window, Some(&directory))?;
        let window = self.window;
        let is_sound = seal.holds(window)?;
        // A directory that grows need not be what its seal says, as a program can have changed a name in it.
        // It can also be torn: then entries are made of two.
        let is_torn = !is_sound
            && (in_directory.len() as u64 != seal.members()
                || !in_directory.has_all_of_but_names(self.listed()?, window)?);
        if is_torn || self.is_older_than_members(&seal, &in_directory)? {
            return Ok(None);
        }
        let below = seal.complete_below();
        while let Some(entry) = self.met.first_entry().filter(|entry| *entry.key() < below) {
            entry.remove();
        }
        while let Some(entry) = self.found.first_entry().filter(|entry| *entry.key() < below) {
            let member = entry.remove();
            // An old header can have a range that reaches over what was written behind the members of the
            // directory.
            if member.end > below && !in_directory.has(&member, self.window)? {
                let inside = self.members_inside(&member)?.into_iter().filter(|inner| inner.header >= below);
                self.found.extend(inside.map(|inner| (inner.header, inner)));
            }
        }
        for header in in_directory.places() {
            if let Some(member) = self.found.remove(&header) {
                self.met.insert(member.header, member.end);
            }
        }
        (self.first, self.end) = (seal.complete_below(), seal.members_end());
        self.low_water = self.low_water.max(seal.complete_below());
        let state = if is_sound { DirectoryState::Sound } else { DirectoryState::Unknown };
        self.survey = Survey {
            source: hidden(directory, Witness::Seal(seal, state)),
            unfinished: std::mem::take(&mut self.survey.unfinished),
            end: seal.members_end(),
            ..Survey::default()
        };
        self.listed = Some(in_directory);
        Ok(Some(behind))
    }

    /// Whether a member was found that was written after a directory whose seal says that it lists all
    /// members down there: that directory is left over. Not if only the header was found, of a member whose
    /// bytes are not there.
    fn is_older_than_members(&mut self, seal: &Seal, listed: &Listed<'_>) -> Result<bool> {
        let below = seal.complete_below();
        if let Some(newer) = self.newer.filter(|newer| newer.header < below)
            && !listed.has(&newer, self.window)?
        {
            return Ok(true);
        }
        let found: Vec<_> = self.found.range(..below).map(|(_, member)| *member).collect();
        for member in found {
            if listed.has(&member, self.window)? {
                continue;
            }
            let Some(budget) = self.budget.checked_sub(member.end - member.file) else { break };
            self.budget = budget;
            if self.is_sound(&member)? {
                self.newer = Some(member);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The directory of a seal, if it is whole, and what is behind it.
    fn sealed(&mut self, seal: &Seal) -> Result<Option<(DirectoryLocation, u64)>> {
        let range = seal.directory()..seal.directory_end();
        if seal.is_growing() {
            // Its end record may be gone: all that this said is known from the archive that it goes on with,
            // if any. Its checksum is not asked: whoever adds to a directory does not know whether it is
            // right.
            let base = self.survey.location();
            let directory = DirectoryLocation {
                range,
                prefix_len: base.map_or(0, |base| base.prefix_len),
                comment: base.map_or(0..0, |base| base.comment.clone()),
                count: seal.members(),
            };
            let behind = seal.directory_end();
            let is_whole = self.can_read(&directory)?
                && Walk::new(directory.records(self.window)?).count() as u64 == seal.members();
            return Ok(is_whole.then_some((directory, behind)));
        }
        let Some(end_record) = end_record_behind(self.window, seal.directory_end())? else { return Ok(None) };
        let directory = match DirectoryLocation::from_end_record(self.window, end_record) {
            Ok(directory) => directory,
            Err(error) if error.is_about_file() => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_whole = directory.range == range
            && seal.has_end_records(self.window)?
            && self.can_read(&directory)?
            && seal.holds(self.window)?;
        let behind = directory.comment.end;
        Ok(is_whole.then_some((directory, behind)))
    }

    /// Whether all of a directory can be read.
    fn can_read(&mut self, directory: &DirectoryLocation) -> Result<bool> {
        let size = directory.range.end - directory.range.start;
        let Some(budget) = self.budget.checked_sub(size) else { return Ok(false) };
        self.budget = budget;
        match directory.is_readable(self.window) {
            Err(error) if !error.is_about_file() => Err(error),
            read => Ok(read.is_ok()),
        }
    }

    /// What a local header at `at` of no finished member says where the next record is.
    fn step_over(&mut self, at: u64, lost: &mut bool) -> Result<Option<u64>, Missing> {
        let here = self.window.until_hole(at);
        let member = LocalMember::read(here, at)?;
        let marked = LocalMember::marked(here, at)?;
        if let Some(marked) = marked {
            // When it was begun, the members below were finished, whatever became of it.
            self.low_water = self.low_water.max(marked.low_water);
        }
        if Filler::is_at(here, at)? {
            // Of an archive without a member, a filler reaches up to the directory. The first member goes in
            // its place, and others that overtook that one are among the bytes.
            return Ok(None);
        }
        // A power failure can have torn the local header of a stream that was extended.
        if !*lost || marked.is_some() || Partial::read(self.window, at)?.is_some() {
            if LocalHeader::find(here, at)?.is_none() {
                return Ok(None);
            }
            self.push_unfinished(at)?;
            *lost = true;
        }
        // This only saves going through the bytes of the member: where no record is, they are gone through.
        let Some(end) = member.map(|member| member.end) else { return Ok(None) };
        let there = self.window.until_hole(end);
        if LocalMember::marked(there, end)?.is_some() {
            return Ok(Some(end));
        }
        let is_record = matches!(
            there.get(end..end.saturating_add(4))?,
            Some(b"PK\x03\x04" | b"PK\x01\x02" | b"PK\x05\x06" | b"PK\x06\x06" | b"PKmm")
        );
        Ok(is_record.then_some(end))
    }

    /// Where the next record starts that could be a member or vouch for a directory.
    fn next_record(&mut self, mut range: Range<u64>) -> Result<Option<u64>> {
        const OVERLAP: u64 = 4;

        let finder = memmem::Finder::new(b"PK");
        while let Some(data) = self.window.data_from(range.start).filter(|data| data.start < range.end) {
            // Four bytes more, so that a signature across the boundary is seen.
            let end = data.end.min(range.end).min(data.start + POLL_BYTES);
            let part = data.start..(end + OVERLAP).min(data.end).min(range.end);
            let found = self.window.search(part, OVERLAP, &mut |part| {
                let signature = |&at: &usize| matches!(part.get(at + 2..at + 4), Some(b"\x03\x04" | b"mm"));
                finder.find_iter(part).find(signature)
            })?;
            if found.is_some() {
                return Ok(found);
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
    pub(crate) fn chain(&mut self) -> Result<()> {
        let mut at = 0;
        while let Some(member) = LocalMember::read(self.window.until_hole(at), at)? {
            if !self.is_sound(&member)? {
                break;
            }
            self.survey.found.push(member);
            at = member.end;
        }
        if at > 0 {
            self.survey.source = Source::LocalHeaders;
            self.survey.end = self.window.len();
            self.survey.unfinished.clear();
            self.survey.gaps.clear();
            self.step_over(at, &mut false)?;
        }
        Ok(())
    }
}
