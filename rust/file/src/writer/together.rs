//! Members that are written together: reserved under one lock, and written by one system call.

use std::thread;

use mmnpz_format::additions::mark::MemberState;
use mmnpz_format::write::placement::Placement;

use crate::batch::{Batch, Written};
use crate::failure::Failure;
use crate::storage::Storage;
use crate::writer::{Answer, ArchiveWriter};

impl<S: Storage> ArchiveWriter<S> {
    /// A batch for this writer.
    ///
    /// # Errors
    /// [`Failure::Poisoned`].
    pub fn new_batch(&self) -> Result<Batch, Failure> {
        Ok(Batch::new(self.lock()?.appender.alignment()))
    }

    /// Reserves a range for the members of a batch: the place is that of the first one, with which
    /// [`ArchiveWriter::write_batch`] must be called. Says if there is one of the name of some member
    /// already; called again after that, it takes this as meant.
    ///
    /// # Errors
    /// If the system cannot write, or the members do not fit into any archive.
    pub fn reserve_batch(&self, batch: &mut Batch) -> Result<Answer, Failure> {
        let mut state = self.lock()?;
        if let Some(answer) = self.not_yet(&state) {
            return Ok(answer);
        }
        if std::mem::take(&mut batch.is_repeated) {
            state.appender.repeats_name();
            batch.checked += 1;
        }
        while let Some(name) = batch.unchecked() {
            if state.appender.is_likely(name)? {
                batch.is_repeated = true;
                return Ok(Answer::Duplicate);
            }
            batch.checked += 1;
        }
        self.begin(&mut state)?;
        let mut places = std::mem::take(&mut batch.places);
        let missing = state.appender.reserve_all(batch.sizes(), &mut places)?;
        batch.places = places;
        let Some(&place) = batch.places.first() else { return Ok(Answer::Closed) };
        if let Some(size) = missing {
            return Ok(Answer::NoRoom(size));
        }
        // A signal handler of this thread must not wait for what it interrupts.
        let this = thread::current().id();
        batch.thread = Some(this);
        state.large.push(this);
        drop(state);
        // Here, and not in the thread that writes: the bytes are in the cache of this one.
        batch.lay_out(if self.sync { MemberState::Begun } else { MemberState::Finished });
        Ok(Answer::Place(place))
    }

    /// Writes the members of a batch, for which a range was reserved. If this writer syncs, they count only
    /// after [`ArchiveWriter::sync_batch`].
    ///
    /// # Errors
    /// If the system cannot write: then the members in front of the first one that it cannot write are
    /// written, and the range of the others is given up.
    pub fn write_batch(&self, batch: &mut Batch) -> Result<(), Failure> {
        let at = batch.range().start;
        let together = || Ok::<_, Failure>(self.storage.write_at(batch.bytes(), at)?);
        let mut result = self.begin_batch(batch).and_then(|()| together());
        let mut count = batch.len();
        if result.is_err() {
            // One by one, as if each was written alone.
            (count, result) = (0, self.begin_batch(batch));
            for (at, bytes) in batch.laid_out() {
                result = result.and_then(|()| Ok(self.storage.write_at(bytes, at)?));
                if result.is_err() {
                    break;
                }
                count += 1;
            }
        }
        let left = batch.places.get(count..).unwrap_or_default().to_vec();
        let written = batch.take(count);
        if !left.is_empty() {
            self.give_up(batch, &left, usize::from(count == 0 || !self.sync))?;
        }
        if self.sync && count > 0 {
            batch.keep(written);
        } else {
            self.enter(batch, &[written], usize::from(left.is_empty()))?;
        }
        result
    }

    /// A new file shows that it is ours, however little of its first member is there.
    fn begin_batch(&self, batch: &Batch) -> Result<(), Failure> {
        match (batch.places.first(), batch.names().next()) {
            (Some(place), Some(name)) if place.header == 0 => self.begin_member(place, name),
            _ => Ok(()),
        }
    }

    /// Waits until the members of a batch are on the disk, and then makes them count, all with one pair of
    /// waits.
    ///
    /// # Errors
    /// If the system cannot write: then their ranges are given up.
    pub fn sync_batch(&self, batch: &mut Batch) -> Result<(), Failure> {
        let groups = batch.take_unsynced();
        if groups.is_empty() {
            return Ok(());
        }
        let result = self.sync_together(&groups);
        if result.is_ok() {
            return self.enter(batch, &groups, groups.len());
        }
        // The last one first, so that the file goes on behind what was finished.
        for group in groups.iter().rev() {
            let places: Vec<_> = group.iter().map(|written| written.place).collect();
            self.give_up(batch, &places, 1)?;
        }
        batch.forget_fields();
        result
    }

    fn sync_together(&self, groups: &[Vec<Written>]) -> Result<(), Failure> {
        self.storage.sync()?;
        for Written { place, name, crc, .. } in groups.iter().flatten() {
            self.write_head(place, name, MemberState::Finished, *crc)?;
        }
        Ok(self.storage.sync()?)
    }

    /// Enters members that were written together in the directory; as many ranges are done with.
    fn enter(&self, batch: &mut Batch, groups: &[Vec<Written>], ranges: usize) -> Result<(), Failure> {
        let mut state = self.lock()?;
        for written in groups.iter().flatten() {
            state.appender.finish(&written.place, &written.name, written.crc, batch.field(written));
        }
        self.is_over(&mut state, ranges, batch.thread);
        drop(state);
        batch.forget_fields();
        Ok(())
    }

    /// Gives up the places of members of a batch, which follow one another; as many ranges are done with.
    fn give_up(&self, batch: &Batch, places: &[Placement], ranges: usize) -> Result<(), Failure> {
        let mut state = self.lock()?;
        if let (Some(first), Some(last)) = (places.first(), places.last())
            && !self.abandon(&mut state, first.header..last.end)
        {
            // Some of them may be in the file, where what is written next need not overwrite their headers.
            state.stale.extend(places.iter().map(|place| place.header));
            let _ = self.erase_stale(&mut state);
        }
        self.is_over(&mut state, ranges, batch.thread);
        Ok(())
    }
}
