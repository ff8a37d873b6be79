//! `NpzReader`: from names to views.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use mmnpz_file::mapping::{Identity, Mode};
use mmnpz_file::paging::Advice;
use mmnpz_file::snapshot::Snapshot;

use crate::batch::arguments::{self, Keys};
use crate::batch::gather::{self, Making};
use crate::batch::lookup::BatchLookup;
use crate::batch::prefetch;
use crate::detach::{detached, detached_on};
use crate::error::keep_going;
use crate::mapping::{self, Mapping};
use crate::swap_cell::SwapCell;
use crate::views::handle::Handle;
use crate::views::open_file::{OpenFile, Types, warn_of_no_arrays, warn_of_private, warn_of_unlisted};
use crate::views::view_cache::DICT_FIRST;

/// The state of a reader, replaced when a program opens or closes it.
#[derive(Default)]
struct State {
    /// None before opening and after closing.
    handle: Option<Arc<Handle>>,
    /// Whether views are kept.
    cache: bool,
    /// Whether opening made all views.
    preload: bool,
    /// The dict of views, if `data[name]` looks there first.
    first: Option<Py<PyDict>>,
}

impl State {
    fn open(py: Python<'_>, handle: Arc<Handle>, cache: bool, preload: bool) -> Self {
        let first = (DICT_FIRST && cache).then(|| handle.views.dict(py).clone().unbind());
        State { handle: Some(handle), cache, preload, first }
    }
}

#[doc = docstring!("Reader")]
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Reader {
    state: SwapCell<State>,
}

impl Reader {
    /// The present handle, and whether views are kept. Another thread can close the reader, or open it anew,
    /// at any time.
    pub(crate) fn handle(&self, py: Python<'_>) -> PyResult<(Arc<Handle>, bool)> {
        let (handle, cache) = self.state.read(py, |state| (state.handle.clone(), state.cache));
        handle.map(|handle| (handle, cache)).ok_or_else(closed)
    }

    pub(crate) fn file(&self, py: Python<'_>) -> PyResult<Arc<OpenFile>> {
        self.with_file(py, Arc::clone)
    }

    /// Reads the open file without a reference to it, which threads would wait for each other to count.
    /// `read` must keep to the rules of [`SwapCell::read`].
    pub(crate) fn with_file<R>(&self, py: Python<'_>, read: impl FnOnce(&Arc<OpenFile>) -> R) -> PyResult<R> {
        let read = self.state.read(py, |state| state.handle.as_ref().map(|handle| read(&handle.file)));
        read.ok_or_else(closed)
    }

    /// The dict of views, if `data[name]` looks there first.
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
            handle.views.get(py, handle.file.snapshot.seen(text)?.id)
        })
    }

    /// The view of a name that is not kept yet. With `fresh`, a view past the cache.
    #[cold]
    fn first_access<'py>(&self, name: &Bound<'py, PyAny>, fresh: bool) -> PyResult<Bound<'py, PyAny>> {
        let (handle, cache) = self.handle(name.py())?;
        handle.first_access(name, cache && !fresh)
    }

    /// A lookup of many members.
    pub(crate) fn lookup<'py>(&self, py: Python<'py>) -> PyResult<BatchLookup<'py>> {
        let (handle, cache) = self.handle(py)?;
        let first = (DICT_FIRST && cache).then(|| handle.views.dict(py).clone());
        Ok(BatchLookup { py, handle, cache, first })
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
        Reader { state: SwapCell::new(State::default()) }
    }

    #[doc = docstring!("Reader._open")]
    #[pyo3(signature = (options, source, path, filename, mode, map_type, view_type, cache, preload, max_header_size, skip, identity=None))]
    #[expect(clippy::too_many_arguments, reason = "called once, by NpzReader.__init__, with keywords")]
    fn _open(
        &self,
        py: Python<'_>,
        options: Py<PyTuple>,
        source: Option<Bound<'_, PyAny>>,
        path: PathBuf,
        filename: Py<PyAny>,
        mode: Option<char>,
        map_type: Bound<'_, PyType>,
        view_type: Bound<'_, PyType>,
        cache: bool,
        preload: bool,
        max_header_size: usize,
        skip: bool,
        identity: Option<(u64, u128, u64)>,
    ) -> PyResult<()> {
        let expected = identity.map(|(size, modified, inode)| Identity { size, modified, inode });
        let mode = match mode {
            Some('c') => Mode::Copy,
            Some(_) => Mode::Read,
            None => Mode::Unmapped,
        };
        let source = mapping::source(source, filename.bind(py))?;
        let name = path.clone();
        let open = || Snapshot::open(source, mode, name, expected, &keep_going);
        let snapshot = detached_on(py, &path, open)?;
        warn_of_private(py, &snapshot)?;
        warn_of_unlisted(py, &snapshot)?;
        if identity.is_none() {
            warn_of_no_arrays(py, &snapshot)?;
        }
        let map = Mapping::new(Arc::clone(snapshot.map()), filename, snapshot.identity());
        let map = Bound::new(py, map)?.unbind();
        let types = Types { map: map_type.unbind(), view: view_type.unbind() };
        let mut file = OpenFile::new(snapshot, options, map, types, max_header_size);
        if file.snapshot.reads_arrays() && identity.is_none() && file.snapshot.unlisted().is_none() {
            // Otherwise seen when the directory is first needed as a whole.
            file.warn_of_damage(py)?;
        }
        if skip {
            // Who made the pickle was warned.
            file.leave_out_bad(py, identity.is_none())?;
        }
        let handle = Handle::new(py, Arc::new(file), preload)?;
        drop(self.state.replace(py, State::open(py, handle, cache, preload)));
        Ok(())
    }

    #[doc = docstring!("Reader._share")]
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
        // If there is a dict of views, `subscript` has already looked there.
        let known = if DICT_FIRST { None } else { self.known(name) };
        known.map_or_else(|| self.first_access(name, false), Ok)
    }

    #[doc = docstring!("Reader.load")]
    fn load<'py>(&self, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.first_access(name, true)
    }

    #[doc = docstring!("Reader.gather")]
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
        let keys = Keys::new(&lookup, names)?;
        let rows = arguments::rows(keys.len(), starts, stops, length)?;
        gather::gather(&lookup, &keys, rows, &Making { out, dtype, pad, threads })
    }

    #[doc = docstring!("Reader.prefetch")]
    #[pyo3(signature = (names, starts=None, stops=None, *, length=None))]
    fn prefetch<'py>(
        &self,
        names: &Bound<'py, PyAny>,
        starts: Option<&Bound<'py, PyAny>>,
        stops: Option<&Bound<'py, PyAny>>,
        length: Option<i64>,
    ) -> PyResult<()> {
        let lookup = self.lookup(names.py())?;
        let keys = Keys::new(&lookup, names)?;
        prefetch::prefetch(&lookup, &keys, &arguments::rows(keys.len(), starts, stops, length)?)
    }

    #[doc = docstring!("Reader.advise")]
    fn advise(&self, py: Python<'_>, advice: &str) -> PyResult<()> {
        let advice = Advice::named(advice).ok_or_else(|| {
            let names = Advice::NAMES.map(|(name, _)| format!("'{name}'")).join(", ");
            PyValueError::new_err(format!("advice must be one of {names}, got {advice:?}"))
        })?;
        let file = self.file(py)?;
        let map = file.snapshot.map();
        detached(py, || map.advise(advice, 0, map.len()));
        Ok(())
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let file = self.file(name.py())?;
        let Ok(name) = name.cast::<PyString>() else {
            name.hash()?;
            return Ok(false);
        };
        // No archive has a name with lone surrogates.
        let Ok(text) = name.to_str() else { return Ok(false) };
        Ok(file.find(name.py(), text, true)?.is_some())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.file(py)?.lookup().len())
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.file(py)?.files(py)?.try_iter()
    }

    #[doc = docstring!("Reader.files")]
    #[getter]
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.file(py)?.files(py)
    }

    #[doc = docstring!("Reader.mmap")]
    #[getter]
    fn mmap<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (handle, _) = self.handle(py).map_err(|_| PyAttributeError::new_err("the reader is closed"))?;
        if handle.file.snapshot.is_unmapped() {
            return Err(PyAttributeError::new_err("the file is not mapped: mmap_mode is None"));
        }
        Ok(handle.views.mmap.bind(py).clone())
    }

    #[doc = docstring!("Reader.arrays")]
    #[getter]
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.handle(py).map_or_else(|_| Ok(PyDict::new(py)), |(handle, _)| handle.arrays(py))
    }

    #[doc = docstring!("Reader.cache")]
    #[getter]
    fn cache(&self, py: Python<'_>) -> bool {
        self.state.read(py, |state| state.cache)
    }

    #[doc = docstring!("Reader.preload")]
    #[getter]
    fn preload(&self, py: Python<'_>) -> bool {
        self.state.read(py, |state| state.preload)
    }

    #[doc = docstring!("Reader.close")]
    fn close(&self, py: Python<'_>) {
        // This may free views, and with the last of them the map.
        let (cache, preload) = self.state.read(py, |state| (state.cache, state.preload));
        drop(self.state.replace(py, State { cache, preload, ..State::default() }));
    }

    #[doc = docstring!("Reader._origin")]
    #[getter]
    fn _origin(&self, py: Python<'_>) -> PyResult<(Py<PyTuple>, (u64, u128, u64))> {
        let file = self.file(py)?;
        Ok((file.options.clone_ref(py), file.mapping.get().identity()))
    }

    #[doc = docstring!("Reader._index_memory")]
    #[getter]
    fn _index_memory(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.file(py)?.lookup().memory())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.visit(|state| {
            visit.call(&state.first)?;
            let Some(handle) = &state.handle else { return Ok(()) };
            // The collector must visit a shared handle only once, and so visits none that several readers
            // share.
            if Arc::strong_count(handle) > 1 {
                return Ok(());
            }
            if Arc::strong_count(&handle.file) == 1 {
                handle.file.traverse(&visit)?;
            }
            handle.views.traverse(&visit)
        })
    }
}
