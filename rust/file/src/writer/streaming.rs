//! Members that grow: rows are added until they are finished.
//!
//! A stream has a range with room for more rows than it has. While nothing is behind that, the range is
//! extended; else the rows move to one twice as large, and a filler takes their place. So several streams may
//! grow beside each other, and beside other members, and each byte moves twice at most, on average.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crc32fast::Hasher;
use mmnpz_format::additions::checkpoint::{self, Checkpoint, Grown, Slot};
use mmnpz_format::additions::filler::Filler;
use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::write::appender::Reserved;
use mmnpz_format::write::placement::Placement;

use crate::blocks;
use crate::failure::{Failure, KeepGoing, check};
use crate::items::Items;
use crate::storage::Storage;
use crate::stream::{Growth, Stream};
use crate::writer::{Answer, ArchiveWriter, NewMember};

/// A range is extended by as many bytes as it has, within these bounds.
const LEAST_GROWTH: u64 = 1 << 20;
const MOST_GROWTH: u64 = 1 << 30;

/// The first range has room for this many blocks.
const FIRST_BLOCKS: u64 = 4;

/// Rows of so many bytes are not collected, but written at once, by two threads. With fewer, the threads wait
/// for each other in the system: a megabyte at a time took longer than by one.
const LARGE_CHUNK: u64 = 1 << 22;

/// A checkpoint is written each time there are so many bytes more.
const NOTED: u64 = 1 << 20;

/// How many bytes are copied between two questions whether to go on.
const COPIED: u64 = 1 << 26;

/// How an append went that must not wait.
pub enum Added {
    /// The rows are there.
    Done,
    /// Nothing was done: use [`ArchiveWriter::append_rows`].
    NotYet,
}

impl<S: Storage> ArchiveWriter<S> {
    /// Takes up a stream: closing the writer then finishes it. Says whether that can be: not once the writer
    /// is closed.
    ///
    /// # Errors
    /// [`Failure::Poisoned`].
    pub fn begin_stream(&self, stream: &Arc<Stream>) -> Result<bool, Failure> {
        let mut state = self.lock()?;
        let is_open = state.closers == 0;
        if is_open {
            state.streams.push(Arc::clone(stream));
        }
        Ok(is_open)
    }

    /// Adds rows that fit into the block that is being collected, if nobody else has the turn.
    ///
    /// # Errors
    /// [`Failure::Poisoned`].
    pub fn try_append_rows(
        &self,
        stream: &Stream,
        rows: u64,
        items: &mut Items<'_>,
    ) -> Result<Added, Failure> {
        let Some(mut growth) = stream.try_take() else { return Ok(Added::NotYet) };
        let fits = items.len() < growth.room() as u64;
        if fits {
            growth.collect(items, items.len() as usize);
            stream.add(rows);
        }
        stream.give_back(Some(growth))?;
        Ok(if fits { Added::Done } else { Added::NotYet })
    }

    /// Adds rows to a stream: all of them, or after an error none.
    ///
    /// # Errors
    /// If the system cannot write. Those of [`Stream::take`].
    pub fn append_rows(
        &self,
        stream: &Stream,
        rows: u64,
        items: &mut Items<'_>,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let mut growth = stream.take(keep_going)?;
        let before = growth.begin();
        let added = self.collect_and_write(stream, &mut growth, items, keep_going);
        growth.sure = None;
        if added.is_ok() {
            stream.add(rows);
            if growth.start - growth.noted >= NOTED {
                // The rows are there: that this fails is told by the next call that writes.
                let _ = self.note(stream, &mut growth);
            }
        } else {
            let written = growth.start;
            growth.go_back_to(before);
            // The first error is the one to tell.
            let _ = self.give_back_room(stream, &mut growth, written);
        }
        stream.give_back(Some(growth))?;
        added
    }

    fn collect_and_write(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        items: &mut Items<'_>,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let mut left = items.len();
        if left >= LARGE_CHUNK {
            self.write_out(stream, growth, keep_going)?;
            let mut at = 0;
            while at < left {
                // Some at a time, so that what cannot be written has not taken space for all of it.
                let count = COPIED.min(left - at);
                let place = self.make_place(stream, growth, growth.start + count, keep_going)?;
                let to = place.file + stream.header_len + growth.start;
                let crc = blocks::write_part(&self.storage, to, items, at..at + count, &|_| keep_going())?;
                growth.has_written(count, &crc);
                at += count;
            }
            return Ok(());
        }
        while left > 0 {
            let count = (growth.room() as u64).min(left) as usize;
            growth.collect(items, count);
            left -= count as u64;
            if growth.room() == 0 {
                self.write_out(stream, growth, keep_going)?;
            }
        }
        Ok(())
    }

    /// Gives back what rows took that were not added in the end: up to byte `written` of all rows.
    fn give_back_room(&self, stream: &Stream, growth: &mut Growth, written: u64) -> Result<(), Failure> {
        let Some(place) = growth.place else { return Ok(()) };
        let data = place.file + stream.header_len;
        if written > growth.start {
            // Nobody reads this, so it does not matter if it cannot be given back.
            let _ = self.storage.release(data + growth.start..data + written);
        }
        let end = data + growth.total() + Filler::LEAST + LEAST_GROWTH;
        // If something is behind, it stays, and what is between them must have room for a filler.
        if end + Filler::LEAST <= place.end {
            let smaller = place.resized(end)?;
            if self.lock()?.appender.cut(&smaller, place.end).is_none() {
                growth.place = Some(smaller);
                // What its header says does not matter until it is finished: others may be in front of that.
                let _ = self.write_begun(stream, &smaller);
            }
        }
        Ok(())
    }

    /// Finishes a stream: its rows become a member. Nothing happens to one that is over.
    ///
    /// # Errors
    /// If the system cannot write: then it can be called again. Those of [`Stream::take`].
    pub fn finish_stream(&self, stream: &Stream, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let mut growth = match stream.take(keep_going) {
            Err(Failure::Ended) => return Ok(()),
            taken => taken?,
        };
        let finished = self.finish_growth(stream, &mut growth, keep_going);
        self.end_turn(stream, growth, finished.is_ok())?;
        finished
    }

    /// Gives a stream up: its rows never were. Nothing happens to one that is over.
    ///
    /// # Errors
    /// Those of [`Stream::take`].
    pub fn discard_stream(&self, stream: &Stream, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        let mut growth = match stream.take(keep_going) {
            Err(Failure::Ended) => return Ok(()),
            taken => taken?,
        };
        if let Some(place) = growth.place.take() {
            // Also where the local header stays, nobody takes the rows for some that are to be kept.
            let room = checkpoint::room(stream.header_len);
            let _ = self.storage.write_at(&vec![0; room as usize], place.file - room);
            let mut state = self.lock()?;
            self.abandon(&mut state, place.header..place.end);
            self.is_over(&mut state, 0, None);
        }
        self.end_turn(stream, growth, true)
    }

    /// Writes what waits, and waits until all of it is in the file; with `sync`, or if the writer syncs, on
    /// the disk.
    ///
    /// # Errors
    /// If the system cannot write. Those of [`Stream::take`].
    pub fn flush_stream(
        &self,
        stream: &Stream,
        sync: bool,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let mut growth = stream.take(keep_going)?;
        let flushed = self.flush_growth(stream, &mut growth, sync || self.sync, keep_going);
        self.end_turn(stream, growth, false)?;
        flushed
    }

    /// Finishes all streams that are open.
    pub(super) fn finish_streams(&self, keep_going: KeepGoing<'_>) -> Result<(), Failure> {
        loop {
            let first = self.lock()?.streams.first().map(Arc::clone);
            let Some(stream) = first else { return Ok(()) };
            self.finish_stream(&stream, keep_going)?;
        }
    }

    fn end_turn(&self, stream: &Stream, growth: Box<Growth>, is_over: bool) -> Result<(), Failure> {
        if is_over {
            let mut state = self.lock()?;
            let at = state.streams.iter().position(|other| std::ptr::eq(Arc::as_ptr(other), stream));
            let gone = at.map(|at| state.streams.swap_remove(at));
            drop(state);
            drop(gone);
        }
        stream.give_back((!is_over).then_some(growth))
    }

    /// Writes what waits.
    fn write_out(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        if growth.buffer.is_empty() {
            return Ok(());
        }
        let place = self.make_place(stream, growth, growth.total(), keep_going)?;
        self.storage.write_at(&growth.buffer, place.file + stream.header_len + growth.start)?;
        growth.is_written();
        Ok(())
    }

    /// Writes down how much is in the file.
    fn note(&self, stream: &Stream, growth: &mut Growth) -> Result<(), Failure> {
        let checkpoint = growth.checkpoint();
        if let Some(place) = growth.place
            && growth.noted != checkpoint.bytes
        {
            self.write_checkpoint(stream, &place, checkpoint, Slot::new(growth.checkpoints, false))?;
            growth.checkpoints += 1;
            growth.noted = checkpoint.bytes;
        }
        Ok(())
    }

    fn flush_growth(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        sync: bool,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        self.write_out(stream, growth, keep_going)?;
        self.note(stream, growth)?;
        if sync { self.sync_growth(stream, growth) } else { Ok(()) }
    }

    /// Waits until what is in the file is on the disk, and says so there.
    fn sync_growth(&self, stream: &Stream, growth: &mut Growth) -> Result<(), Failure> {
        let Some(place) = growth.place else { return Ok(()) };
        self.has_synced_rows.store(true, Ordering::Relaxed);
        // A directory that another thread writes without a sync is there first: torn, it would hide the rows.
        drop(self.publishing.lock().map_err(|_| Failure::Poisoned)?);
        self.storage.sync()?;
        self.write_checkpoint(stream, &place, growth.checkpoint(), Slot::new(growth.flushes, true))?;
        growth.flushes += 1;
        Ok(self.storage.sync()?)
    }

    fn write_checkpoint(
        &self,
        stream: &Stream,
        place: &Placement,
        checkpoint: Checkpoint,
        slot: Slot,
    ) -> Result<(), Failure> {
        let (name, row) = (stream.rows.name.bytes(), stream.rows.size);
        let member = Grown { header: place.header, name, row, npy: stream.npy };
        Ok(self.storage.write_at(&checkpoint.bytes_for(slot, member), slot.at(place.file))?)
    }

    fn finish_growth(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let (rows, count) = (&stream.rows, stream.count());
        let header = rows.header(count)?;
        let array_field = rows.array_field(count, header.len());
        if growth.place.is_none() {
            return self.write_whole(stream, growth, &header, keep_going);
        }
        self.write_out(stream, growth, keep_going)?;
        let Some(reserved) = growth.place else { return Ok(()) };
        let place = reserved.resized(reserved.file + stream.header_len + growth.total())?;
        self.storage.write_at(&header, place.file)?;
        let mut crc = Hasher::new();
        crc.update(&header);
        crc.combine(&growth.crc);
        let crc = crc.finalize();
        self.complete_stream(stream, growth, &place, crc)?;
        growth.place = None;
        let mut state = self.lock()?;
        // Where that cannot be told, an index of names can be done without.
        if state.appender.is_likely(&rows.name).unwrap_or(true) {
            state.appender.repeats_name();
        }
        state.appender.finish(&place, &rows.name, crc, array_field.as_ref());
        let gap = state.appender.cut(&place, reserved.end);
        state.gaps.extend(gap);
        self.fill_gaps(&mut state);
        self.is_over(&mut state, 0, None);
        Ok(())
    }

    /// Makes a stream count. Its checkpoints go only once its header cannot be lost: a power failure can tear
    /// that, and they hold for what was flushed.
    fn complete_stream(
        &self,
        stream: &Stream,
        growth: &Growth,
        place: &Placement,
        crc: u32,
    ) -> Result<(), Failure> {
        if self.sync {
            self.storage.sync()?;
        }
        self.write_head_of(stream, place, MemberState::Finished, crc)?;
        if self.sync {
            self.storage.sync()?;
        }
        if self.sync || growth.flushes == 0 {
            // What is left of them otherwise is padding.
            let room = checkpoint::room(stream.header_len);
            let _ = self.storage.write_at(&vec![0; room as usize], place.file - room);
        }
        Ok(())
    }

    /// Writes the rows of a stream that has no place yet, as an array that is there is written.
    fn write_whole(
        &self,
        stream: &Stream,
        growth: &Growth,
        header: &[u8],
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let (name, array_field) =
            (stream.rows.name.clone(), stream.rows.array_field(stream.count(), header.len()));
        let items = Items::from(&growth.buffer[..]);
        let mut member = NewMember { name, header, array_field: array_field.as_ref(), items };
        let place = self.place_for(|is_repeated| self.reserve(&member, is_repeated))?;
        self.write(&place, &mut member, &|_| keep_going())
    }

    /// A place, for which `reserve` asks until there is one. That a name is there already was said when the
    /// stream began.
    fn place_for(
        &self,
        mut reserve: impl FnMut(bool) -> Result<Answer, Failure>,
    ) -> Result<Placement, Failure> {
        let mut is_repeated = false;
        loop {
            match reserve(is_repeated)? {
                Answer::Place(place) => return Ok(place),
                Answer::Closed => return Err(Failure::Ended),
                Answer::Unprepared => self.prepare()?,
                Answer::NoRoom(size) => self.make_room(size)?,
                Answer::Duplicate => is_repeated = true,
            }
        }
    }

    /// Makes sure that the range of a stream has room for this many bytes behind its `.npy` header.
    fn make_place(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        bytes: u64,
        keep_going: KeepGoing<'_>,
    ) -> Result<Placement, Failure> {
        // At its end, there must be room for a filler, or nothing could be behind the rows in the end.
        let needed = |place: &Placement| place.file + stream.header_len + bytes + Filler::LEAST;
        let place = match growth.place {
            Some(place) if place.end >= needed(&place) => return Ok(place),
            Some(place) => self.extend(stream, &place, needed(&place))?,
            None => None,
        };
        let place = match (place, growth.place) {
            (Some(place), _) => place,
            (None, None) => self.new_place(stream, bytes + (FIRST_BLOCKS - 1) * growth.block() as u64)?,
            (None, Some(old)) => self.relocate(stream, growth, &old, 2 * bytes, keep_going)?,
        };
        growth.place = Some(place);
        Ok(place)
    }

    /// Extends a range; None if something is behind it.
    fn extend(&self, stream: &Stream, place: &Placement, least: u64) -> Result<Option<Placement>, Failure> {
        let growth = (place.end - place.file).clamp(LEAST_GROWTH, MOST_GROWTH);
        let end = least.max(place.end.saturating_add(growth));
        let mut is_behind = false;
        let extended = self.place_for(|_| {
            let mut state = self.lock()?;
            if let Some(answer) = self.not_yet(&state) {
                return Ok(answer);
            }
            self.begin(&mut state)?;
            Ok(match state.appender.extend(place, end)? {
                Some(Reserved::Place(place)) => Answer::Place(place),
                Some(Reserved::NoRoom(size)) => Answer::NoRoom(size),
                None => {
                    is_behind = true;
                    Answer::Place(*place)
                }
            })
        })?;
        if is_behind {
            return Ok(None);
        }
        if let Err(failure) = self.write_begun(stream, &extended) {
            let mut state = self.lock()?;
            let gap = state.appender.cut(place, extended.end);
            state.gaps.extend(gap);
            self.fill_gaps(&mut state);
            return Err(failure);
        }
        Ok(Some(extended))
    }

    /// Writes the local header of a stream in a range of another length.
    fn write_begun(&self, stream: &Stream, place: &Placement) -> Result<(), Failure> {
        self.write_head_of(stream, place, MemberState::Begun, 0)
    }

    /// Writes the local header of a stream without the checkpoints, which stay.
    fn write_head_of(
        &self,
        stream: &Stream,
        place: &Placement,
        state: MemberState,
        crc: u32,
    ) -> Result<(), Failure> {
        let head = place.local_header(&stream.rows.name, state, crc);
        let length = place.file - checkpoint::room(stream.header_len) - place.header;
        Ok(self.storage.write_at(&head[..length as usize], place.header)?)
    }

    /// A range with room for this many bytes behind the `.npy` header, whose member is begun.
    fn new_place(&self, stream: &Stream, bytes: u64) -> Result<Placement, Failure> {
        let name = &stream.rows.name;
        let size = stream.header_len.saturating_add(bytes).saturating_add(Filler::LEAST);
        let place = self.place_for(|_| {
            let mut state = self.lock()?;
            if let Some(answer) = self.not_yet(&state) {
                return Ok(answer);
            }
            self.begin(&mut state)?;
            Ok(match state.appender.reserve_growing(name, stream.header_len, size)? {
                Reserved::NoRoom(size) => Answer::NoRoom(size),
                Reserved::Place(place) => Answer::Place(place),
            })
        })?;
        let begun = self.begin_member(&place, name).and_then(|()| {
            let header = stream.rows.header(0)?;
            let start = checkpoint::none(stream.rows.size, &header);
            let at = place.file - start.len() as u64;
            Ok(self.storage.write_at(&[start, header].concat(), at)?)
        });
        if begun.is_err() {
            let mut state = self.lock()?;
            self.abandon(&mut state, place.header..place.end);
            self.is_over(&mut state, 0, None);
        }
        begun.map(|()| place)
    }

    /// Moves what is in the file to a range with room for this many bytes.
    fn relocate(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        old: &Placement,
        bytes: u64,
        keep_going: KeepGoing<'_>,
    ) -> Result<Placement, Failure> {
        let new = self.new_place(stream, bytes)?;
        let moved = self.copy_rows(stream, growth, old, &new, keep_going);
        let given_up = if moved.is_ok() { old } else { &new };
        if moved.is_ok() {
            growth.noted = growth.checkpoint().bytes;
        }
        let mut state = self.lock()?;
        self.abandon(&mut state, given_up.header..given_up.end);
        self.is_over(&mut state, 0, None);
        moved.map(|()| new)
    }

    fn copy_rows(
        &self,
        stream: &Stream,
        growth: &mut Growth,
        old: &Placement,
        new: &Placement,
        keep_going: KeepGoing<'_>,
    ) -> Result<(), Failure> {
        let (from, to) = (old.file + stream.header_len, new.file + stream.header_len);
        let mut done = 0;
        while done < growth.start {
            check(keep_going)?;
            let count = COPIED.min(growth.start - done);
            self.storage.copy(from + done..from + done + count, to + done)?;
            done += count;
        }
        let written = growth.checkpoint();
        self.write_checkpoint(stream, new, written, Slot::new(growth.checkpoints, false))?;
        if self.sync || growth.flushes > 0 {
            // The rows at the old place may be on the disk, and must not go before these are.
            self.storage.sync()?;
            self.write_checkpoint(stream, new, written, Slot::new(growth.flushes, true))?;
            self.storage.sync()?;
        }
        Ok(())
    }
}
