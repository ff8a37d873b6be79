//! The reader: from names to views.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyAttributeError, PyIndexError, PyKeyError, PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyString, PyTuple, PyType};
use pyo3::{Borrowed, PyTraverseError, PyVisit};

use crate::array;
use crate::detach::detached;
use crate::error::{IntoErr, go_on_unless, in_member, keep_going};
use crate::gather::{self, Key, Making, Part};
use crate::mapping::Mapping;
use crate::shared::Shared;
use crate::views::{DICT_FIRST, Views, may_be_locked};
use crate::walk::Walk;
use mmnpz_file::mapping::Identity;
use mmnpz_file::paging::Advice;
use mmnpz_file::snapshot::{Snapshot, Unlisted};
use mmnpz_file::{Failure, fork};
use mmnpz_format::error::Error;
use mmnpz_format::read::lookup::{Found, LocatedArray, Lookup};
use mmnpz_format::read::walked_index::{Member, MemberId};

/// So many members are taken up between two looks at pending signals.
const POLL_INTERVAL: usize = 4096;

/// So many members are looked at together where views are made of one after the other.
const SOME: usize = 128;

/// An open archive: what all handles on it share, and what a view needs to be made.
struct OpenFile {
    snapshot: Snapshot,
    /// With what it was opened, to open it again: pairs, as no tuple has a lock.
    options: Py<PyTuple>,
    mapping: Py<Mapping>,
    /// The type of the array over the whole map.
    map_type: Py<PyType>,
    /// The type of the views.
    view_type: Py<PyType>,
    max_header_size: usize,
    /// It was said that the directory is damaged.
    warned: AtomicBool,
    /// The list of all names, and the fork generation in which it was made. Locked for moments, by threads that stay
    /// attached meanwhile.
    files: Mutex<Option<(u64, Py<PyList>)>>,
}

impl OpenFile {
    fn bytes(&self) -> &[u8] {
        self.snapshot.bytes()
    }

    fn lookup(&self) -> &Lookup {
        self.snapshot.lookup()
    }

    fn err(&self, py: Python<'_>, failure: Failure) -> PyErr {
        failure.into_err(py, self.snapshot.path())
    }

    /// The exception that says what is wrong with a member.
    fn member_err(&self, py: Python<'_>, failure: Failure, name: &str) -> PyErr {
        match failure {
            Failure::Format(error) => self.err(py, Failure::Format(error.in_member(name))),
            other => self.err(py, other),
        }
    }

    /// A new view of a member, with `mmap` as its base.
    fn view<'py>(
        &self,
        mmap: &Bound<'py, PyAny>,
        member: &Member,
        name: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = mmap.py();
        let located = self.snapshot.locate(member, name, self.max_header_size, &|| self.verify(py));
        let LocatedArray { header, offset, stored } =
            located.map_err(|failure| self.member_err(py, failure, name))?;
        // No more than the length of the map.
        let offset = offset as usize;
        let view = array::with_dtype(py, &header.descr, |dtype| {
            let view_type = self.view_type.bind(py);
            array::map_array(self.mapping.get(), mmap, view_type, &header, dtype, stored, offset)
        });
        view.map_err(|error| in_member(py, self.snapshot.path(), name, error))
    }

    /// The member of a name; `again` is for one that is not going to be read.
    fn find(&self, py: Python<'_>, name: &str, again: bool) -> PyResult<Option<Member>> {
        let found = self.snapshot.find(name, again, &|| self.verify(py));
        found.map_err(|failure| self.member_err(py, failure, name))
    }

    /// Makes sure that what the lookup says of all members is right.
    fn verify(&self, py: Python<'_>) -> Result<(), Failure> {
        let snapshot = &self.snapshot;
        if snapshot.is_verified() {
            return Ok(());
        }
        detached(py, || snapshot.verify(&keep_going))?;
        if self.lookup().is_recovered()
            && !snapshot.is_being_written()
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            let message = format!(
                "{}: the archive's directory is damaged; {} arrays were found without it; mmnpz.repair checks them and \
                 writes a directory",
                snapshot.path().display(),
                self.lookup().len()
            );
            if !go_on_unless(warn(py, message)) {
                return Err(Failure::Interrupted);
            }
        }
        Ok(())
    }

    fn verify_or_err(&self, py: Python<'_>) -> PyResult<()> {
        self.verify(py).map_err(|failure| self.err(py, failure))
    }

    /// Calls `each` for all members, in archive order. If a writer overwrites the directory meanwhile, it is called for
    /// all of them once more.
    fn for_each(
        &self,
        py: Python<'_>,
        mut each: impl FnMut(usize, &Member, &Bound<'_, PyString>) -> PyResult<()>,
    ) -> PyResult<()> {
        self.verified(py, |lookup, bytes| {
            lookup.members(bytes).enumerate().try_for_each(|(number, named)| {
                let (member, name) = named?;
                let done = each(number, &member, &PyString::new(py, &name))
                    .and_then(|()| if number % POLL_INTERVAL == 0 { py.check_signals() } else { Ok(()) });
                if go_on_unless(done) { Ok(()) } else { Err(Failure::Interrupted) }
            })
        })
    }

    /// The names of all arrays; the same list each time.
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
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
            // Ours goes after the lock, which is younger.
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

    fn lock_files(&self) -> MutexGuard<'_, Option<(u64, Py<PyList>)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, py: Python<'_>, member: MemberId) -> PyResult<String> {
        self.verified(py, |lookup, bytes| Ok(lookup.name(bytes, member)?))
    }

    /// The member at a position in archive order, and its name.
    fn at(&self, py: Python<'_>, position: usize) -> PyResult<(Member, String)> {
        self.verified(py, |lookup, bytes| Ok(lookup.at(bytes, position)?))
    }

    /// Some members from a position in archive order on, whose views are going to be made, and their names.
    fn some(&self, py: Python<'_>, from: usize) -> PyResult<Vec<(Member, String)>> {
        let some: Vec<(Member, String)> = self.verified(py, |lookup, bytes| {
            let some: Result<_, Error> = lookup.members_from(bytes, from).take(SOME).collect();
            Ok(some?)
        })?;
        self.fetch_headers(py, some.iter().map(|(member, _)| *member))?;
        Ok(some)
    }

    /// Has the system read the headers of members whose views are going to be made, if they are needed and not in memory.
    fn fetch_headers(&self, py: Python<'_>, members: impl Iterator<Item = Member>) -> PyResult<()> {
        if self.lookup().has_headers() {
            return Ok(());
        }
        let places = members.map(|member| member.extent().0);
        gather::fetch_headers_at(py, self.mapping.get(), self.snapshot.path(), places)
    }

    /// What `read` tells of all members once that is verified.
    fn verified<T>(
        &self,
        py: Python<'_>,
        read: impl FnMut(&Lookup, &[u8]) -> Result<T, Failure>,
    ) -> PyResult<T> {
        let found = self.snapshot.verified(&|| self.verify(py), read);
        found.map_err(|failure| self.err(py, failure))
    }
}

/// An archive and views into it, which any number of readers share.
pub(crate) struct Handle {
    file: Arc<OpenFile>,
    views: Views,
}

impl Handle {
    /// A handle with views of its own, all of them made if they are to be preloaded.
    fn new(py: Python<'_>, file: Arc<OpenFile>, preload: bool) -> PyResult<Arc<Self>> {
        let mmap = array::whole_map(file.mapping.bind(py), file.map_type.bind(py))?;
        let views = Views::new(py, file.lookup().limit(), mmap.unbind());
        let handle = Handle { file, views };
        if preload {
            handle.preload(py)?;
        }
        Ok(Arc::new(handle))
    }

    fn view<'py>(&self, py: Python<'py>, member: &Member, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.file.view(self.views.mmap.bind(py), member, name)
    }

    /// The view of a name, which is made and, if it is to be, kept.
    #[cold]
    pub(crate) fn first_access<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        keep: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = name.py();
        let file = &self.file;
        let key = name.cast::<PyString>().ok();
        // A name with lone surrogates is in no archive.
        let text = key.and_then(|key| key.to_str().ok());
        let found = text.map_or(Ok(None), |text| file.find(py, text, false))?;
        let (Some(key), Some(text), Some(member)) = (key, text, found) else {
            // As a dict would: what cannot be hashed is no key at all.
            name.hash()?;
            return Err(PyKeyError::new_err((name.clone().unbind(),)));
        };
        let view = self.view(py, &member, text)?;
        if !keep {
            return Ok(view);
        }
        let key = if key.is_exact_instance_of::<PyString>() { key.clone() } else { PyString::new(py, text) };
        self.keep(member.id, &key, view)
    }

    /// The names of all arrays, the same list each time.
    pub(crate) fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.file.files(py)
    }

    /// See [`Archive::some`].
    pub(crate) fn some(&self, py: Python<'_>, from: usize) -> PyResult<Vec<(Member, String)>> {
        self.file.some(py, from)
    }

    /// The view of a member, whose name is looked up nowhere.
    pub(crate) fn view_of<'py>(
        &self,
        member: &Member,
        name: &Bound<'py, PyString>,
        keep: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = name.py();
        if keep && let Some(view) = self.views.get(py, member.id) {
            return Ok(view);
        }
        let view = self.view(py, member, name.to_str()?)?;
        if keep { self.keep(member.id, name, view) } else { Ok(view) }
    }

    /// The same for the member at a position in archive order.
    #[cold]
    fn first_access_at<'py>(
        &self,
        py: Python<'py>,
        position: usize,
        keep: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (member, name) = self.file.at(py, position)?;
        let view = self.view(py, &member, &name)?;
        if keep { self.keep(member.id, &PyString::new(py, &name), view) } else { Ok(view) }
    }

    /// The view of a member that counts from now on, entered in the dict of views where it must be.
    fn keep<'py>(
        &self,
        member: MemberId,
        name: &Bound<'py, PyString>,
        view: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (view, listed) = self.views.publish(member, view)?;
        if listed {
            self.views.enter(name, &view)?;
        }
        self.views.settle(member);
        Ok(view)
    }

    /// Makes and keeps all views.
    fn preload(&self, py: Python<'_>) -> PyResult<()> {
        self.file.for_each(py, |number, member, name| {
            if number % SOME == 0 {
                let next = (number..number + SOME).map_while(|at| self.file.lookup().known(at));
                self.file.fetch_headers(py, next)?;
            }
            let view = self.view(py, member, name.to_str()?)?;
            self.keep(member.id, name, view).map(drop)
        })
    }

    /// The dict of all views that are kept.
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.views.arrays(py, |member| Ok(PyString::new(py, &self.file.name(py, member)?).into_any()))
    }
}

/// Warns of what a writer left in a file, or is just writing.
fn warn_of_unlisted(py: Python<'_>, snapshot: &Snapshot) -> PyResult<()> {
    let Some(Unlisted { count, is_lost }) = snapshot.unlisted() else { return Ok(()) };
    let is_written = detached(py, || snapshot.is_being_written());
    let path = snapshot.path().display();
    let message = match (is_written, is_lost) {
        // What was written since the last flush.
        (true, false) => return Ok(()),
        (true, true) => {
            format!("{path}: the archive has no directory, as it is being written; {count} arrays were found")
        }
        (false, _) => format!(
            "{path}: the archive has no complete directory, as a writer was not closed; {count} arrays were \
             found without; mmnpz.repair checks them and writes a directory"
        ),
    };
    warn(py, message)
}

fn warn(py: Python<'_>, message: String) -> PyResult<()> {
    // A path cannot have a NUL in it.
    let message = std::ffi::CString::new(message)?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 2)
}

/// What changes when a reader is opened and closed.
#[derive(Default)]
struct State {
    /// None before opening and after closing.
    handle: Option<Arc<Handle>>,
    /// Whether views are kept.
    cache: bool,
    /// Whether all views were made while opening.
    preload: bool,
    /// The dict that lookups ask first, if there is such.
    first: Option<Py<PyDict>>,
}

impl State {
    fn open(py: Python<'_>, handle: Arc<Handle>, cache: bool, preload: bool) -> Self {
        let first = (DICT_FIRST && cache).then(|| handle.views.listing(py).dict.clone_ref(py));
        State { handle: Some(handle), cache, preload, first }
    }
}

/// The compiled base of `mmnpz.NpzReader`.
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Reader {
    state: Shared<State>,
}

impl Reader {
    /// The handle as it is now, and whether views are kept: the reader can be closed, or opened anew, by another
    /// thread at any time.
    pub(crate) fn handle(&self, py: Python<'_>) -> PyResult<(Arc<Handle>, bool)> {
        let (handle, cache) = self.state.read(py, |state| (state.handle.clone(), state.cache));
        handle.map(|handle| (handle, cache)).ok_or_else(closed)
    }

    pub(crate) fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.read(py, |state| state.handle.is_some()) { Ok(()) } else { Err(closed()) }
    }

    fn file(&self, py: Python<'_>) -> PyResult<Arc<OpenFile>> {
        let file = self.state.read(py, |state| state.handle.as_ref().map(|handle| Arc::clone(&handle.file)));
        file.ok_or_else(closed)
    }

    /// The dict to ask first, if there is such.
    #[inline]
    pub(crate) fn first<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyDict>> {
        self.state.read(py, |state| Some(state.first.as_ref()?.bind(py).clone()))
    }

    /// The view of a name, if it is kept already.
    #[inline]
    fn known<'py>(&self, name: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = name.py();
        let text = name.cast::<PyString>().ok()?.to_str().ok()?;
        self.state.read(py, |state| {
            let handle = state.handle.as_ref().filter(|_| state.cache)?;
            let member = handle.file.lookup().find_again(handle.file.bytes(), text).member()?;
            handle.views.get(py, member.id)
        })
    }

    /// The view of a name that is not kept yet; `fresh` is for one past the cache.
    #[cold]
    fn first_access<'py>(&self, name: &Bound<'py, PyAny>, fresh: bool) -> PyResult<Bound<'py, PyAny>> {
        let (handle, cache) = self.handle(name.py())?;
        handle.first_access(name, cache && !fresh)
    }

    /// What looks many members up.
    fn lookup<'py>(&self, py: Python<'py>) -> PyResult<BatchLookup<'py>> {
        let (handle, cache) = self.handle(py)?;
        let first = (DICT_FIRST && cache).then(|| handle.views.listing(py).dict.bind(py).clone());
        Ok(BatchLookup { py, handle, cache, first })
    }
}

/// The views of many members, of an archive that stays as it is when the reader is closed meanwhile.
pub(crate) struct BatchLookup<'py> {
    py: Python<'py>,
    handle: Arc<Handle>,
    cache: bool,
    /// The dict to ask first for a name, if there is such.
    first: Option<Bound<'py, PyDict>>,
}

/// A view that is kept.
pub(crate) enum Kept<'a, 'py> {
    Own(Bound<'py, PyAny>),
    /// Without a reference of its own, which threads would wait for each other to count.
    Shared(Borrowed<'a, 'py, PyAny>),
}

impl<'py> Deref for Kept<'_, 'py> {
    type Target = Bound<'py, PyAny>;

    fn deref(&self) -> &Self::Target {
        match self {
            Kept::Own(view) => view,
            Kept::Shared(view) => view,
        }
    }
}

impl<'py> BatchLookup<'py> {
    pub(crate) fn py(&self) -> Python<'py> {
        self.py
    }

    pub(crate) fn path(&self) -> &Path {
        self.handle.file.snapshot.path()
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        self.handle.file.mapping.get()
    }

    /// How many members there are: only then is known what a position means.
    pub(crate) fn count(&self) -> PyResult<usize> {
        self.handle.file.verify_or_err(self.py)?;
        Ok(self.handle.file.lookup().len())
    }

    /// The name of the member at a position.
    pub(crate) fn name_at(&self, position: usize) -> PyResult<String> {
        self.handle.file.at(self.py, position).map(|(_, name)| name)
    }

    /// The view of a member, if it is kept.
    #[inline]
    pub(crate) fn kept(&self, key: Key<'_, 'py>) -> PyResult<Option<Kept<'_, 'py>>> {
        match (key, &self.first) {
            (Key::Name(name), Some(dict)) => Ok(dict.get_item(name)?.map(Kept::Own)),
            _ if self.cache => {
                let file = &self.handle.file;
                let member = match key {
                    Key::Name(name) => {
                        let name = name.cast::<PyString>().ok();
                        let text = name.as_ref().and_then(|name| name.to_str().ok());
                        let found = text.map(|text| file.lookup().find_again(file.bytes(), text));
                        found.and_then(Found::member).map(|member| member.id)
                    }
                    Key::Position(position) => file.lookup().id(position),
                };
                Ok(member.and_then(|member| self.handle.views.peek(self.py, member)).map(Kept::Shared))
            }
            _ => Ok(None),
        }
    }

    /// The same of many members; an error is left for whoever asks for that one. What is to be read to make the others
    /// is in the cache of the processor then.
    pub(crate) fn kept_of<'a>(&'a self, keys: &[Key<'_, 'py>], kept: &mut Vec<Option<Kept<'a, 'py>>>) {
        let file = &self.handle.file;
        if self.cache && self.first.is_none() {
            let found = file.lookup().find_all(file.bytes(), keys.iter().map(text_of));
            kept.extend(keys.iter().zip(found).map(|(key, found)| {
                let member = if let Key::Position(at) = *key { file.lookup().id(at) } else { found };
                self.handle.views.peek(self.py, member?).map(Kept::Shared)
            }));
            return;
        }
        kept.extend(keys.iter().map(|key| self.kept(*key).unwrap_or_default()));
        if file.lookup().uses_stored() && kept.iter().any(Option::is_none) {
            let missing = keys.iter().zip(&*kept).filter(|(_, view)| view.is_none());
            file.lookup().find_all(file.bytes(), missing.map(|(key, _)| text_of(key)));
        }
    }

    /// What the reader gives for a member of which no view is kept.
    #[inline]
    pub(crate) fn made(&self, key: Key<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        self.access(key, self.cache)
    }

    /// Whether a view cannot be made without a look at the member's headers.
    pub(crate) fn reads_headers(&self) -> bool {
        !self.handle.file.lookup().has_headers()
    }

    /// Where the headers of a member start, as far as that is known without a look at them.
    pub(crate) fn headers_at(&self, key: Key<'_, 'py>) -> Option<u64> {
        let file = &self.handle.file;
        let member = match key {
            Key::Name(name) => {
                let name = name.cast::<PyString>().ok()?;
                file.lookup().find_again(file.bytes(), name.to_str().ok()?).member()?
            }
            Key::Position(position) => file.lookup().at(file.bytes(), position).ok()?.0,
        };
        Some(member.extent().0)
    }

    /// A new view, whatever is kept.
    pub(crate) fn fresh(&self, key: Key<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        self.access(key, false)
    }

    #[cold]
    fn access(&self, key: Key<'_, 'py>, keep: bool) -> PyResult<Bound<'py, PyAny>> {
        match key {
            Key::Name(name) => {
                let view = self.handle.first_access(&name, keep);
                view.map_err(|error| {
                    let is_unknown = error.is_instance_of::<PyKeyError>(self.py);
                    is_unknown.then(|| gather::not_a_name(&name)).flatten().unwrap_or(error)
                })
            }
            Key::Position(position) => self.handle.first_access_at(self.py, position, keep),
        }
    }
}

/// The name that a member is asked for by.
fn text_of<'a>(key: &'a Key<'_, '_>) -> Option<&'a str> {
    let Key::Name(name) = key else { return None };
    // Not by a reference of its own, which would go before the text does.
    let name: &Bound<'_, PyAny> = name;
    name.cast::<PyString>().ok()?.to_str().ok()
}

fn closed() -> PyErr {
    PyValueError::new_err("the reader is closed")
}

#[pymethods]
impl Reader {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Reader { state: Shared::new(State::default()) }
    }

    /// Opens an archive, in place of the one that is open. `options` are the arguments that follow, for
    /// `_origin`.
    #[pyo3(signature = (options, path, filename, map_type, view_type, cache, preload, max_header_size, identity=None))]
    #[expect(clippy::too_many_arguments, reason = "called once, by NpzReader.__init__, with keywords")]
    fn _open(
        &self,
        py: Python<'_>,
        options: Py<PyTuple>,
        path: PathBuf,
        filename: Py<PyAny>,
        map_type: Bound<'_, PyType>,
        view_type: Bound<'_, PyType>,
        cache: bool,
        preload: bool,
        max_header_size: usize,
        identity: Option<(u64, u128, u64)>,
    ) -> PyResult<()> {
        let expected = identity.map(|(size, modified, inode)| Identity { size, modified, inode });
        let opened = detached(py, || Snapshot::open(&path, expected, &keep_going));
        let snapshot = opened.map_err(|failure| failure.into_err(py, &path))?;
        warn_of_unlisted(py, &snapshot)?;
        let file = OpenFile {
            mapping: Bound::new(py, Mapping::new(Arc::clone(snapshot.map()), filename))?.unbind(),
            snapshot,
            options,
            map_type: map_type.unbind(),
            view_type: view_type.unbind(),
            max_header_size,
            warned: AtomicBool::new(false),
            files: Mutex::default(),
        };
        let handle = Handle::new(py, Arc::new(file), preload)?;
        drop(self.state.replace(py, State::open(py, handle, cache, preload)));
        Ok(())
    }

    /// Becomes another handle on the archive that `other` has open: it shares the map and the index, and the views
    /// too unless it is to make views of its own, all at once if those of `other` were preloaded.
    fn _share(&self, py: Python<'_>, other: &Bound<'_, Self>, own_views: bool) -> PyResult<()> {
        let (handle, cache, preload) =
            other.get().state.read(py, |state| (state.handle.clone(), state.cache, state.preload));
        let mut handle = handle.ok_or_else(closed)?;
        if own_views {
            handle = Handle::new(py, Arc::clone(&handle.file), preload)?;
        }
        drop(self.state.replace(py, State::open(py, handle, cache, preload)));
        Ok(())
    }

    fn __getitem__<'py>(&self, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        // Where there is a dict to ask first, `subscript` has done that.
        let known = if DICT_FIRST { None } else { self.known(name) };
        known.map_or_else(|| self.first_access(name, false), Ok)
    }

    /// A new view of an array, whatever is cached.
    ///
    /// Parameters
    /// ----------
    /// name : str
    ///     The member's name without its ``.npy`` extension.
    ///
    /// Returns
    /// -------
    /// memmap or ndarray
    ///     A read-only view into the map, with the array's shape, dtype, byte order and memory order.
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     If there is no such array.
    /// ValueError
    ///     If its ``.npy`` header is bad, its shape does not fit what is stored, it holds Python objects, or the
    ///     reader is closed.
    /// zipfile.BadZipFile
    ///     If the member is not where the archive's directory says.
    fn load<'py>(&self, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.first_access(name, true)
    }

    /// A batch: excerpts of many arrays, or whole arrays, stacked along a new first axis.
    ///
    /// As ``numpy.stack([data[name][start:stop] for …])``, without a turn of the interpreter for each excerpt: all is
    /// looked up and checked first, and copied then, without the GIL. What is not in memory is asked for as a whole,
    /// so that the disk reads no more than that, and many excerpts at a time.
    ///
    /// Parameters
    /// ----------
    /// names : sequence of str or of int
    ///     The names of the arrays, or their positions in archive order, as in ``data.files[position]``. A negative one
    ///     counts from the end. One may occur more than once.
    /// starts : int or sequence of int, optional
    ///     The first row of each excerpt, counted from the start of its array: 0 by default.
    /// stops : int or sequence of int, optional
    ///     The row behind the last of each excerpt. By default `length` rows behind the first one or, without that,
    ///     the end of the array.
    /// length : int, optional
    ///     How many rows each excerpt has in the batch. By default as many as the first one or, with `pad`, as the
    ///     longest one.
    /// out : ndarray, optional
    ///     The array to copy to, of the shape and the dtype of the batch. It is used fastest if it is C-contiguous. For
    ///     a tensor of PyTorch, give its ``numpy()``.
    /// dtype : data-type, optional
    ///     The dtype that items are converted to, by the rule ``"same_kind"`` of `numpy.can_cast`. By default all
    ///     arrays must have the same, which the batch then has, byte order included.
    /// pad : scalar or array_like, optional
    ///     What is put in place of rows that an array does not have, or that an excerpt has less than `length`: a
    ///     value, or a row. By default such excerpts are refused.
    /// threads : int, optional
    ///     How many threads copy, this one included: 1 by default, at most 64. Those that help stay for later batches, and
    ///     are shared by all callers: one that finds none free copies alone.
    ///
    /// Returns
    /// -------
    /// ndarray
    ///     `out`, or a new array. Its shape is ``(len(names), length, …)`` or, if neither `starts`, `stops`, `length`
    ///     nor `pad` are given, ``(len(names), …)`` with the shape that all arrays have.
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     If there is no array of a name.
    /// IndexError
    ///     If there is no array at a position, or an excerpt starts before its array, stops before it starts or, without
    ///     `pad`, does not lie in its array.
    /// TypeError
    ///     If the dtypes of the arrays, or that of `out`, do not fit, or an argument is of a wrong type: `names` must
    ///     not be booleans, nor both names and positions.
    /// ValueError
    ///     If the shapes of the arrays, or that of `out`, do not fit, an array cannot be read (see `load`), there are no
    ///     names and no `out`, or the reader is closed.
    ///
    /// See Also
    /// --------
    /// prefetch : Has the system read what a later batch needs.
    ///
    /// Notes
    /// -----
    /// Errors name the file and the array, and are raised before anything is written to `out`.
    ///
    /// Views are kept as by ``data[name]``, if `cache` is true, also where positions are given. `files` is not made for
    /// those; the first time, the file's directory is checked. Arrays in Fortran order, and those that are converted, are
    /// copied by NumPy, one after the other.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> import mmnpz
    /// >>> np.savez("example.npz", a=np.arange(6), b=np.arange(10, 14))
    /// >>> data = mmnpz.load("example.npz")
    /// >>> data.gather(["a", "b", "a"], starts=[0, 1, 3], length=3)
    /// array([[ 0,  1,  2],
    ///        [11, 12, 13],
    ///        [ 3,  4,  5]])
    /// >>> data.gather([0, -1], starts=1, length=2)
    /// array([[ 1,  2],
    ///        [11, 12]])
    /// >>> data.gather(["a", "b"], pad=-1, dtype=np.float32)
    /// array([[ 0.,  1.,  2.,  3.,  4.,  5.],
    ///        [10., 11., 12., 13., -1., -1.]], dtype=float32)
    /// >>> data.gather(["a", "b"], starts=[0, 2], length=3)
    /// Traceback (most recent call last):
    ///   ...
    /// IndexError: example.npz: member "b": rows 2 to 5 are asked for, and it has 4; pad= says what to put in place ...
    #[pyo3(signature = (names, starts=None, stops=None, *, length=None, out=None, dtype=None, pad=None, threads=None))]
    #[expect(clippy::too_many_arguments, reason = "those of Python, most of them with keywords")]
    fn gather<'py>(
        &self,
        names: &Bound<'py, PyAny>,
        starts: Option<&Bound<'py, PyAny>>,
        stops: Option<&Bound<'py, PyAny>>,
        length: Option<i64>,
        out: Option<&Bound<'py, PyAny>>,
        dtype: Option<&Bound<'py, PyAny>>,
        pad: Option<&Bound<'py, PyAny>>,
        threads: Option<i64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let lookup = self.lookup(names.py())?;
        let part = Part::new(&lookup, names, starts, stops, length)?;
        gather::gather(&lookup, &part, &Making { out, dtype, pad, threads })
    }

    /// Has the operating system read excerpts, or whole arrays, into memory. Does not wait until they are there.
    ///
    /// Parameters
    /// ----------
    /// names : sequence of str or of int
    ///     The names of the arrays, or their positions in archive order.
    /// starts, stops, length
    ///     Which rows of them, as for `gather`; by default all. Rows behind the end of an array are left aside.
    ///
    /// Raises
    /// ------
    /// KeyError, IndexError, TypeError, ValueError
    ///     As for `gather`.
    ///
    /// Notes
    /// -----
    /// `gather` does this by itself for what it needs. Call it for the next batch before you work on the present one.
    /// On systems without such advice, Windows for one, nothing is read.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> import mmnpz
    /// >>> np.savez("example.npz", a=np.arange(6), b=np.arange(10, 14))
    /// >>> data = mmnpz.load("example.npz")
    /// >>> data.prefetch(["a", "b"], starts=[2, 0], length=2)
    /// >>> data.gather(["a", "b"], starts=[2, 0], length=2)
    /// array([[ 2,  3],
    ///        [10, 11]])
    #[pyo3(signature = (names, starts=None, stops=None, *, length=None))]
    fn prefetch<'py>(
        &self,
        names: &Bound<'py, PyAny>,
        starts: Option<&Bound<'py, PyAny>>,
        stops: Option<&Bound<'py, PyAny>>,
        length: Option<i64>,
    ) -> PyResult<()> {
        let lookup = self.lookup(names.py())?;
        let part = Part::new(&lookup, names, starts, stops, length)?;
        gather::prefetch(&lookup, &part)
    }

    /// Tells the operating system how the map of the file will be used, by all who share it in this process.
    ///
    /// Parameters
    /// ----------
    /// advice : {"normal", "random", "sequential", "willneed", "dontneed"}
    ///     What to expect:
    ///
    ///     - ``"normal"``, which maps start with: some is read ahead.
    ///     - ``"random"``: small parts of views at random. Nothing is read ahead, page by page.
    ///     - ``"sequential"``: whole arrays from start to end. Much is read ahead.
    ///     - ``"willneed"``: all of the file, soon. It is read, in the background.
    ///     - ``"dontneed"``: nothing, for now. This process lets go of the pages; they stay in the page cache until the
    ///       system needs the memory, and come back when they are touched.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     If it is another advice, or the reader is closed.
    ///
    /// Notes
    /// -----
    /// Nothing of this changes what is read, and a system may ignore it; Windows does. `gather` and `prefetch` do not
    /// need it.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np
    /// >>> import mmnpz
    /// >>> np.savez("example.npz", a=np.arange(6))
    /// >>> data = mmnpz.load("example.npz")
    /// >>> data.advise("random")
    /// >>> data["a"][4:]
    /// memmap([4, 5])
    fn advise(&self, py: Python<'_>, advice: &str) -> PyResult<()> {
        let advice = Advice::named(advice).ok_or_else(|| {
            let names = Advice::NAMES.map(|(name, _)| format!("'{name}'")).join(", ");
            PyValueError::new_err(format!("advice must be one of {names}, got {advice:?}"))
        })?;
        let file = self.file(py)?;
        let mapping = file.mapping.get();
        detached(py, || mapping.advise(advice, 0, mapping.bytes().len()));
        Ok(())
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let file = self.file(name.py())?;
        let Ok(text) = name.cast::<PyString>() else {
            name.hash()?;
            return Ok(false);
        };
        let found = text.to_str().map_or(Ok(None), |text| file.find(name.py(), text, true))?;
        Ok(found.is_some())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.file(py)?.lookup().len())
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.file(py)?.files(py)?.try_iter()
    }

    /// The views of all arrays in archive order, with their names if `pairs`.
    fn _walk(slf: &Bound<'_, Self>, pairs: bool) -> PyResult<Walk> {
        Walk::new(slf, pairs)
    }

    /// The names of all arrays, in archive order, without their ``.npy`` extension (list of str).
    ///
    /// The list is made when it is first asked for.
    #[getter]
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.file(py)?.files(py)
    }

    /// The name of the array at a position in archive order, without a list of all.
    fn _name(&self, py: Python<'_>, number: usize) -> PyResult<String> {
        let file = self.file(py)?;
        file.verify_or_err(py)?;
        let member = file.lookup().id(number);
        let member = member.ok_or_else(|| PyIndexError::new_err(format!("there is no array {number}")))?;
        file.name(py, member)
    }

    /// The position of an array in archive order.
    fn _number(&self, name: &Bound<'_, PyString>) -> PyResult<u32> {
        let file = self.file(name.py())?;
        let found = name.to_str().map_or(Ok(None), |text| file.find(name.py(), text, true))?;
        let position = found.map(|member| file.lookup().position(member.id));
        position.ok_or_else(|| PyKeyError::new_err((name.clone().unbind(),)))
    }

    /// Whether the items of an array are those of the file.
    fn _holds(&self, py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<bool> {
        // Nothing of Python runs in there: the array keeps the dtype that is looked at.
        self.state.read(py, |state| {
            let handle = state.handle.as_ref().ok_or_else(closed)?;
            Ok(gather::place_of(handle.file.mapping.get(), array).is_some())
        })
    }

    /// Has the system read the items of those arrays that lie in the file, if they are not in memory.
    fn _fetch(&self, arrays: &Bound<'_, PyList>) -> PyResult<()> {
        let file = self.file(arrays.py())?;
        gather::fetch(file.mapping.get(), file.snapshot.path(), arrays)
    }

    /// Has the system read the headers of those arrays, given by their names, if they are needed and not in memory.
    fn _fetch_headers(&self, names: &Bound<'_, PyAny>) -> PyResult<()> {
        let lookup = self.lookup(names.py())?;
        gather::fetch_headers_of(&lookup, names)
    }

    /// The memory map of the whole file (memmap of uint8); gone once the reader is closed.
    #[getter]
    fn mmap<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (handle, _) = self.handle(py).map_err(|_| PyAttributeError::new_err("the reader is closed"))?;
        Ok(handle.views.mmap.bind(py).clone())
    }

    /// The views that were preloaded or cached so far, by name (dict).
    ///
    /// It is one dict, not a copy, to which further views are added, and stays valid when the reader is closed or
    /// gone.
    #[getter]
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match self.handle(py) {
            Ok((handle, _)) => handle.arrays(py),
            Err(_) => Ok(PyDict::new(py)),
        }
    }

    /// Whether the views that are handed out are kept, so that a name always gives the same one (bool).
    #[getter]
    fn cache(&self, py: Python<'_>) -> bool {
        self.state.read(py, |state| state.cache)
    }

    /// Whether all views were made while opening (bool).
    #[getter]
    fn preload(&self, py: Python<'_>) -> bool {
        self.state.read(py, |state| state.preload)
    }

    /// Releases the reader's hold on the map and on the views.
    ///
    /// Views and dicts of views taken before stay valid: the file is mapped until the last of them is gone.
    /// Closing again does nothing.
    fn close(&self, py: Python<'_>) {
        // This may free views, and with the last of them the map.
        let (cache, preload) = self.state.read(py, |state| (state.cache, state.preload));
        drop(self.state.replace(py, State { cache, preload, ..State::default() }));
    }

    /// With what options the file was opened, and its size, time of the last change and inode then: together, as
    /// another thread may open the reader anew.
    #[getter]
    fn _origin(&self, py: Python<'_>) -> PyResult<(Py<PyTuple>, (u64, u128, u64))> {
        let file = self.file(py)?;
        let Identity { size, modified, inode } = file.snapshot.identity();
        Ok((file.options.clone_ref(py), (size, modified, inode)))
    }

    /// Bytes of memory that the index takes.
    #[getter]
    fn _index_memory(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.file(py)?.lookup().memory())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.visit(|state| {
            visit.call(&state.first)?;
            let Some(handle) = &state.handle else { return Ok(()) };
            // What readers share may be visited through one of them only, so not while there are several.
            if Arc::strong_count(handle) > 1 {
                return Ok(());
            }
            if Arc::strong_count(&handle.file) == 1
                && let Ok(files) = handle.file.files.try_lock()
                && let Some((_, list)) = &*files
            {
                visit.call(list)?;
            }
            handle.views.traverse(&visit)
        })
    }
}
