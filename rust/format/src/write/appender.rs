//! Where the next member and the next directory of an archive go: the state of a writer, without a file.
//!
//! The rules that keep an archive recoverable at every moment, for whoever does the writing:
//!
//! - Members follow one another without a byte in between. A member counts once all of it is in the file: of
//!   a large one, its local header goes there once more, last ([`crate::additions::mark`]). A directory is
//!   derived.
//! - Behind the members of another program, which have no marks, their directory is kept for good
//!   (`kept_directory`). It is overwritten only when there is a copy of it on the disk. Where members cannot
//!   follow those, they go behind that archive and a [base](crate::additions::base::Base), and its directory
//!   stays where it is.
//! - Members go into the room in front of a directory of mmnpz, if it has some, and their records behind
//!   those that it has ([`crate::write::grow_in_place`]). Where there is no room, members may overwrite it,
//!   unless it was written for readers to use meanwhile ([`Publish::Flush`]): then [`Appender::reserve`] says
//!   that there is no room.
//! - The file never gets shorter than it was when somebody could open it.
//!
//! What is behind the members, and so what applies, are the phases of a writer (`tail`). What must be written
//! before the first member is the `prologue`. How a writer begins behind what is in a file is in `resume`.

use std::ops::Range;
use std::sync::Arc;

use crate::additions::array_field::ArrayField;
use crate::additions::fence::{self, FENCE};
use crate::additions::filler::Filler;
use crate::additions::seal::Seal;
use crate::additions::stored_index;
use crate::error::Result;
use crate::recover::survey::Survey;
use crate::write::directory_plan::{NewDirectory, Publish, Replaced};
use crate::write::directory_writer::DirectoryWriter;
use crate::write::grow_in_place::{Growing, SharedBytes};
use crate::write::patch::Patch;
use crate::write::placement::{Alignment, Placement};
use crate::write::prologue::{Prologue, Reach, Unwritten};
use crate::write::resume::Start;
use crate::write::tail::{Kind, Listing, Room, Tail, before_fence};
use crate::zip::name::StoredName;

/// The room that a directory leaves in front of it for members: at least this, at most that, and else a
/// share of the file. It is a hole in the file, which takes no space on the disk until something is written
/// there. At least more than an archive comment can have: where the end record of this directory is taken
/// away, nobody finds that of the one before, which members may have overwritten in part.
const LEAST_ROOM: u64 = 1 << 17;

const MOST_ROOM: u64 = 1 << 30;

const ROOM_SHARE: u64 = 8;

/// The last directory leaves room, too, so that members can be added without moving it: for as many bytes as
/// it has, but not more than this share of what is in front of it. A small directory is moved in no time.
const GROWTH_FROM: u64 = 1 << 16;

const GROWTH_SHARE: u64 = 128;

/// The answer to whoever wants to write a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// Its place.
    Place(Placement),
    /// There is no room in front of the directory that readers use. It must [make way](Appender::make_way),
    /// or a new one be published first, with this much room.
    NoRoom(u64),
}

/// The state of an archive that is written to.
#[derive(Debug, Clone)]
pub struct Appender {
    alignment: Alignment,
    /// Where the next member starts.
    next: u64,
    /// How long the file is at least.
    length: u64,
    /// Where the members start that are being written.
    starts: Vec<u64>,
    /// What must be in the file before anything else is.
    prologue: Option<Unwritten>,
    /// The entries of the next directory, but for those of a directory that [grows](Tail::Growing).
    directory: DirectoryWriter,
    /// What is behind the members.
    tail: Tail,
    /// How much the directory in the file lists.
    listing: Listing,
}

impl Appender {
    /// A new archive.
    pub fn new(alignment: Alignment) -> Self {
        Appender {
            alignment,
            next: 0,
            length: 0,
            starts: Vec::new(),
            prologue: None,
            directory: DirectoryWriter::default(),
            tail: Tail::Free,
            listing: Listing::Partial,
        }
    }

    /// Goes on behind what was found in a file.
    ///
    /// # Errors
    /// If the directory cannot be read to its end.
    pub fn resume(file: &SharedBytes, survey: &Survey, alignment: Alignment) -> Result<Self> {
        let Start { next, length, prologue, directory, tail, listing } = Start::behind(file, survey)?;
        let prologue = prologue.map(Unwritten::from);
        Ok(Appender { alignment, next, length, starts: Vec::new(), prologue, directory, tail, listing })
    }

    /// To how many bytes the data of arrays are aligned.
    pub fn alignment(&self) -> usize {
        self.alignment.bytes()
    }

    /// Whether there is a member of this name.
    ///
    /// # Errors
    /// If a directory that is added to where it is cannot be read to its end.
    pub fn contains(&mut self, name: &StoredName) -> Result<bool> {
        if self.is_likely(name)? {
            return Ok(true);
        }
        if let Tail::Growing { growing, .. } = &mut self.tail
            && !growing.is_sound()?
        {
            // Its index does not tell.
            self.read_growing()?;
        }
        Ok(self.directory.contains(name))
    }

    /// Whether there is a member of this name, as long as no other program has changed names in place: that
    /// is not looked at for each new member.
    ///
    /// # Errors
    /// None with a whole file.
    pub fn is_likely(&mut self, name: &StoredName) -> Result<bool> {
        let is_old = match self.tail.growing() {
            Some(growing) => growing.contains(name)?,
            None => false,
        };
        Ok(is_old || self.directory.contains(name))
    }

    /// The names of all arrays, in the order of their members; a name as often as it was written.
    ///
    /// # Errors
    /// If a directory that is added to where it is cannot be read to its end.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = self.tail.growing().map_or_else(|| Ok(Vec::new()), Growing::names)?;
        names.extend(self.directory.names());
        Ok(names)
    }

    /// How many members there are.
    pub fn count(&self) -> u64 {
        self.directory.count()
    }

    /// Whether anything must be written before anything else is.
    pub fn has_prologue(&self) -> bool {
        self.prologue.is_some()
    }

    /// What must be written before anything else is, and where; each part only when the one before is on the
    /// disk, if [it must be](Appender::must_sync_prologue). What [was
    /// written](Appender::prologue_part_is_written) before another part failed is not among it.
    pub fn prologue(&self) -> Vec<Patch> {
        let Some(Unwritten { prologue, done }) = self.prologue else { return Vec::new() };
        prologue.parts(self.reach(), &self.directory).split_off(done)
    }

    fn reach(&self) -> Reach {
        Reach { next: self.next, length: self.length }
    }

    /// Whether that must be on the disk first, also if nothing else is synced.
    pub fn must_sync_prologue(&self) -> bool {
        self.prologue.is_some_and(|unwritten| unwritten.prologue.must_sync())
    }

    /// The first part of what is left of it is written.
    pub fn prologue_part_is_written(&mut self) {
        if let Some(unwritten) = &mut self.prologue {
            unwritten.done += 1;
        }
        self.listing = Listing::Partial;
    }

    /// All of it is written.
    pub fn prologue_is_written(&mut self) {
        if let Some(Unwritten { prologue, .. }) = self.prologue.take() {
            Reach { next: self.next, length: self.length } = prologue.reach(self.reach(), &self.directory);
        }
        self.listing = Listing::Partial;
    }

    /// Makes way for what does not fit in front of a directory that grows: that is going to be overwritten,
    /// for which there is a [prologue](Appender::prologue). Reads all of it, and says whether that was done:
    /// not if another program has changed it.
    ///
    /// # Errors
    /// If it cannot be read to its end.
    pub fn make_way(&mut self) -> Result<bool> {
        if !self.read_growing()? {
            return Ok(false);
        }
        if let Tail::Room(Room { end_record: Some(end_record), kind: Kind::Grew { seal }, .. }) = self.tail {
            // Nobody relies on it as on one that was flushed.
            self.tail = Tail::Free;
            self.prologue = Some(Prologue::BlankAndSeal { end_record, seal }.into());
        }
        Ok(true)
    }

    /// Reads a directory that grows, so that it can be written elsewhere; says whether it is what its seal
    /// says.
    fn read_growing(&mut self) -> Result<bool> {
        let Tail::Growing { growing, end_record, .. } = &self.tail else { return Ok(false) };
        let old = growing.old()?;
        let is_sound = match self.directory.put_behind(&old, &[]) {
            Ok(()) => old.sound.is_some(),
            Err(error) => {
                // Torn by a power failure: the members are found without it.
                let (old, found) = growing.recovered(error)?;
                self.directory.put_behind(&old, &found)?;
                true
            }
        };
        let kind = if is_sound {
            Kind::Grew { seal: growing.reopened() }
        } else {
            Kind::Edited { remarks: growing.remarks()? }
        };
        let limit = before_fence(growing.index());
        self.tail = Tail::Room(Room { limit, end_record: Some(*end_record), kind });
        Ok(is_sound)
    }

    /// Reserves a range for an `.npy` file of `size` bytes whose first `npy_header` bytes are its header.
    ///
    /// # Errors
    /// As for [`Placement::new`].
    pub fn reserve(&mut self, name: &StoredName, npy_header: u64, size: u64) -> Result<Reserved> {
        let below = self.complete_below();
        let place = Placement::new(self.next, name, npy_header, size, self.alignment, below)?;
        Ok(self.take(place))
    }

    /// As [`Appender::reserve`], for a member that [grows](Appender::extend).
    ///
    /// # Errors
    /// Those.
    pub fn reserve_growing(&mut self, name: &StoredName, npy_header: u64, size: u64) -> Result<Reserved> {
        let below = self.complete_below();
        let place = Placement::growing(self.next, name, npy_header, size, self.alignment, below)?;
        Ok(self.take(place))
    }

    /// Takes a range, if there is room for it.
    fn take(&mut self, place: Placement) -> Reserved {
        if self.tail.limit().is_some_and(|limit| place.end > limit) {
            return Reserved::NoRoom(place.end - self.next);
        }
        self.next = place.end;
        self.tail.extend_to(place.end);
        self.starts.push(place.header);
        self.listing = Listing::Partial;
        Reserved::Place(place)
    }

    /// Extends the range of a member that grows up to this byte. None if something is behind it: it must be
    /// [reserved](Appender::reserve_growing) another one.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`](crate::error::ErrorKind::TooLarge).
    pub fn extend(&mut self, place: &Placement, end: u64) -> Result<Option<Reserved>> {
        if self.next != place.end {
            return Ok(None);
        }
        let place = place.resized(end)?;
        if self.tail.limit().is_some_and(|limit| end > limit) {
            return Ok(Some(Reserved::NoRoom(end - self.next)));
        }
        self.next = end;
        self.tail.extend_to(end);
        Ok(Some(Reserved::Place(place)))
    }

    /// Gives back what a member that has grown does not need of its range, which ended at `reserved`. If
    /// something is behind that, it is a gap, as for [`Appender::abandon`].
    pub fn cut(&mut self, place: &Placement, reserved: u64) -> Option<Filler> {
        if self.next == reserved {
            self.next = place.end;
            return None;
        }
        Filler::new(place.end..reserved)
    }

    /// Reserves ranges for several members that are written together, one behind the other: for each its
    /// name, the length of its `.npy` header, and the size of its `.npy` file. Puts their places into
    /// `places`, or returns how many bytes are needed where there is no room.
    ///
    /// # Errors
    /// As for [`Placement::new`].
    pub fn reserve_all<'a>(
        &mut self,
        members: impl Iterator<Item = (&'a StoredName, u64, u64)>,
        places: &mut Vec<Placement>,
    ) -> Result<Option<u64>> {
        places.clear();
        let (complete_below, mut next) = (self.complete_below(), self.next);
        for (name, npy_header, size) in members {
            let place = Placement::new(next, name, npy_header, size, self.alignment, complete_below)?;
            next = place.end;
            places.push(place);
        }
        let Some(first) = places.first() else { return Ok(None) };
        if self.tail.limit().is_some_and(|limit| next > limit) {
            return Ok(Some(next - self.next));
        }
        // Together they are as one that is being written.
        self.starts.push(first.header);
        self.next = next;
        self.tail.extend_to(next);
        self.listing = Listing::Partial;
        Ok(None)
    }

    /// A name is going to be there twice, of which a stored index has no notion.
    pub fn repeats_name(&mut self) {
        self.directory.forgo_index();
    }

    /// Whether members are being written.
    pub fn is_busy(&self) -> bool {
        !self.starts.is_empty()
    }

    /// Enters a member that has been written, with what is known of its array. Of members that are written
    /// together, the first one first, and all before anything else is done.
    pub fn finish(
        &mut self,
        place: &Placement,
        name: &StoredName,
        crc: u32,
        array_field: Option<&ArrayField>,
    ) {
        self.forget(place.header);
        self.directory.push(place, name, crc, array_field);
        self.length = self.length.max(place.end);
    }

    /// Gives the range of a member back that could not be written, or of members that are written together.
    /// If nothing is behind it, it is used again; else it is a gap, for which this returns what fills it (see
    /// [`Filler`]).
    ///
    /// Whoever calls this has taken the signature of the member's local header away: a recovery scan must not
    /// follow it.
    pub fn abandon(&mut self, range: Range<u64>) -> Option<Filler> {
        self.forget(range.start);
        if self.next == range.end {
            self.next = range.start;
            return None;
        }
        Filler::new(range)
    }

    /// As [`Appender::abandon`], for a range that nothing may be written to again: it is a gap in any case.
    pub fn pass_over(&mut self, range: Range<u64>) -> Option<Filler> {
        self.forget(range.start);
        Filler::new(range)
    }

    fn forget(&mut self, start: u64) {
        let at = self.starts.iter().position(|&other| other == start);
        at.map(|at| self.starts.swap_remove(at));
    }

    /// Whether there is need for another directory than the one in the file.
    pub fn needs(&self, publish: Publish) -> bool {
        match (publish, self.listing) {
            (_, Listing::Closed) => false,
            (Publish::Close, listing) => listing != Listing::Untouched,
            // Without a finished member there is nothing to show; room in front of an end record would be no
            // archive.
            (Publish::Flush(0), listing) => listing == Listing::Partial && self.count() > 0,
            (Publish::Flush(size), _) => {
                self.tail.limit().is_some_and(|limit| self.next.saturating_add(size) > limit)
            }
        }
    }

    /// The directory to write, in a file of `length` bytes: failed writes may have made it longer than is
    /// known. Nothing else may be published before [`Appender::is_published`].
    ///
    /// # Errors
    /// If one that is added to where it is cannot grow any more, and cannot be read to its end.
    pub fn publish(&mut self, publish: Publish, length: u64) -> Result<NewDirectory> {
        self.length = self.length.max(length);
        if publish == Publish::Close {
            self.directory.sort();
            if let Some(new) = self.grow()? {
                return Ok(new);
            }
        }
        self.read_growing()?;
        // An empty archive is an end record and nothing else: that is how NumPy knows it.
        let is_empty = self.length == 0 && self.next == 0;
        let at = if is_empty { 0 } else { self.place_directory(publish) };
        let is_sealed = !is_empty && (!self.tail.is_edited() || publish != Publish::Close);
        let new = self.new_directory(at, is_sealed, publish);
        self.tail.begin_directory(before_fence(new.at), new.at < self.length);
        Ok(new)
    }

    /// The last directory, with what is new behind what there was.
    fn grow(&self) -> Result<Option<NewDirectory>> {
        let Tail::Growing { growing, reached, .. } = &self.tail else { return Ok(None) };
        let (at, start) = (growing.index(), growing.records());
        let (complete_below, members_end) = (self.complete_below(), self.next);
        let end_records = self.directory.end_records(start);
        let growth = growing.grow(&self.directory, &end_records, complete_below, members_end)?;
        let Some(growth) = growth else { return Ok(None) };
        let mut new = NewDirectory {
            at,
            start: growing.end_of_records(),
            names: None,
            complete_below,
            members_end,
            records: Arc::clone(self.directory.records()),
            end_records,
            zip64: 0,
            replaced: Replaced { overwritten: Some(growing.end_record()), ..Replaced::default() },
            count: self.directory.count(),
            fields_from: self.directory.fields_from(),
            publish: Publish::Close,
            growth: Some(growth),
            before: fence::fences(members_end, (at, growing.is_fenced()), start, growing.fenced(*reached)),
            filler: None,
        };
        new.zip64 = (self.directory.end_record(new.end()) - new.behind()) as usize;
        // The file does not get shorter than what failed writes have made it.
        Ok((new.end() >= self.length).then_some(new))
    }

    /// All members that start in front of this and are ever finished are in the next directory.
    fn complete_below(&self) -> u64 {
        self.starts.iter().copied().min().unwrap_or(self.next)
    }

    /// How large the index of a directory is.
    fn index_size(&self, publish: Publish) -> u64 {
        match publish {
            Publish::Close if self.tail.is_edited() => 0,
            Publish::Close => self.directory.index_size(),
            // While it grows, whoever opens it has to look for members that are not listed anyway.
            Publish::Flush(_) => 0,
        }
    }

    /// Where the index of a directory goes, or the seal if there is none.
    fn place_directory(&self, publish: Publish) -> u64 {
        let head = self.index_size(publish) + Seal::SIZE as u64;
        let ends = |at: u64| {
            let directory = at + head;
            let end_records = self.directory.end_records(directory).len();
            directory + (self.directory.records().len() + end_records) as u64
        };
        // So that it ends where the file does; behind a filler where there is no member, as NumPy knows an
        // archive by its first bytes.
        let fence = if publish == Publish::Close { FENCE } else { 0 };
        let least = if self.next == 0 { Filler::LEAST } else { self.next + fence };
        let growth = ends(0).min(self.next / GROWTH_SHARE);
        let can_grow = publish == Publish::Close && head > Seal::SIZE as u64 && ends(0) >= GROWTH_FROM;
        let least = least + if can_grow { growth } else { 0 };
        let is_edited = self.tail.is_edited();
        let mut at = self.length.saturating_sub(if is_edited { 0 } else { ends(0) }).max(least);
        if let Publish::Flush(room) = publish {
            // In place of the one that was published before, if that leaves room enough; else behind it, so
            // that readers can use the one until the other is there.
            let in_place = matches!(self.tail, Tail::Room(_))
                && !is_edited
                && at >= self.next.saturating_add(room).saturating_add(FENCE);
            if !in_place {
                let share = (self.next / ROOM_SHARE).clamp(LEAST_ROOM, MOST_ROOM);
                at = self.length.max(self.next).saturating_add(room.saturating_add(share));
            }
        }
        // A larger offset can only make the end records longer.
        at += self.length.saturating_sub(ends(at));
        debug_assert!(ends(at) >= self.length);
        at
    }

    fn new_directory(&mut self, at: u64, sealed: bool, publish: Publish) -> NewDirectory {
        let index_size = self.index_size(publish);
        let start = if sealed { at + index_size + Seal::SIZE as u64 } else { at };
        let mut new = NewDirectory {
            at,
            start,
            names: (index_size > 0).then(|| self.directory.take_stored()),
            complete_below: self.complete_below(),
            members_end: self.next,
            records: Arc::clone(self.directory.records()),
            end_records: self.directory.end_records(start),
            zip64: 0,
            replaced: self.tail.replaced(at < self.length),
            count: self.directory.count(),
            fields_from: self.directory.fields_from(),
            publish,
            growth: None,
            before: Vec::new(),
            filler: None,
        };
        new.zip64 = (self.directory.end_record(new.end()) - new.behind()) as usize;
        if self.next == 0 && at > 0 {
            new.filler = Filler::new(0..at);
        } else if sealed && publish == Publish::Close {
            let is_fenced = stored_index::is_cut(index_size);
            new.before = fence::fences(self.next, (at, is_fenced), start, u64::MAX);
        } else if self.tail.is_edited() && self.tail.limit().is_some_and(|limit| self.next <= limit) {
            // The old directory stays where it is, with what is in front of it.
            new.before = vec![(fence::fence(0), self.next)];
        }
        new
    }

    /// A directory is in the file.
    pub fn is_published(&mut self, new: &NewDirectory) {
        self.length = self.length.max(new.end());
        self.tail.finish_directory(before_fence(new.at), self.directory.end_record(new.end()));
        self.listing = match new.publish {
            _ if self.directory.count() != new.count || self.is_busy() => Listing::Partial,
            Publish::Flush(_) => Listing::Flushed,
            Publish::Close => Listing::Closed,
        };
    }

    /// A directory could not be written to its end, in a file that has `length` bytes now. Whatever is there
    /// of it must go before anything else is written: other members would not be in it.
    pub fn publish_failed(&mut self, new: &NewDirectory, length: u64) {
        self.listing = Listing::Partial;
        let end_record = self.directory.end_record(new.end());
        if end_record >= length {
            // Its signature comes last of all, but for the seal of one that grows.
            return;
        }
        let seal = match &mut self.tail {
            Tail::Growing { growing, end_record: last, .. } if new.grows() => {
                *last = end_record;
                Some(growing.growing())
            }
            _ => None,
        };
        self.prologue = Some(Prologue::Undo { seal, end_record }.into());
    }

    /// The directory of members of another program, whose own was lost, as that program would have written
    /// it, and where it goes. Nothing else vouches for them.
    pub fn foreign_directory(&self) -> Patch {
        let end_records = self.directory.end_records(self.length);
        Patch::new(self.length, [&self.directory.records()[..], &end_records].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(appender: &mut Appender, size: u64) -> Reserved {
        appender.reserve(&StoredName::new("m").unwrap(), 0, size).unwrap()
    }

    fn add(appender: &mut Appender, size: u64) {
        let Reserved::Place(place) = reserve(appender, size) else { panic!("no room for {size} bytes") };
        appender.finish(&place, &StoredName::new("m").unwrap(), 0, None);
    }

    /// Begins a directory; members that are reserved while it is written must end in front of it.
    fn begin(appender: &mut Appender, length: u64) -> NewDirectory {
        let new = appender.publish(Publish::Flush(0), length).unwrap();
        let room = new.at - appender.next;
        for size in room.saturating_sub(2000)..room + 2000 {
            if let Reserved::Place(place) = reserve(&mut appender.clone(), size) {
                assert!(place.end + FENCE <= new.at, "{size}: {} and {}", place.end, new.at);
            }
        }
        new
    }

    #[test]
    fn members_that_are_reserved_while_a_directory_is_written_stay_in_front_of_it() {
        let mut appender = Appender::new(Alignment::new(1).unwrap());
        add(&mut appender, 100);
        let first = begin(&mut appender, 146);
        appender.is_published(&first);
        // The room is almost full, so that the next directory begins close to where members may end.
        let next = appender.next;
        add(&mut appender, before_fence(first.at) - next - 800);
        let failed = begin(&mut appender, first.end());
        assert!(failed.at < first.at && failed.overwrites());
        appender.publish_failed(&failed, first.end());
        appender.prologue_is_written();
        // The directory that could not be written is overwritten by the next one, which is larger.
        add(&mut appender, 10);
        add(&mut appender, 10);
        let last = begin(&mut appender, first.end());
        assert!(last.at < failed.at && !last.overwrites());
        appender.is_published(&last);
        assert_eq!(appender.listing, Listing::Flushed);
    }
}
