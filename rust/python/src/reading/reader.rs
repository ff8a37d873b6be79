//! The reader: from names to views.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyAttributeError, PyIndexError, PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use mmnpz_file::mapping::Identity;
use mmnpz_file::paging::Advice;
use mmnpz_file::snapshot::Snapshot;

use crate::batch::arguments::Part;
use crate::batch::gather::{self, Making};
use crate::batch::lookup::BatchLookup;
use crate::batch::{members, prefetch};
use crate::detach::detached;
use crate::error::{IntoErr, keep_going};
use crate::mapping::Mapping;
use crate::swap_cell::SwapCell;
use crate::views::handle::Handle;
use crate::views::open_file::{OpenFile, Types, warn_of_unlisted};
use crate::views::pages;
use crate::views::view_cache::DICT_FIRST;

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
        let first = (DICT_FIRST && cache).then(|| handle.views.dict(py).clone().unbind());
        State { handle: Some(handle), cache, preload, first }
    }
}

/// The compiled base of `mmnpz.NpzReader`.
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Reader {
    state: SwapCell<State>,
}

impl Reader {
    /// The handle as it is now, and whether views are kept: the reader can be closed, or opened anew, by
    /// another thread at any time.
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
            let member = handle.file.lookup().find_again(handle.file.window(), text).ok()?.member()?;
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
        let mapping = Bound::new(py, Mapping::new(Arc::clone(snapshot.map()), filename))?.unbind();
        let types = Types { map: map_type.unbind(), view: view_type.unbind() };
        let file = OpenFile::new(snapshot, options, mapping, types, max_header_size);
        let handle = Handle::new(py, Arc::new(file), preload)?;
        drop(self.state.replace(py, State::open(py, handle, cache, preload)));
        Ok(())
    }

    /// Becomes another handle on the archive that `other` has open: it shares the map and the index, and the
    /// views too unless it is to make views of its own, all at once if those of `other` were preloaded.
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
    ///     If its ``.npy`` header is bad, its shape does not fit what is stored, it holds Python objects, or
    ///     the reader is closed.
    /// zipfile.BadZipFile
    ///     If the member is not where the archive's directory says.
    fn load<'py>(&self, name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.first_access(name, true)
    }

    /// A batch: excerpts of many arrays, or whole arrays, stacked along a new first axis.
    ///
    /// As ``numpy.stack([data[name][start:stop] for …])``, without a turn of the interpreter for each
    /// excerpt: all is looked up and checked first, and copied then, without the GIL. What is not in memory
    /// is asked for as a whole, so that the disk reads no more than that, and many excerpts at a time.
    ///
    /// Parameters
    /// ----------
    /// names : sequence of str or of int
    ///     The names of the arrays, or their positions in archive order, as in ``data.files[position]``. A
    ///     negative one counts from the end. One may occur more than once.
    /// starts : int or sequence of int, optional
    ///     The first row of each excerpt, counted from the start of its array: 0 by default.
    /// stops : int or sequence of int, optional
    ///     The row behind the last of each excerpt. By default `length` rows behind the first one or, without
    ///     that, the end of the array.
    /// length : int, optional
    ///     How many rows each excerpt has in the batch. By default as many as the first one or, with `pad`,
    ///     as the longest one.
    /// out : ndarray, optional
    ///     The array to copy to, of the shape and the dtype of the batch. It is used fastest if it is
    ///     C-contiguous. For a tensor of PyTorch, give its ``numpy()``.
    /// dtype : data-type, optional
    ///     The dtype that items are converted to, by the rule ``"same_kind"`` of `numpy.can_cast`. By default
    ///     all arrays must have the same, which the batch then has, byte order included.
    /// pad : scalar or array_like, optional
    ///     What is put in place of rows that an array does not have, or that an excerpt has less than
    ///     `length`: a value, or a row. By default such excerpts are refused.
    /// threads : int, optional
    ///     How many threads copy, this one included: 1 by default, at most 64. Those that help stay for later
    ///     batches, and are shared by all callers: one that finds none free copies alone.
    ///
    /// Returns
    /// -------
    /// ndarray
    ///     `out`, or a new array. Its shape is ``(len(names), length, …)`` or, if neither `starts`, `stops`,
    ///     `length` nor `pad` are given, ``(len(names), …)`` with the shape that all arrays have.
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     If there is no array of a name.
    /// IndexError
    ///     If there is no array at a position, or an excerpt starts before its array, stops before it starts
    ///     or, without `pad`, does not lie in its array.
    /// TypeError
    ///     If the dtypes of the arrays, or that of `out`, do not fit, or an argument is of a wrong type:
    ///     `names` must not be booleans, nor both names and positions.
    /// ValueError
    ///     If the shapes of the arrays, or that of `out`, do not fit, an array cannot be read (see `load`),
    ///     there are no names and no `out`, or the reader is closed.
    ///
    /// See Also
    /// --------
    /// prefetch : Has the system read what a later batch needs.
    ///
    /// Notes
    /// -----
    /// Errors name the file and the array, and are raised before anything is written to `out`.
    ///
    /// Views are kept as by ``data[name]``, if `cache` is true, also where positions are given. `files` is
    /// not made for those; the first time, the file's directory is checked. Arrays in Fortran order, and
    /// those that are converted, are copied by NumPy, one after the other.
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
    /// IndexError: example.npz: member "b": rows 2:5 requested, but the array has 4 rows; pass pad= to ...
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

    /// Has the operating system read excerpts, or whole arrays, into memory. Does not wait until they are
    /// there.
    ///
    /// Parameters
    /// ----------
    /// names : sequence of str or of int
    ///     The names of the arrays, or their positions in archive order.
    /// starts, stops, length
    ///     Which rows of them, as for `gather`; by default all. Rows behind the end of an array are left
    ///     aside.
    ///
    /// Raises
    /// ------
    /// KeyError, IndexError, TypeError, ValueError
    ///     As for `gather`.
    ///
    /// Notes
    /// -----
    /// `gather` does this by itself for what it needs. Call it for the next batch before you work
    /// on the present one. On systems without such advice, Windows for one, nothing is read.
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
        prefetch::prefetch(&lookup, &part)
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
    ///     - ``"dontneed"``: nothing, for now. This process lets go of the pages; they stay in the page cache
    ///       until the system needs the memory, and come back when they are touched.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     If it is another advice, or the reader is closed.
    ///
    /// Notes
    /// -----
    /// Nothing of this changes what is read, and a system may ignore it; Windows does. `gather`
    /// and `prefetch` do not need it.
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
            Ok(pages::place_of(handle.file.mapping.get(), array).is_some())
        })
    }

    /// Has the system read the items of those arrays that lie in the file, if they are not in memory.
    fn _fetch(&self, arrays: &Bound<'_, PyList>) -> PyResult<()> {
        let file = self.file(arrays.py())?;
        pages::fetch(file.mapping.get(), file.snapshot.path(), arrays)
    }

    /// Has the system read the headers of those arrays, given by their names, if they are needed and not in
    /// memory.
    fn _fetch_headers(&self, names: &Bound<'_, PyAny>) -> PyResult<()> {
        let lookup = self.lookup(names.py())?;
        members::fetch_headers_of(&lookup, names)
    }

    /// The memory map of the whole file (memmap of uint8); gone once the reader is closed.
    #[getter]
    fn mmap<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (handle, _) = self.handle(py).map_err(|_| PyAttributeError::new_err("the reader is closed"))?;
        Ok(handle.views.mmap.bind(py).clone())
    }

    /// The views that were preloaded or cached so far, by name (dict).
    ///
    /// It is one dict, not a copy, to which further views are added, and stays valid when the reader is
    /// closed or gone.
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

    /// With what options the file was opened, and its size, time of the last change and inode then: together,
    /// as another thread may open the reader anew.
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
            if Arc::strong_count(&handle.file) == 1 {
                handle.file.traverse(&visit)?;
            }
            handle.views.traverse(&visit)
        })
    }
}
