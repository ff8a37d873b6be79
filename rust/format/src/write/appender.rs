//! Where the next member and the next directory of an archive go: the state of a writer, without a file.
//!
//! The rules that keep an archive recoverable at every moment, for whoever does the writing:
//!
//! - Members follow one another without a byte in between. A member counts once all of it is in the file: of
//!   a large one, its local header goes there once more, last ([`crate::additions::mark`]). A directory is
//!   derived.
//! - Behind the members of another program, which have no marks, their directory is kept for good
//!   (`kept_directory`). It is overwritten only when there is a copy of it on the disk. Where
//!   members cannot follow those, they go behind that archive and a [`Base`], and its directory stays where
//!   it is.
//! - Members go into the room in front of a directory of mmnpz, if it has some, and their records behind
//!   those that it has ([`crate::write::grow_in_place`]). Where there is no room, members may overwrite it,
//!   unless it was written for readers to use meanwhile ([`Publish::Flush`]): then [`Appender::reserve`] says
//!   that there is no room.
//! - The file never gets shorter than it was when somebody could open it.

use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::additions::array_field::ArrayField;
use crate::additions::base::Base;
use crate::additions::fence::{self, FENCE};
use crate::additions::filler::Filler;
use crate::additions::seal::Seal;
use crate::additions::stored_index;
use crate::error::Result;
use crate::recover::survey::{DirectoryState, FoundDirectory, Place, Survey, Witness};
use crate::window::Window;
use crate::write::directory_plan::{BLANK, NewDirectory, Publish};
use crate::write::directory_writer::{DirectoryWriter, OldDirectory};
use crate::write::grow_in_place::{Growing, SharedBytes};
use crate::write::kept_directory::{self, KeptDirectory};
use crate::write::patch::Patch;
use crate::write::placement::{Alignment, Placement};
use crate::write::remark;
use crate::zip::name::StoredName;
use crate::zip::records::{EndRecord, Record};

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

/// What must be in a file before members are appended.
#[derive(Debug, Clone, Copy)]
enum Prologue {
    /// Behind an archive of another program: what vouches for its directory, by its end record.
    Base(u64),
    /// Behind the members of another program: their directory, which has this end record.
    Keep(u64),
    /// In front of a directory of mmnpz with room: that it need not be the last, or that it grows.
    Seal(Seal),
    /// In place of the signature of the end record of a directory of mmnpz, which members are going to
    /// overwrite.
    Blank(u64),
    /// In place of the signature of the end record of a directory that was added to, whose seal says that it
    /// grows: this seal does not.
    SealAndBlank(Seal, u64),
    /// In place of the signature of the end record of a directory that could not be written to its end, of
    /// which nobody knows how much is there. If members were being added to one, that still grows.
    Undo(Option<Seal>, u64),
}

/// Where members must end that leave room for a fence in front of this byte.
fn before_fence(start: u64) -> u64 {
    start.saturating_sub(FENCE)
}

/// The state of an archive that is written to.
#[derive(Debug, Clone)]
pub struct Appender {
    alignment: Alignment,
    /// Where the next member starts.
    next: u64,
    /// What reaches past this byte would overwrite a directory that readers use, or the place of a fence in
    /// front of it.
    limit: Option<u64>,
    /// In front of this, members may have overwritten fences.
    reached: u64,
    /// How long the file is at least.
    length: u64,
    /// What must be in the file before anything else is.
    prologue: Option<Prologue>,
    /// How many parts of that are in the file.
    prologue_done: usize,
    /// The end record of a directory that readers use.
    end_record: Option<u64>,
    /// The end record behind which a base was written: that knows the directory without its signature, which
    /// goes when a directory of mmnpz is there.
    foreign_end_record: Option<u64>,
    /// The end record of a directory that an earlier writer had copied, and that still leads to it.
    copied_end_record: Option<u64>,
    directory: DirectoryWriter,
    /// What `directory` comes behind, as long as that stays where it is.
    growing: Option<Growing>,
    /// The seal of a directory that was added to, as it is when that ends: its records may be overwritten.
    reopened: Option<Seal>,
    /// The directory that there was is not what we wrote. It stays for what nothing else vouches for, and the
    /// next one does not pass for ours.
    is_edited: bool,
    /// Marks of its members that do not hold any more, as they must be before another one takes its place.
    remarks: Vec<Patch>,
    /// Where the members start that are being written.
    starts: Vec<u64>,
    /// The directory in the file does not list all that is there, or leaves room.
    is_unfinished: bool,
    /// The directory in the file does not list all that is there.
    has_unlisted: bool,
}

impl Appender {
    /// A new archive.
    pub fn new(alignment: Alignment) -> Self {
        Appender {
            alignment,
            next: 0,
            limit: None,
            reached: 0,
            length: 0,
            prologue: None,
            prologue_done: 0,
            end_record: None,
            foreign_end_record: None,
            copied_end_record: None,
            directory: DirectoryWriter::default(),
            growing: None,
            reopened: None,
            is_edited: false,
            remarks: Vec::new(),
            starts: Vec::new(),
            is_unfinished: true,
            has_unlisted: true,
        }
    }

    /// Goes on behind what was found in a file.
    ///
    /// # Errors
    /// If the directory cannot be read to its end.
    pub fn resume(file: &SharedBytes, survey: &Survey, alignment: Alignment) -> Result<Self> {
        let window = Window::from((**file).as_ref());
        let found = survey.directory();
        if let Some(FoundDirectory { location, witness, .. }) = found
            && let Witness::Seal(seal, DirectoryState::CanGrow) = *witness
        {
            let growing = Growing::new(file, location, seal);
            return Ok(Appender {
                next: survey.end,
                limit: Some(before_fence(seal.start())),
                length: window.len(),
                prologue: Some(Prologue::Seal(seal.growing())),
                end_record: Some(growing.end_record()),
                directory: growing.writer()?,
                growing: Some(growing),
                is_unfinished: false,
                has_unlisted: false,
                ..Self::new(alignment)
            });
        }
        let holds = match found.map(|found| found.witness) {
            Some(Witness::Seal(seal, DirectoryState::Sound)) => Some(seal),
            _ => None,
        };
        let old = OldDirectory::of(window, survey.location(), holds.as_ref())?;
        let mut appender = Appender {
            next: survey.end,
            length: window.len(),
            directory: DirectoryWriter::resume(&old, &survey.found_records(window)?)?,
            is_unfinished: !survey.is_whole(),
            has_unlisted: !survey.is_whole(),
            ..Self::new(alignment)
        };
        let Some(FoundDirectory { location, witness, place }) = found else { return Ok(appender) };
        let end_record = location.comment.start.checked_sub(EndRecord::SIZE as u64);
        let is_at_end = *place != Place::Hidden;
        match *witness {
            Witness::Seal(seal, state) if !seal.is_last() => {
                // Readers may use the directory that was flushed last.
                appender.limit = Some(before_fence(seal.start()));
                appender.end_record = end_record.filter(|_| is_at_end);
                appender.is_unfinished = true;
                appender.is_edited = state != DirectoryState::Sound;
                if appender.is_edited {
                    appender.remarks = remark::remarks(window, location)?;
                }
                // Nobody may take its records for whole once others are written over them.
                appender.reopened = holds.filter(Seal::is_growing).map(Seal::reopened);
            }
            Witness::Seal(seal, DirectoryState::Sound) => {
                if seal.has_room() {
                    // An earlier writer has left room.
                    appender.limit = Some(before_fence(seal.start()));
                    appender.end_record = end_record.filter(|_| is_at_end);
                    appender.prologue = Some(Prologue::Seal(seal.reopened()));
                } else if is_at_end {
                    appender.prologue = end_record.map(Prologue::Blank);
                }
            }
            Witness::EndRecord if location.range == (0..0) => {
                // Nothing but an end record.
                appender.next = 0;
            }
            Witness::EndRecord | Witness::Base | Witness::Seal(..) => {
                let is_all = survey.found.is_empty()
                    && kept_directory::is_all(window, location, (witness, survey.end))?;
                let end = if is_all { kept_directory::end_of_members(window, location)? } else { None };
                if let Some(end) = end {
                    appender.next = end;
                    appender.prologue = end_record.map(Prologue::Keep);
                    // A copy of the directory, whose writer was killed before it took the first end record
                    // away.
                    let before = location.range.start.checked_sub(Base::SIZE as u64);
                    let base = before.map_or(Ok(None), |at| Base::read(window, at))?;
                    if let Some(at) = base.map(|base| base.end_record())
                        && EndRecord::find(window, at)?.is_some()
                    {
                        appender.copied_end_record = Some(at);
                    }
                } else if *witness != Witness::Base {
                    // Another program's, or not what we wrote any more: it stays, and members go behind it.
                    appender.next = appender.length;
                    appender.prologue = end_record.map(Prologue::Base);
                }
            }
        }
        Ok(appender)
    }

    /// Whether there is a member of this name.
    ///
    /// # Errors
    /// If a directory that is added to where it is cannot be read to its end.
    pub fn contains(&mut self, name: &StoredName) -> Result<bool> {
        if self.is_likely(name)? {
            return Ok(true);
        }
        if let Some(old) = &mut self.growing
            && !old.is_sound()?
        {
            // Its index does not tell.
            self.read_old()?;
        }
        Ok(self.directory.contains(name))
    }

    /// Whether there is a member of this name, as long as no other program has changed names in place: that
    /// is not looked at for each new member.
    ///
    /// # Errors
    /// None with a whole file.
    pub fn is_likely(&mut self, name: &StoredName) -> Result<bool> {
        let is_old = match &self.growing {
            Some(old) => old.contains(name)?,
            None => false,
        };
        Ok(is_old || self.directory.contains(name))
    }

    /// The names of all arrays, in the order of their members; a name as often as it was written.
    ///
    /// # Errors
    /// If a directory that is added to where it is cannot be read to its end.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = self.growing.as_ref().map_or_else(|| Ok(Vec::new()), Growing::names)?;
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
        self.all_of_prologue().split_off(self.prologue_done)
    }

    fn all_of_prologue(&self) -> Vec<Patch> {
        let sealed = |seal: &Seal| Patch::new(seal.at(), seal.as_bytes());
        match &self.prologue {
            None => Vec::new(),
            Some(Prologue::Base(end_record)) => {
                vec![Patch::new(self.next, Base::new(self.next, *end_record, true).as_bytes())]
            }
            Some(Prologue::Keep(end_record)) => self.keep(*end_record),
            Some(Prologue::Seal(seal)) => vec![sealed(seal)],
            Some(Prologue::Blank(end_record)) => vec![Patch::new(*end_record, BLANK)],
            Some(Prologue::SealAndBlank(seal, end_record)) => {
                // As long as there is an end record, members in the room are only found with a whole seal.
                vec![Patch::new(*end_record, BLANK), sealed(seal)]
            }
            Some(Prologue::Undo(seal, end_record)) => {
                // As long as there is an end record, it leads to all members. Without one, this seal or their
                // marks do.
                seal.iter().map(sealed).chain([Patch::new(*end_record, BLANK)]).collect()
            }
        }
    }

    /// A copy of the directory of another program behind its archive, then the one that is kept in place of
    /// it.
    fn keep(&self, end_record: u64) -> Vec<Patch> {
        let (kept, copy) = self.kept();
        let records = &self.directory.records()[..];
        let mut copied = [records, &self.directory.end_records(copy)].concat();
        let end_record_of_copy = self.directory.end_record(copy + copied.len() as u64);
        // Nobody may find it before all of its comment is there.
        copied[(end_record_of_copy - copy) as usize..][..BLANK.len()].copy_from_slice(&BLANK);
        let mut bytes = kept.bytes(&self.directory);
        let behind = bytes.split_off(BLANK.len());
        let blank = |end_record| Patch::new(end_record, BLANK);
        let copy = [
            // As long as the copy is there in part, no end record may be near the end.
            Patch::new(self.length, Base::new(self.length, end_record, false).as_bytes()),
            Patch::new(copy, copied),
            Patch::new(end_record_of_copy, EndRecord::SIGNATURE.to_le_bytes()),
        ];
        let kept = [
            // Until all of it is there, no local header leads into it.
            Patch::new(kept.range().start + BLANK.len() as u64, behind),
            Patch::new(kept.range().start, bytes),
        ];
        // Nobody may find an end record once what it leads to is gone.
        let old = self.copied_end_record.into_iter().chain([end_record]).map(blank);
        copy.into_iter().chain(old).chain(kept).chain([blank(end_record_of_copy)]).collect()
    }

    /// The directory that is kept, and where a copy of it is until then.
    fn kept(&self) -> (KeptDirectory, u64) {
        let kept = KeptDirectory::new(self.next, &self.directory);
        let copy = (self.length + Base::SIZE as u64).max(kept.range().end);
        (kept, copy)
    }

    /// Whether that must be on the disk first, also if nothing else is synced. Without it, what is behind an
    /// archive of another program could hide that from whoever looks for its end record; and the end record
    /// of a large directory, which is not read as a whole when the file is opened, could be there when
    /// members have overwritten that.
    pub fn must_sync_prologue(&self) -> bool {
        matches!(self.prologue, Some(Prologue::Base(_) | Prologue::Keep(_) | Prologue::SealAndBlank(..)))
    }

    /// The first part of what is left of it is written.
    pub fn prologue_part_is_written(&mut self) {
        self.prologue_done += 1;
        (self.is_unfinished, self.has_unlisted) = (true, true);
    }

    /// All of it is written.
    pub fn prologue_is_written(&mut self) {
        self.prologue_done = 0;
        match self.prologue.take() {
            Some(Prologue::Base(end_record)) => {
                self.foreign_end_record = Some(end_record);
                self.next += Base::SIZE as u64;
                self.length = self.length.max(self.next);
            }
            Some(Prologue::Keep(_)) => {
                let (kept, copy) = self.kept();
                self.next = kept.range().end;
                let records = copy + self.directory.records().len() as u64;
                self.length = records + self.directory.end_records(copy).len() as u64;
            }
            _ => {}
        }
        (self.is_unfinished, self.has_unlisted) = (true, true);
    }

    /// Makes way for what does not fit in front of a directory that is added to where it is: that is going to
    /// be overwritten, for which there is a [prologue](Appender::prologue). Reads all of it, and says whether
    /// that was done: not if it is not what we wrote.
    ///
    /// # Errors
    /// If it cannot be read to its end.
    pub fn make_way(&mut self) -> Result<bool> {
        if !self.read_old()? {
            return Ok(false);
        }
        // Nobody relies on it as on one that was flushed.
        self.limit = None;
        let end_record = self.end_record.take();
        self.prologue =
            self.reopened.take().zip(end_record).map(|(seal, at)| Prologue::SealAndBlank(seal, at));
        Ok(true)
    }

    /// Reads a directory that is added to where it is, so that it can be written elsewhere; says whether it
    /// is what its seal says.
    fn read_old(&mut self) -> Result<bool> {
        let Some(growing) = &self.growing else { return Ok(false) };
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
        if !is_sound {
            self.remarks = growing.remarks()?;
        }
        self.is_edited = !is_sound;
        self.reopened = is_sound.then(|| growing.reopened());
        self.growing = None;
        Ok(is_sound)
    }

    /// Reserves a range for an `.npy` file of `size` bytes whose first `npy_header` bytes are its header.
    ///
    /// # Errors
    /// As for [`Placement::new`].
    pub fn reserve(&mut self, name: &StoredName, npy_header: u64, size: u64) -> Result<Reserved> {
        let place = Placement::new(self.next, name, npy_header, size, self.alignment, self.complete_below())?;
        if self.limit.is_some_and(|limit| place.end > limit) {
            return Ok(Reserved::NoRoom(place.end - self.next));
        }
        self.next = place.end;
        self.reached = self.reached.max(place.end);
        self.starts.push(place.header);
        (self.is_unfinished, self.has_unlisted) = (true, true);
        Ok(Reserved::Place(place))
    }

    /// A name is going to be there twice, of which a stored index has no notion.
    pub fn repeats_name(&mut self) {
        self.directory.forgo_index();
    }

    /// Whether members are being written.
    pub fn is_busy(&self) -> bool {
        !self.starts.is_empty()
    }

    /// Enters a member that has been written, with what is known of its array.
    pub fn finish(
        &mut self,
        place: &Placement,
        name: &StoredName,
        crc: u32,
        array_field: Option<&ArrayField>,
    ) {
        self.forget(place);
        self.directory.push(place, name, crc, array_field);
        self.length = self.length.max(place.end);
    }

    /// Gives the range of a member back that could not be written. If nothing is behind it, it is used again;
    /// else it is a gap, for which this returns what fills it (see [`Filler`]).
    ///
    /// Whoever calls this has taken the signature of the member's local header away: a recovery scan must not
    /// follow it.
    pub fn abandon(&mut self, place: &Placement) -> Option<Filler> {
        self.forget(place);
        if self.next == place.end {
            self.next = place.header;
            return None;
        }
        Filler::new(place.header..place.end)
    }

    fn forget(&mut self, place: &Placement) {
        let at = self.starts.iter().position(|&start| start == place.header);
        at.map(|at| self.starts.swap_remove(at));
    }

    /// Whether there is need for another directory than the one in the file.
    pub fn needs(&self, publish: Publish) -> bool {
        match publish {
            Publish::Close => self.is_unfinished,
            // Of a new file there is nothing to show; room in front of an end record would be no archive.
            Publish::Flush(0) => self.has_unlisted && self.next > 0,
            Publish::Flush(size) => self.limit.is_some_and(|limit| self.next.saturating_add(size) > limit),
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
        self.read_old()?;
        // An empty archive is an end record and nothing else: that is how NumPy knows it.
        let is_empty = self.length == 0 && self.next == 0;
        let at = if is_empty { 0 } else { self.place_directory(publish) };
        let is_sealed = !is_empty && (!self.is_edited || publish != Publish::Close);
        let new = self.new_directory(at, is_sealed, publish);
        if new.overwritten.is_some() || self.limit.is_none() {
            // Members that are reserved while it is being written stay in front of it.
            self.limit = Some(before_fence(new.at));
        }
        if new.overwritten.is_some() {
            self.end_record = None;
        }
        Ok(new)
    }

    /// The last directory, with what is new behind what there was.
    fn grow(&self) -> Result<Option<NewDirectory>> {
        let Some(growing) = &self.growing else { return Ok(None) };
        let (at, start) = growing.places();
        let (complete_below, members_end) = (self.complete_below(), self.next);
        let end_records = self.directory.end_records(start);
        let growth = growing.grow(&self.directory, &end_records, complete_below, members_end)?;
        let Some(growth) = growth else { return Ok(None) };
        let mut new = NewDirectory {
            at,
            start: growing.end_of_records(),
            names: None,
            remarks: Vec::new(),
            complete_below,
            members_end,
            records: Arc::clone(self.directory.records()),
            end_records,
            zip64: 0,
            overwritten: Some(growing.end_record()),
            count: self.directory.count(),
            fields_from: self.directory.fields_from(),
            publish: Publish::Close,
            meanwhile: None,
            growth: Some(growth),
            before: fence::fences(
                members_end,
                (at, growing.is_fenced()),
                start,
                growing.fenced(self.reached),
            ),
            filler: None,
            superseded: None,
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
            Publish::Close if self.is_edited => 0,
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
        let mut at = self.length.saturating_sub(if self.is_edited { 0 } else { ends(0) }).max(least);
        if let Publish::Flush(room) = publish {
            // In place of the one that was published before, if that leaves room enough; else behind it, so
            // that readers can use the one until the other is there.
            let in_place = self.limit.is_some()
                && !self.is_edited
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
            remarks: self.remarks.clone(),
            complete_below: self.complete_below(),
            members_end: self.next,
            records: Arc::clone(self.directory.records()),
            end_records: self.directory.end_records(start),
            zip64: 0,
            // One that is wholly behind the old one leaves that to readers until it is there.
            overwritten: self.end_record.filter(|_| at < self.length),
            count: self.directory.count(),
            fields_from: self.directory.fields_from(),
            publish,
            meanwhile: self.reopened.filter(|_| at < self.length),
            growth: None,
            before: Vec::new(),
            filler: None,
            superseded: self.foreign_end_record,
        };
        new.zip64 = (self.directory.end_record(new.end()) - new.behind()) as usize;
        if self.next == 0 && at > 0 {
            new.filler = Filler::new(0..at);
        } else if sealed && publish == Publish::Close {
            let is_fenced = stored_index::is_cut(index_size);
            new.before = fence::fences(self.next, (at, is_fenced), start, u64::MAX);
        } else if self.is_edited && self.limit.is_some_and(|limit| self.next <= limit) {
            // The old directory stays where it is, with what is in front of it.
            new.before = vec![(fence::fence(0), self.next)];
        }
        new
    }

    /// A directory is in the file.
    pub fn is_published(&mut self, new: &NewDirectory) {
        self.length = self.length.max(new.end());
        self.end_record = Some(self.directory.end_record(new.end()));
        self.reopened = None;
        self.foreign_end_record = None;
        self.remarks.clear();
        let is_last = new.publish == Publish::Close;
        self.limit = (!is_last).then_some(before_fence(new.at));
        self.is_unfinished = !is_last;
        self.has_unlisted = self.directory.count() != new.count || self.is_busy();
    }

    /// A directory could not be written to its end, in a file that has `length` bytes now. Whatever is there
    /// of it must go before anything else is written: other members would not be in it.
    pub fn publish_failed(&mut self, new: &NewDirectory, length: u64) {
        (self.is_unfinished, self.has_unlisted) = (true, true);
        let end_record = self.directory.end_record(new.end());
        if end_record >= length {
            // Its signature comes last of all, but for the seal of one that grows.
            return;
        }
        let seal = self.growing.as_ref().filter(|_| new.grows()).map(Growing::growing);
        if seal.is_some() {
            self.end_record = Some(end_record);
        }
        self.prologue = Some(Prologue::Undo(seal, end_record));
    }

    /// The directory of members of another program, whose own was lost, as that program would have written
    /// it, and where it goes. Nothing else vouches for them.
    pub fn foreign_directory(&self) -> Patch {
        let end_records = self.directory.end_records(self.length);
        Patch::new(self.length, [&self.directory.records()[..], &end_records].concat())
    }
}
