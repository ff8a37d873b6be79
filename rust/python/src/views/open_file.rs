//! A file that is open for reading: its names as Python objects, and new views of its members.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use mmnpz_file::fetch::{self, Place};
use mmnpz_file::snapshot::{Snapshot, Unlisted};
use mmnpz_file::{Failure, fork};
use mmnpz_format::Window;
use mmnpz_format::error::Error;
use mmnpz_format::read::lookup::{LocatedArray, Lookup};
use mmnpz_format::read::walked_index::{Member, MemberId};
use mmnpz_format::zip::name::EXTENSION;

use crate::detach::{detached, detached_on};
use crate::error::{exception_with, go_on_unless, in_member, keep_going, shown};
use crate::mapping::Mapping;
use crate::numpy::array;
use crate::views::view_cache::may_be_locked;

/// Signal handlers may run every time this many members were read.
const POLL_INTERVAL: usize = 4096;

/// How many names a warning shows.
pub(crate) const SHOWN: usize = 5;

/// How many members are read at a time where views are made of one member after the other.
pub(crate) const SOME: usize = 128;

/// The types of the arrays over a map.
pub(crate) struct Types {
    /// The type of the array over the whole map.
    pub(crate) map: Py<PyType>,
    /// The type of the views.
    pub(crate) view: Py<PyType>,
}

/// An open file: the part that all handles on it share, and that makes views.
pub(crate) struct OpenFile {
    pub(crate) snapshot: Snapshot,
    /// The options of the call that opened the file, to open it again: pairs, as a tuple has no lock.
    pub(crate) options: Py<PyTuple>,
    pub(crate) mapping: Py<Mapping>,
    pub(crate) types: Types,
    pub(crate) max_header_size: usize,
    /// Whether the warning of a damaged directory was given.
    warned: AtomicBool,
    /// How often a name was looked up that is not there.
    pub(crate) misses: AtomicU32,
    /// The list of all names, and the fork generation in which it was made. Threads lock this for moments,
    /// and stay attached meanwhile.
    files: Mutex<Option<(u64, Py<PyList>)>>,
}

impl OpenFile {
    pub(crate) fn new(
        snapshot: Snapshot,
        options: Py<PyTuple>,
        mapping: Py<Mapping>,
        types: Types,
        max_header_size: usize,
    ) -> Self {
        OpenFile {
            snapshot,
            options,
            mapping,
            types,
            max_header_size,
            warned: AtomicBool::new(false),
            misses: AtomicU32::new(0),
            files: Mutex::default(),
        }
    }

    pub(crate) fn window(&self) -> Window<'_> {
        self.snapshot.window()
    }

    /// The memory of the map, for arrays that a program may write to only if it may write to the map.
    fn memory(&self) -> array::Memory<'_> {
        array::Memory { bytes: self.snapshot.bytes(), is_writable: self.snapshot.map().is_writable() }
    }

    pub(crate) fn lookup(&self) -> &Lookup {
        self.snapshot.lookup()
    }

    /// The exception for a failure. If something is wrong with the bytes of the file, and it was written to
    /// since it was opened, it says so.
    #[cold]
    pub(crate) fn err(&self, py: Python<'_>, failure: Failure) -> PyErr {
        let is_changed =
            matches!(failure, Failure::Format(_)) && detached(py, || self.snapshot.was_changed());
        let more = if is_changed { "; the file was changed since it was opened: open it again" } else { "" };
        exception_with(py, self.snapshot.shown(), failure, more)
    }

    /// The exception for a failure to read a member, which it names.
    pub(crate) fn member_err(&self, py: Python<'_>, failure: Failure, name: &str) -> PyErr {
        match failure {
            Failure::Format(error) => self.err(py, Failure::Format(error.in_member(name))),
            Failure::Io(error) => {
                let error = self.err(py, Failure::Io(error));
                let note = format!("while the member {name:?} was read");
                // An error without a note is as good.
                let _ = error.value(py).call_method1(pyo3::intern!(py, "add_note"), (note,));
                error
            }
            other => self.err(py, other),
        }
    }

    /// The exception for a header that does not fit to its member, or of which no array can be made: that the
    /// file is another one now, if that is why.
    #[cold]
    pub(crate) fn unfit(&self, py: Python<'_>, member: &Member, name: &str, error: PyErr) -> PyErr {
        match detached(py, || self.snapshot.check_read(member, name)) {
            Err(failure) => self.member_err(py, failure, name),
            Ok(()) => in_member(py, self.snapshot.shown(), name, error),
        }
    }

    /// What the header of a member says that is not compressed, and that is no view of a map.
    pub(crate) fn locate(
        &self,
        py: Python<'_>,
        member: &Member,
        name: &str,
    ) -> PyResult<LocatedArray<'static>> {
        let locate = || {
            let verify = || Python::attach(|py| self.verify(py));
            let located = self.snapshot.locate(member, name, self.max_header_size, &verify)?;
            Ok(located.into_owned())
        };
        let located = if self.snapshot.is_unmapped() { detached(py, locate) } else { locate() };
        located.map_err(|failure| self.member_err(py, failure, name))
    }

    /// A new view of a member that is not compressed, with `mmap` as its base.
    pub(crate) fn view<'py>(
        &self,
        mmap: &Bound<'py, PyAny>,
        member: &Member,
        name: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = mmap.py();
        let located = self.snapshot.locate(member, name, self.max_header_size, &|| self.verify(py));
        let located = located.map_err(|failure| self.member_err(py, failure, name))?;
        let view = array::with_dtype(py, &located.header.descr, |dtype| {
            array::map_array(self.memory(), mmap, self.types.view.bind(py), &located, dtype)
        });
        view.map_err(|error| in_member(py, self.snapshot.shown(), name, error))
    }

    /// The array of a name; see [`Snapshot::find`].
    pub(crate) fn find_array(&self, py: Python<'_>, name: &str, again: bool) -> PyResult<Option<Member>> {
        let found = self.snapshot.find(name, again, &|| self.verify(py));
        found.map_err(|failure| self.member_err(py, failure, name))
    }

    /// What NumPy finds by a name, and the name by which it is found: an array; a member that is not listed;
    /// or an array by the whole name of its member.
    pub(crate) fn find<'n>(
        &self,
        py: Python<'_>,
        name: &'n str,
        again: bool,
    ) -> PyResult<Option<(Member, &'n str)>> {
        if let Some(member) = self.find_array(py, name, again)? {
            return Ok(Some((member, name)));
        }
        let other = self.snapshot.find_other(name, &|| self.verify(py));
        if let Some(member) = other.map_err(|failure| self.member_err(py, failure, name))? {
            return Ok(Some((member, name)));
        }
        let Some(bare) = name.strip_suffix(EXTENSION) else { return Ok(None) };
        Ok(self.find_array(py, bare, again)?.map(|member| (member, bare)))
    }

    /// Verifies the snapshot, and warns if that finds a damaged directory.
    pub(crate) fn verify(&self, py: Python<'_>) -> Result<(), Failure> {
        let snapshot = &self.snapshot;
        if snapshot.is_verified() {
            return Ok(());
        }
        detached(py, || snapshot.verify(&keep_going))?;
        if go_on_unless(self.warn_of_damage(py)) { Ok(()) } else { Err(Failure::Interrupted) }
    }

    /// Warns if the directory is damaged, once.
    pub(crate) fn warn_of_damage(&self, py: Python<'_>) -> PyResult<()> {
        let snapshot = &self.snapshot;
        if self.lookup().is_recovered()
            && !snapshot.is_being_written()
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            let damage = "the archive's directory is damaged";
            warn_of_found(py, snapshot, damage, self.lookup().len())?;
        }
        Ok(())
    }

    pub(crate) fn verify_or_err(&self, py: Python<'_>) -> PyResult<()> {
        self.verify(py).map_err(|failure| self.err(py, failure))
    }

    /// Calls `each` for all members, in archive order. If a writer overwrites the directory meanwhile, this
    /// starts anew.
    pub(crate) fn for_each<'py>(
        &self,
        py: Python<'py>,
        mut each: impl FnMut(usize, &Member, &Bound<'py, PyString>) -> PyResult<()>,
    ) -> PyResult<()> {
        self.verified(py, |lookup, window| {
            lookup.members(window)?.enumerate().try_for_each(|(number, named)| {
                let (member, name) = named?;
                let done = each(number, &member, &PyString::new(py, &name))
                    .and_then(|()| if number % POLL_INTERVAL == 0 { py.check_signals() } else { Ok(()) });
                if go_on_unless(done) { Ok(()) } else { Err(Failure::Interrupted) }
            })
        })
    }

    /// The names of all arrays: the same list each time.
    pub(crate) fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if let Some(files) = self.known_files(py) {
            return Ok(files);
        }
        let forks = fork::generation();
        let mut list = PyList::empty(py);
        self.for_each(py, |number, _, name| {
            if number == 0 {
                list = PyList::empty(py);
            }
            list.append(name)
        })?;
        let mut files = self.lock_files();
        if let Some((made, first)) = &*files
            && !may_be_locked(*made)
        {
            // The new list is dropped after the lock: locals are dropped in reverse order.
            return Ok(first.bind(py).clone());
        }
        let old = files.replace((forks, list.clone().unbind()));
        drop(files);
        drop(old);
        Ok(list)
    }

    fn known_files<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyList>> {
        let files = self.lock_files();
        let (made, list) = files.as_ref()?;
        (!may_be_locked(*made)).then(|| list.bind(py).clone())
    }

    /// Shows the list of names to the garbage collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.files.try_lock() {
            Ok(files) => files.as_ref().map_or(Ok(()), |(_, list)| visit.call(list)),
            Err(_) => Ok(()),
        }
    }

    fn lock_files(&self) -> MutexGuard<'_, Option<(u64, Py<PyList>)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a member.
    pub(crate) fn name(&self, py: Python<'_>, member: MemberId) -> PyResult<String> {
        self.snapshot.name(member, &|| self.verify(py)).map_err(|failure| self.err(py, failure))
    }

    /// The member at a position in archive order, and its name.
    pub(crate) fn at(&self, py: Python<'_>, position: usize) -> PyResult<(Member, String)> {
        self.verified(py, |lookup, window| Ok(lookup.at(window, position)?))
    }

    /// The next members from a position in archive order on, with their names, for a caller that then makes
    /// their views.
    pub(crate) fn some(&self, py: Python<'_>, from: usize) -> PyResult<Vec<(Member, String)>> {
        let some: Vec<(Member, String)> = self.verified(py, |lookup, window| {
            let some: Result<_, Error> = lookup.members_from(window, from)?.take(SOME).collect();
            Ok(some?)
        })?;
        self.fetch_headers(py, some.iter().map(|(member, _)| *member))?;
        Ok(some)
    }

    /// Has the system read the headers of members, if their views need the headers and some are not in
    /// memory.
    pub(crate) fn fetch_headers(
        &self,
        py: Python<'_>,
        members: impl Iterator<Item = Member>,
    ) -> PyResult<()> {
        self.fetch_cold(py, &self.snapshot.headers_of(members))
    }

    /// Has the system read places, if some are not in memory.
    pub(crate) fn fetch_cold(&self, py: Python<'_>, places: &[Place]) -> PyResult<()> {
        // To look takes a microsecond. To get the interpreter back from other threads can take milliseconds.
        if fetch::are_cold(self.snapshot.map(), places) { self.fetch(py, places) } else { Ok(()) }
    }

    /// Has the system read places.
    pub(crate) fn fetch(&self, py: Python<'_>, places: &[Place]) -> PyResult<()> {
        let map = self.snapshot.map();
        detached_on(py, self.snapshot.shown(), || fetch::fetch(map, places, &keep_going))
    }

    /// Calls `read` while the snapshot is verified; see [`Snapshot::verified`].
    pub(crate) fn verified<T>(
        &self,
        py: Python<'_>,
        read: impl FnMut(&Lookup, Window<'_>) -> Result<T, Failure>,
    ) -> PyResult<T> {
        let found = self.snapshot.verified(&|| self.verify(py), read);
        found.map_err(|failure| self.err(py, failure))
    }
}

/// Warns of a map that does not share the pages of its file.
pub(crate) fn warn_of_private(py: Python<'_>, snapshot: &Snapshot) -> PyResult<()> {
    if !snapshot.map().is_private() {
        return Ok(());
    }
    let message = "the file system shares no pages of files: what others write to the file while it is open \
                   may not be seen";
    warn(py, snapshot, message)
}

/// Warns of members that a writer left without a directory, or is just writing.
pub(crate) fn warn_of_unlisted(py: Python<'_>, snapshot: &Snapshot) -> PyResult<()> {
    let Some(Unlisted { count, is_lost }) = snapshot.unlisted() else { return Ok(()) };
    match (detached(py, || snapshot.is_being_written()), is_lost) {
        // The members since the last flush of the writer.
        (true, false) => Ok(()),
        (true, true) => {
            let what = "the archive has no directory, as it is being written";
            warn(py, snapshot, &format!("{what}; {count} arrays were found"))
        }
        (false, _) => {
            let what = "the archive has no complete directory, as a writer was not closed";
            warn_of_found(py, snapshot, what, count)
        }
    }
}

/// Warns of an archive that has members, and no arrays among them.
pub(crate) fn warn_of_no_arrays(py: Python<'_>, snapshot: &Snapshot) -> PyResult<()> {
    let lookup = snapshot.lookup();
    if !lookup.is_empty() || lookup.count_of_others() == 0 {
        return Ok(());
    }
    let names = snapshot.reading(|window| {
        let names = lookup.names_of_others(window)?;
        Ok(names.take(SHOWN).map(|name| shown(&name)).collect::<Vec<_>>())
    });
    let names = names.unwrap_or_default();
    let (count, list) = (lookup.count_of_others(), names.join(", "));
    let (s, more) = (if count == 1 { "" } else { "s" }, if count > names.len() { ", …" } else { "" });
    let message = format!(
        "no arrays are listed, as no name ends with .npy; the archive has {count} member{s}: {list}{more}"
    );
    warn(py, snapshot, &message)
}

/// Warns that members were found without a directory.
fn warn_of_found(py: Python<'_>, snapshot: &Snapshot, what: &str, count: usize) -> PyResult<()> {
    let advice = "mmnpz.repair checks them and writes a directory";
    warn(py, snapshot, &format!("{what}; {count} arrays were found without it; {advice}"))
}

/// Warns about a file.
pub(crate) fn warn(py: Python<'_>, snapshot: &Snapshot, message: &str) -> PyResult<()> {
    // A path cannot have a NUL in it.
    let message = std::ffi::CString::new(format!("{}: {message}", snapshot.shown().display()))?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 2)
}
