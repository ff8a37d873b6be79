//! `NpzWriter.update`: many arrays, of which the small ones are written together.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PySequence, PyString, PyTuple};

use crate::detach::{detached, detached_on};
use crate::error::{exception, in_member};
use crate::numpy::npy_header::{as_array, items, npy_header};
use crate::progress::{tell_of_some, told};
use crate::writing::writer::{Writer, closed, warn_of_duplicate};
use mmnpz_file::Failure;
use mmnpz_file::batch::Batch;
use mmnpz_file::writer::{Answer, ArchiveWriter};
use mmnpz_format::zip::name::StoredName;

/// Larger arrays are written one by one: a system call for each costs next to nothing.
const SMALL: u64 = 1 << 16;

/// The same for a writer that syncs, as each array that is written alone waits twice for the disk.
const SMALL_SYNCED: u64 = 1 << 19;

/// Arrays on their way to the file. While a thread writes a batch, the next one is collected.
struct Update<'a, 'py> {
    writer: &'a Writer,
    archive: Arc<ArchiveWriter>,
    py: Python<'py>,
    batch: Batch,
    /// An empty one, whose memory is used again.
    spare: Batch,
    under_way: Option<UnderWay>,
    /// The names that the directory does not have before they are synced.
    unsynced: HashSet<Box<[u8]>>,
    /// How many bytes of arrays are written, and how many wait for it.
    done: u64,
    waiting: u64,
    progress: Option<&'a Bound<'py, PyAny>>,
    total: Option<u64>,
}

/// A batch that another thread writes.
struct UnderWay {
    thread: JoinHandle<(Batch, Result<(), Failure>)>,
    bytes: u64,
}

#[doc = docstring!("_update")]
#[pyfunction]
#[pyo3(name = "_update")]
pub(crate) fn update(
    writer: &Bound<'_, Writer>,
    pairs: &Bound<'_, PyIterator>,
    progress: Option<&Bound<'_, PyAny>>,
    total: Option<u64>,
) -> PyResult<()> {
    let (py, writer) = (pairs.py(), writer.get());
    let archive = writer.own_archive(py)?;
    let new_batch = || archive.new_batch().map_err(|failure| exception(py, &archive.shown, failure));
    let (batch, spare, under_way) = (new_batch()?, new_batch()?, None);
    let mut update = Update {
        writer,
        archive,
        py,
        batch,
        spare,
        under_way,
        unsynced: HashSet::new(),
        done: 0,
        waiting: 0,
        progress,
        total,
    };
    let added = pairs.clone().enumerate().try_for_each(|(number, pair)| {
        let (name, array) = split(number, &pair?)?;
        update.add(&name, &array)
    });
    // What came before an error is written.
    let written = update.write_all();
    let told = if added.is_ok() && written.is_ok() { update.tell() } else { Ok(()) };
    added.and(written).and(told)
}

/// A name and an array, as `dict.update` takes them.
fn split<'py>(
    number: usize,
    pair: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyAny>)> {
    let (name, array) = if let Ok(pair) = pair.cast_exact::<PyTuple>()
        && pair.len() == 2
    {
        (pair.get_item(0)?, pair.get_item(1)?)
    } else {
        let pair = pair.cast::<PySequence>().ok().filter(|pair| !pair.is_instance_of::<PyString>());
        let pair = pair.filter(|pair| pair.len().is_ok_and(|length| length == 2)).ok_or_else(|| {
            PyTypeError::new_err(format!("element {number} is not a pair of a name and an array"))
        })?;
        (pair.get_item(0)?, pair.get_item(1)?)
    };
    let name = name.cast_into::<PyString>().map_err(|error| {
        PyTypeError::new_err(format!("the name of element {number} is no str: {:?}", error.into_inner()))
    })?;
    Ok((name, array))
}

/// Takes a batch that two threads could write.
fn take(batch: &Mutex<Option<Batch>>) -> Batch {
    batch.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

impl Update<'_, '_> {
    fn add(&mut self, name: &Bound<'_, PyString>, array: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, text) = (self.py, name.to_str()?);
        let stored = StoredName::new(text)
            .map_err(|error| exception(py, &self.archive.shown, error.in_member(text).into()))?;
        if self.batch.has(&stored) || self.unsynced.contains(stored.bytes()) {
            // The directory tells of names that are there twice.
            self.write(true)?;
            self.sync()?;
        }
        let array = as_array(array)?;
        let header = npy_header(&array).map_err(|error| in_member(py, &self.archive.shown, text, error))?;
        // No code of the program runs between this and the copy of the items.
        let items = items(&array)?;
        let bytes = items.len();
        let small = if self.archive.syncs() { SMALL_SYNCED } else { SMALL };
        if bytes + header.bytes.len() as u64 > small {
            header.keep();
            // So that arrays count in their order.
            self.write(true)?;
            self.sync()?;
            let (before, total) = (self.done, self.total);
            let progress = self.progress.map(|progress| progress.clone().unbind());
            let tell =
                |done: u64, bytes: u64| tell_of_some(progress.as_ref(), before + done.min(bytes), total);
            self.writer.write_array(text, array.as_any(), &tell)?;
            self.done += bytes;
            return self.tell();
        }
        if self.archive.syncs() {
            self.unsynced.insert(stored.bytes().into());
        }
        self.batch.push(stored, &header.bytes, header.array_field.as_ref(), items);
        header.keep();
        self.waiting += bytes;
        if self.batch.is_full() {
            self.write(false)?;
            self.py.check_signals()?;
            self.tell()?;
        }
        Ok(())
    }

    /// Writes what was collected, in another thread if there is time for that.
    fn write(&mut self, is_last: bool) -> PyResult<()> {
        self.wait()?;
        let reserved = self.reserve();
        if self.batch.is_empty() {
            return reserved;
        }
        let bytes = std::mem::take(&mut self.waiting);
        let batch = std::mem::replace(&mut self.batch, std::mem::take(&mut self.spare));
        let archive = Arc::clone(&self.archive);
        // Where there can be no more threads, this one takes the batch back, and writes it.
        let batch = Arc::new(Mutex::new(Some(batch)));
        let theirs = Arc::clone(&batch);
        let work = move || {
            let mut batch = take(&theirs);
            let written = archive.write_batch(&mut batch);
            (batch, written)
        };
        let thread = if is_last { None } else { thread::Builder::new().spawn(work).ok() };
        if let Some(thread) = thread {
            self.under_way = Some(UnderWay { thread, bytes });
            return reserved;
        }
        let mut batch = take(&batch);
        let archive = &self.archive;
        let written = detached_on(self.py, &archive.shown, || archive.write_batch(&mut batch));
        self.goes_on(batch, bytes, written)?;
        reserved
    }

    /// Reserves a range for what was collected. If that cannot be, nothing is left of it, or what comes
    /// before the array that is at fault.
    fn reserve(&mut self) -> PyResult<()> {
        let mut refused = Ok(());
        while !self.batch.is_empty() {
            let (py, archive, batch) = (self.py, &self.archive, &mut self.batch);
            let path = archive.shown.as_path();
            let answer = if archive.is_own() {
                detached_on(py, path, || archive.reserve_batch(batch))
            } else {
                Err(exception(py, path, Failure::Forked))
            };
            let ready = answer.and_then(|answer| match answer {
                Answer::Place(_) => Ok(true),
                Answer::Unprepared => detached_on(py, path, || archive.prepare()).map(|()| false),
                Answer::NoRoom(size) => detached_on(py, path, || archive.make_room(size)).map(|()| false),
                Answer::Duplicate => {
                    let name = batch.unchecked().map_or(&[][..], StoredName::array_name);
                    if let Err(error) = warn_of_duplicate(py, &String::from_utf8_lossy(name)) {
                        // The program wants no such name: what comes before it is written.
                        batch.keep_first(batch.checked());
                        refused = Err(error);
                    }
                    Ok(false)
                }
                Answer::Closed => Err(closed()),
            });
            match ready {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    batch.clear();
                    return Err(error);
                }
            }
        }
        refused
    }

    /// Waits for the thread that writes, if there is one.
    fn wait(&mut self) -> PyResult<()> {
        let Some(UnderWay { thread, bytes }) = self.under_way.take() else { return Ok(()) };
        let (py, path) = (self.py, self.archive.shown.as_path());
        if !self.archive.is_own() {
            // A fork has no such thread.
            self.batch.clear();
            return Err(exception(py, path, Failure::Forked));
        }
        let joined = detached(py, || thread.join());
        let (batch, written) = joined.map_err(|_| exception(py, path, Failure::Poisoned))?;
        let written = written.map_err(|failure| exception(py, path, failure));
        self.goes_on(batch, bytes, written)
    }

    /// A batch was written, as far as it could be.
    fn goes_on(&mut self, mut batch: Batch, bytes: u64, written: PyResult<()>) -> PyResult<()> {
        self.batch.take_over(&mut batch);
        self.spare = batch;
        if written.is_err() {
            // Those that follow are not written, either.
            self.batch.clear();
        }
        written?;
        self.done += bytes;
        if self.batch.must_sync() { self.sync() } else { Ok(()) }
    }

    /// Writes all that is left.
    fn write_all(&mut self) -> PyResult<()> {
        let written = self.write(true);
        let synced = self.sync();
        written.and(synced)
    }

    /// Waits for the disk, if the writer syncs, and makes what was written count.
    fn sync(&mut self) -> PyResult<()> {
        self.unsynced.clear();
        if self.archive.syncs() {
            self.unsynced.extend(self.batch.names().map(|name| name.bytes().into()));
        }
        if self.batch.is_synced() {
            return Ok(());
        }
        let (py, archive, batch) = (self.py, &self.archive, &mut self.batch);
        if !archive.is_own() {
            return Err(exception(py, &archive.shown, Failure::Forked));
        }
        detached_on(py, &archive.shown, || archive.sync_batch(batch))
    }

    fn tell(&self) -> PyResult<()> {
        let Some(progress) = self.progress else { return Ok(()) };
        told(progress, self.done, self.total)
    }
}
