//! Arrays in the file that programs fill: created, filled through a map, and finished.
//!
//! While a program fills it, the member is begun, as one that is being written: its header comes last. What
//! is checksummed cannot change any more, as the map is cut off from the file before.

use std::sync::Arc;
use std::thread;

use mmnpz_format::additions::array_field::ArrayField;
use mmnpz_format::write::placement::Placement;
use mmnpz_format::zip::name::StoredName;

use crate::blocks;
use crate::failure::{Failure, KeepGoing, Progress};
use crate::shared_map::SharedMap;
use crate::storage::Storage;
use crate::writer::{Answer, ArchiveWriter, MutexGuard, State};

/// An array in the file that a program fills.
#[derive(Debug)]
pub struct Created {
    place: Placement,
    name: StoredName,
    array_field: Option<ArrayField>,
    map: SharedMap,
}

impl Created {
    /// The address of the first byte of the array. The memory stays for as long as this value lives.
    pub fn start(&self) -> *mut u8 {
        self.map.start()
    }

    /// How many bytes the array has.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the array has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S: Storage> ArchiveWriter<S> {
    /// Reserves a range for an array of `size` bytes behind an `.npy` header, as [`ArchiveWriter::reserve`]
    /// does. [`ArchiveWriter::create`] must be called with it.
    ///
    /// # Errors
    /// Those.
    pub fn reserve_created(
        &self,
        name: &StoredName,
        header: &[u8],
        size: u64,
        is_repeated: bool,
    ) -> Result<Answer, Failure> {
        let header = header.len() as u64;
        let mut state = self.lock()?;
        let answer = self.place(&mut state, name, (header, header.saturating_add(size)), is_repeated)?;
        if let Answer::Place(_) = answer {
            state.large.push(thread::current().id());
        }
        Ok(answer)
    }

    /// Gives up all arrays that programs still fill. Their memory is zeros afterwards.
    pub(super) fn give_up_created<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, Failure> {
        let created = std::mem::take(&mut state.created);
        if created.is_empty() {
            return Ok(state);
        }
        // To remove the pages of a large map takes long.
        drop(state);
        let is_cut_off: Vec<_> = created.iter().map(|created| created.map.forget_file()).collect();
        let mut state = self.lock()?;
        for (created, is_cut_off) in created.iter().zip(is_cut_off) {
            self.abandon_created(&mut state, created, is_cut_off);
        }
        Ok(state)
    }

    /// Gives the range of an array up.
    fn abandon_created(&self, state: &mut State, created: &Created, is_cut_off: bool) {
        let place = &created.place;
        if is_cut_off {
            self.abandon(state, place.header..place.end);
        } else {
            // A program may still write to the range: no other member may have it.
            let _ = self.storage.release(place.header..place.file);
            state.gaps.extend(state.appender.pass_over(place.header..place.end));
            self.fill_gaps(state);
        }
    }
}

impl ArchiveWriter {
    /// Begins an array in its range: zeros, for which the space is there, so that a program can fill it
    /// through a map without finding the disk full. `header` is its `.npy` header.
    ///
    /// # Errors
    /// If the system has no space, or cannot map the file: then the range is given up.
    pub fn create(
        &self,
        place: &Placement,
        name: StoredName,
        header: &[u8],
        array_field: Option<ArrayField>,
        keep_going: KeepGoing<'_>,
    ) -> Result<Arc<Created>, Failure> {
        let begun = self.begin_member(place, &name).and_then(|()| {
            let data = place.file + header.len() as u64..place.end;
            self.storage.allocate(data.clone(), keep_going)?;
            self.storage.write_at(header, place.file)?;
            Ok(SharedMap::new(&self.storage.file, data)?)
        });
        let mut state = self.lock()?;
        let created = begun.map(|map| Arc::new(Created { place: *place, name, array_field, map }));
        match &created {
            Ok(created) => state.created.push(Arc::clone(created)),
            Err(_) => {
                self.abandon(&mut state, place.header..place.end);
            }
        }
        self.is_over(&mut state, 1, Some(thread::current().id()));
        created
    }

    /// Makes an array that was filled a member. What programs write to its memory afterwards, they alone
    /// see.
    ///
    /// # Errors
    /// [`Failure::GivenUp`] if the writer was closed. If the system cannot read or write, or `progress` said
    /// no: then the range is given up.
    pub fn finish_created(&self, created: &Created, progress: Progress<'_>) -> Result<(), Failure> {
        self.take_created(created)?;
        let Created { place, name, array_field, map } = created;
        map.keep_from_file(&self.storage.file);
        let crc = blocks::checksum(&self.storage.file, place.file..place.end, progress);
        let finished = crc.and_then(|crc| self.complete(place, name, crc).map(|()| crc));
        let is_cut_off = finished.is_err() && map.forget_file();
        let mut state = self.lock()?;
        match finished {
            Ok(crc) => state.appender.finish(place, name, crc, array_field.as_ref()),
            Err(_) => self.abandon_created(&mut state, created, is_cut_off),
        }
        self.is_over(&mut state, 1, Some(thread::current().id()));
        finished.map(|_| ())
    }

    /// Gives an array up, unless closing the writer has done so.
    ///
    /// # Errors
    /// [`Failure::Poisoned`].
    pub fn discard_created(&self, created: &Created) -> Result<(), Failure> {
        if let Err(failure) = self.take_created(created) {
            return if matches!(failure, Failure::GivenUp) { Ok(()) } else { Err(failure) };
        }
        let is_cut_off = created.map.forget_file();
        let mut state = self.lock()?;
        self.abandon_created(&mut state, created, is_cut_off);
        self.is_over(&mut state, 1, Some(thread::current().id()));
        Ok(())
    }

    /// Takes an array over from those that programs fill: closing the writer then waits for it.
    fn take_created(&self, created: &Created) -> Result<(), Failure> {
        let mut state = self.lock()?;
        let is_it = |other: &Arc<Created>| std::ptr::eq(Arc::as_ptr(other), created);
        let Some(at) = state.created.iter().position(is_it) else { return Err(Failure::GivenUp) };
        let taken = state.created.swap_remove(at);
        state.large.push(thread::current().id());
        drop(state);
        // The caller has another reference to it.
        drop(taken);
        Ok(())
    }
}
