//! The reader: from names to views.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use mmnpz_core::index::{Directory, Index, MemberId};
use mmnpz_core::npy::Header;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyAttributeError, PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyDict, PyIterator, PyList, PyString, PyTuple, PyType};

use crate::array;
use crate::cache::ViewCache;
use crate::detach::detached;
use crate::error::{Failure, check_signals};
use crate::mapping::{self, Identity, Mapping};

/// So many members are taken up between two looks at pending signals.
const POLL_INTERVAL: usize = 4096;

/// An open archive: what all lookups share, and what a view needs to be made.
struct Archive {
    path: PathBuf,
    identity: Identity,
    mapping: Py<Mapping>,
    /// The array over the whole map, base of every view.
    mmap: Py<PyAny>,
    /// The type of the views.
    view_type: Py<PyType>,
    max_header_size: usize,
    index: Index,
    cache: ViewCache,
    files: OnceLock<Py<PyList>>,
}

impl Archive {
    fn bytes(&self) -> &[u8] {
        self.mapping.get().bytes()
    }

    /// A new view of a member.
    fn view<'py>(&self, py: Python<'py>, member: MemberId, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.try_view(py, member, name).map_err(|failure| match failure {
            Failure::Format(error) => Failure::Format(error.in_member(name)).into_err(py, &self.path),
            Failure::Raised(error) if error.get_type(py).is(py.get_type::<PyValueError>()) => {
                let path = self.path.to_string_lossy();
                let message = format!("{path}: member {name:?}: {}", error.value(py));
                let described = PyValueError::new_err(message);
                described.set_cause(py, error.cause(py));
                described
            }
            other => other.into_err(py, &self.path),
        })
    }

    fn try_view<'py>(
        &self,
        py: Python<'py>,
        member: MemberId,
        name: &str,
    ) -> Result<Bound<'py, PyAny>, Failure> {
        let mapping = self.mapping.get();
        let range = self.index.member(mapping.bytes(), member, name)?;
        let out_of_map = |_| Failure::from(mmnpz_core::ErrorKind::LocalOutside);
        let start = usize::try_from(range.start).map_err(out_of_map)?;
        let file = mmnpz_core::index::slice(mapping.bytes(), &range)
            .ok_or(mmnpz_core::ErrorKind::DataOutside { size: range.end - range.start })?;
        let (header, data) = Header::parse(file, self.max_header_size)?;
        let stored = (file.len() - data) as u64;
        array::dtype_of(py, &header.descr)
            .and_then(|dtype| {
                let (mmap, view_type) = (self.mmap.bind(py), self.view_type.bind(py));
                array::map_array(mapping, mmap, view_type, &header, &dtype, stored, start + data)
            })
            .map_err(Failure::Raised)
    }

    /// The names of all arrays; the same list each time.
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if let Some(files) = self.files.get() {
            return Ok(files.bind(py).clone());
        }
        // Made first and published after: while a OnceLock is being filled, whoever else wants it waits, and a
        // forked child for ever.
        let list = PyList::empty(py);
        for (number, member) in self.index.ids().enumerate() {
            list.append(PyString::new(py, &self.name(py, member)?))?;
            if number % POLL_INTERVAL == 0 {
                py.check_signals()?;
            }
        }
        let too_late = self.files.set(list.clone().unbind()).err();
        drop(too_late);
        Ok(self.files.get().map_or(list, |files| files.bind(py).clone()))
    }

    fn name(&self, py: Python<'_>, member: MemberId) -> PyResult<Cow<'_, str>> {
        let name = self.index.name(self.bytes(), member);
        name.map_err(|error| Failure::from(error).into_err(py, &self.path))
    }

    /// All views, made and published, by name.
    fn preload<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let arrays = PyDict::new(py);
        for (number, member) in self.index.ids().enumerate() {
            let name = self.name(py, member)?;
            let view = self.cache.publish(member, self.view(py, member, &name)?);
            arrays.set_item(PyString::new(py, &name), view)?;
            if number % POLL_INTERVAL == 0 {
                py.check_signals()?;
            }
        }
        Ok(arrays)
    }
}

/// Opens, maps and indexes a file, which must be in the `expected` state if one is given; the interpreter is not
/// held.
fn open(path: &Path, expected: Option<Identity>) -> Result<(memmap2::Mmap, Index, Identity), Failure> {
    let (map, identity) = mapping::map_file(path)?;
    if expected.is_some_and(|expected| expected != identity) {
        return Err(Failure::Changed);
    }
    let directory = Directory::locate(&map)?;
    let mut raised = None;
    let index = Index::build(&map, directory, || {
        raised = check_signals().err();
        raised.is_none()
    });
    match raised {
        Some(failure) => Err(failure),
        None => Ok((map, index?, identity)),
    }
}

/// What changes when a reader is opened and closed.
#[derive(Default)]
struct State {
    archive: Option<Arc<Archive>>,
    /// The views by name that all handles on the archive share: `NpzReader.arrays`. None before opening.
    arrays: Option<Py<PyDict>>,
    /// The views by name that this handle has handed out: the fast path of lookups. The handle that opened the
    /// archive has `arrays` here; a copy has a dict of its own, so that threads with a handle each do not count
    /// references on the same object up and down.
    front: Option<Py<PyDict>>,
    /// Whether views are kept.
    cache: bool,
}

/// The state of a reader, for any number of threads.
struct Guarded(UnsafeCell<State>);

// SAFETY: the state is reached only through `read` and `replace`. Both need a `Python` token and run inside the
// critical section of the reader that owns it: on free-threaded Python this keeps all other threads out, on
// other builds the GIL does. Neither runs Python code, detaches, or lets a reference into the state escape.
unsafe impl Sync for Guarded {}

impl Guarded {
    /// Copies something (references, numbers) out of the state. `copy` may not run Python code: counting a
    /// reference up is all that it may do.
    fn read<R>(&self, owner: &Bound<'_, Reader>, copy: fn(&State, Python<'_>) -> R) -> R {
        // SAFETY: see the Sync implementation; `copy` is one of the few functions in this file.
        with_critical_section(owner.as_any(), || copy(unsafe { &*self.0.get() }, owner.py()))
    }

    /// Puts another state in place and gives back the old one, to be dropped outside the critical section.
    fn replace(&self, owner: &Bound<'_, Reader>, state: State) -> State {
        // SAFETY: see the Sync implementation; a move runs no Python code.
        with_critical_section(owner.as_any(), || std::mem::replace(unsafe { &mut *self.0.get() }, state))
    }
}

/// The compiled base of `mmnpz.NpzReader`.
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Reader {
    state: Guarded,
}

impl Reader {
    fn archive(slf: &Bound<'_, Self>) -> PyResult<Arc<Archive>> {
        slf.get().state.read(slf, |state, _| state.archive.clone()).ok_or_else(closed)
    }

    /// The view of a name that this handle has not handed out yet; `fresh` is for one past the cache.
    #[cold]
    fn first_access<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        fresh: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        // All at once: the reader can be closed, or opened anew, by another thread at any time.
        let (archive, arrays, front, cache) = slf.get().state.read(slf, |state, py| {
            let copy = |dict: &Option<Py<PyDict>>| dict.as_ref().map(|dict| dict.clone_ref(py));
            (state.archive.clone(), copy(&state.arrays), copy(&state.front), state.cache)
        });
        let (Some(archive), Some(arrays), Some(front)) = (archive, arrays, front) else {
            return Err(closed());
        };
        let key = name.cast::<PyString>().ok();
        // A name with lone surrogates is in no archive.
        let text = key.and_then(|key| key.to_str().ok());
        let found = text.and_then(|text| archive.index.find(archive.bytes(), text));
        let (Some(key), Some(text), Some(member)) = (key, text, found) else {
            // As a dict would: what cannot be hashed is no key at all.
            name.hash()?;
            return Err(PyKeyError::new_err((name.clone().unbind(),)));
        };
        if fresh || !cache {
            return archive.view(py, member, text);
        }
        let (arrays, front) = (arrays.bind(py), front.bind(py));
        let own = !front.is(arrays);
        // The handle that opened the archive has all views in its dict: asking the cache too would be in vain.
        let known = if own { archive.cache.get(py, member) } else { None };
        let view = match known {
            Some(view) => view,
            None => archive.cache.publish(member, archive.view(py, member, text)?),
        };
        let key = if key.is_exact_instance_of::<PyString>() { key.clone() } else { PyString::new(py, text) };
        if own {
            arrays.set_item(&key, &view)?;
        }
        front.set_item(key, &view)?;
        Ok(view)
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("the reader is closed")
}

#[pymethods]
impl Reader {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Reader { state: Guarded(UnsafeCell::default()) }
    }

    /// Opens an archive, in place of the one that is open.
    #[pyo3(signature = (path, filename, map_type, view_type, cache, preload, max_header_size, identity=None))]
    #[expect(clippy::too_many_arguments, reason = "called once, by NpzReader.__init__, with keywords")]
    fn _open(
        slf: &Bound<'_, Self>,
        path: PathBuf,
        filename: Py<PyAny>,
        map_type: Bound<'_, PyType>,
        view_type: Bound<'_, PyType>,
        cache: bool,
        preload: bool,
        max_header_size: usize,
        identity: Option<Identity>,
    ) -> PyResult<()> {
        let py = slf.py();
        let (mapped, index, identity) =
            detached(py, || open(&path, identity)).map_err(|failure| failure.into_err(py, &path))?;
        let owner = Bound::new(py, Mapping::new(mapped, filename))?;
        let mmap = array::whole_map(&owner, &map_type)?.unbind();
        let archive = Archive {
            path,
            identity,
            mapping: owner.unbind(),
            mmap,
            view_type: view_type.unbind(),
            max_header_size,
            index,
            cache: ViewCache::new(),
            files: OnceLock::new(),
        };
        let arrays = if preload { archive.preload(py)? } else { PyDict::new(py) }.unbind();
        let front = Some(arrays.clone_ref(py));
        let state = State { archive: Some(Arc::new(archive)), arrays: Some(arrays), front, cache };
        drop(slf.get().state.replace(slf, state));
        Ok(())
    }

    /// Becomes another handle on the archive that `other` has open: it shares the map, the index and the views.
    fn _share(slf: &Bound<'_, Self>, other: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let (archive, arrays, cache) = other.get().state.read(other, |state, py| {
            (state.archive.clone(), state.arrays.as_ref().map(|arrays| arrays.clone_ref(py)), state.cache)
        });
        let archive = Some(archive.ok_or_else(closed)?);
        let state = State { archive, arrays, front: Some(PyDict::new(py).unbind()), cache };
        drop(slf.get().state.replace(slf, state));
        Ok(())
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let front = slf.get().state.read(slf, |state, py| {
            state.front.as_ref().filter(|_| state.cache).map(|front| front.clone_ref(py))
        });
        if let Some(front) = front
            && let Some(view) = front.bind(slf.py()).get_item(name)?
        {
            return Ok(view);
        }
        Self::first_access(slf, name, false)
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
    fn load<'py>(slf: &Bound<'py, Self>, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Self::first_access(slf, name, true)
    }

    fn __contains__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let archive = Self::archive(slf)?;
        let Ok(text) = name.cast::<PyString>() else {
            name.hash()?;
            return Ok(false);
        };
        Ok(text.to_str().is_ok_and(|text| archive.index.contains(archive.bytes(), text)))
    }

    fn __len__(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Ok(Self::archive(slf)?.index.len())
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        Self::archive(slf)?.files(slf.py())?.try_iter()
    }

    /// The names of all arrays, in archive order, without their ``.npy`` extension (list of str).
    ///
    /// The list is made when it is first asked for.
    #[getter]
    fn files<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        Self::archive(slf)?.files(slf.py())
    }

    /// The memory map of the whole file (memmap of uint8); gone once the reader is closed.
    #[getter]
    fn mmap<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let archive = Self::archive(slf).map_err(|_| PyAttributeError::new_err("the reader is closed"))?;
        Ok(archive.mmap.bind(slf.py()).clone())
    }

    /// The views that were preloaded or cached so far, by name (dict).
    ///
    /// It is the dict that lookups use, not a copy, and stays valid when the reader is closed or gone.
    #[getter]
    fn arrays<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyDict> {
        let arrays = slf.get().state.read(slf, |state, py| state.arrays.as_ref().map(|a| a.clone_ref(py)));
        arrays.map_or_else(|| PyDict::new(slf.py()), |arrays| arrays.into_bound(slf.py()))
    }

    /// Whether the views that are handed out are kept, so that a name always gives the same one (bool).
    #[getter]
    fn cache(slf: &Bound<'_, Self>) -> bool {
        slf.get().state.read(slf, |state, _| state.cache)
    }

    /// Releases the reader's hold on the map and on the views.
    ///
    /// Views and dicts of views taken before stay valid: the file is mapped until the last of them is gone.
    /// Closing again does nothing.
    fn close(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let arrays = PyDict::new(py).unbind();
        let front = Some(arrays.clone_ref(py));
        let state = State { archive: None, arrays: Some(arrays), front, cache: Self::cache(slf) };
        let old = slf.get().state.replace(slf, state);
        // Outside the critical section: this may free views, and with the last of them the map.
        drop(old);
    }

    /// Size, time of the last change and inode of the file when it was opened.
    #[getter]
    fn _identity(slf: &Bound<'_, Self>) -> PyResult<Identity> {
        Ok(Self::archive(slf)?.identity)
    }

    /// Bytes of memory that the index takes.
    #[getter]
    fn _index_memory(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Ok(Self::archive(slf)?.index.memory())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: the collector runs with the GIL held or all other threads stopped, never in the middle of
        // `replace`, which has no point at which a thread could be stopped.
        let state = unsafe { &*self.state.0.get() };
        visit.call(&state.arrays)?;
        visit.call(&state.front)?;
        match &state.archive {
            // What handles share may be visited through one of them only, so not while there are several.
            Some(archive) if Arc::strong_count(archive) == 1 => {
                visit.call(&archive.mmap)?;
                visit.call(archive.files.get())?;
                archive.cache.traverse(&visit)
            }
            _ => Ok(()),
        }
    }
}
