//! `NpzWriter.stream`: an array that grows.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use numpy::{PyArrayDescr, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::detach::detached_on;
use crate::error::{exception, in_member, keep_going};
use crate::numpy::array::itemsize;
use crate::numpy::npy_header::{as_array, description_of, items_in_order};
use crate::writing::writer::{Writer, closed, warn_of_duplicate};
use mmnpz_file::stream::{self, Rows};
use mmnpz_file::writer::{Added, ArchiveWriter};
use mmnpz_file::{Failure, fork};
use mmnpz_format::error::ErrorKind;
use mmnpz_format::zip::name::StoredName;

#[doc = docstring!("Stream")]
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Stream {
    inner: OnceLock<Inner>,
}

struct Inner {
    /// Gone once the writer is closed.
    archive: Weak<ArchiveWriter>,
    shown: PathBuf,
    /// The fork generation of the process in which the stream began.
    forks: u64,
    stream: Arc<stream::Stream>,
    name: String,
    dtype: Py<PyArrayDescr>,
    row_shape: Vec<usize>,
}

/// As an array of rows, whose dtype and shape fit.
static AS_ROWS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Stream {
    fn inner(&self) -> PyResult<&Inner> {
        self.inner.get().ok_or_else(|| PyValueError::new_err("the stream is closed"))
    }
}

impl Inner {
    /// The archive, if this process opened it.
    fn archive(&self, py: Python<'_>) -> PyResult<Arc<ArchiveWriter>> {
        let failure = if self.forks != fork::generation() {
            Failure::Forked
        } else if let Some(archive) = self.archive.upgrade() {
            return Ok(archive);
        } else {
            Failure::Ended
        };
        Err(self.failed(py, failure))
    }

    fn failed(&self, py: Python<'_>, failure: Failure) -> PyErr {
        match failure {
            Failure::Ended | Failure::InUse => {
                PyValueError::new_err(format!("{}: member {:?}: {failure}", self.shown.display(), self.name))
            }
            failure => exception(py, &self.shown, failure),
        }
    }

    /// How many rows an array has, if it is rows of this dtype: one, or several.
    fn count(&self, array: &Bound<'_, PyUntypedArray>) -> Option<usize> {
        if !array.dtype().is(self.dtype.bind(array.py())) {
            return None;
        }
        let shape = array.shape();
        if shape == self.row_shape {
            return Some(1);
        }
        shape.split_first().and_then(|(count, row)| (row == self.row_shape).then_some(*count))
    }
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Stream { inner: OnceLock::new() }
    }

    #[doc = docstring!("Stream._open")]
    fn _open(
        &self,
        writer: &Bound<'_, Writer>,
        name: String,
        dtype: Bound<'_, PyArrayDescr>,
        row_shape: Vec<usize>,
    ) -> PyResult<()> {
        let py = writer.py();
        let opened = || PyValueError::new_err("the stream is open");
        if self.inner.get().is_some() {
            return Err(opened());
        }
        let archive = writer.get().own_archive(py)?;
        let path = archive.shown.as_path();
        let fail =
            |kind: ErrorKind| exception(py, path, mmnpz_format::Error::from(kind).in_member(&name).into());
        let stored_name = StoredName::new(&name).map_err(|error| fail(error.kind))?;
        let descr = description_of(&dtype).map_err(|error| in_member(py, path, &name, error))?;
        let size =
            row_shape.iter().try_fold(itemsize(&dtype), |size, &dimension| size.checked_mul(dimension));
        let rows = Rows {
            name: stored_name.clone(),
            descr: descr.to_string(),
            shape: row_shape.iter().map(|&dimension| dimension as u64).collect(),
            size: size.ok_or_else(|| fail(ErrorKind::TooLarge))? as u64,
        };
        if detached_on(py, path, || archive.contains(&stored_name))? {
            warn_of_duplicate(py, &name)?;
        }
        let stream = Arc::new(detached_on(py, path, || stream::Stream::new(rows))?);
        if !detached_on(py, path, || archive.begin_stream(&stream))? {
            return Err(closed());
        }
        let (shown, forks, dtype) = (archive.shown.clone(), fork::generation(), dtype.unbind());
        let archive = Arc::downgrade(&archive);
        let inner = Inner { archive, shown, forks, stream, name, dtype, row_shape };
        self.inner.set(inner).map_err(|_| opened())
    }

    #[doc = docstring!("Stream.append")]
    fn append(&self, rows: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, inner) = (rows.py(), self.inner()?);
        let archive = inner.archive(py)?;
        let given = rows.cast_exact::<PyUntypedArray>().ok().cloned();
        let known = given.and_then(|array| inner.count(&array).map(|count| (array, count)));
        let (array, count) = if let Some(known) = known {
            known
        } else {
            let as_rows = AS_ROWS.import(py, "mmnpz.streaming", "_as_rows")?;
            let array = as_rows.call1((rows, &inner.dtype, PyTuple::new(py, &inner.row_shape)?))?;
            let array = as_array(&array)?;
            let count = inner.count(&array);
            (array, count.ok_or_else(|| PyValueError::new_err("the rows were changed meanwhile"))?)
        };
        // Rows without bytes are counted as NumPy counts them.
        let each = inner.row_shape.iter().filter(|&&dimension| dimension > 0).product::<usize>().max(1);
        let most = isize::MAX as usize / each;
        if inner.stream.rows.size == 0 && most.checked_sub(inner.stream.count() as usize) < Some(count) {
            return Err(PyValueError::new_err("an array cannot have as many rows"));
        }
        // `array` keeps the memory that this points to until this returns.
        let mut items = items_in_order(&array)?;
        let stream = &inner.stream;
        let fail = |failure| inner.failed(py, failure);
        if let Added::Done = archive.try_append_rows(stream, count as u64, &mut items).map_err(fail)? {
            return Ok(());
        }
        let append = || Ok(archive.append_rows(stream, count as u64, &mut items, &keep_going));
        detached_on(py, &inner.shown, append)?.map_err(fail)
    }

    #[doc = docstring!("Stream.flush")]
    #[pyo3(signature = (sync=false))]
    fn flush(&self, py: Python<'_>, sync: bool) -> PyResult<()> {
        let inner = self.inner()?;
        let archive = inner.archive(py)?;
        let flush = || Ok(archive.flush_stream(&inner.stream, sync, &keep_going));
        detached_on(py, &inner.shown, flush)?.map_err(|failure| inner.failed(py, failure))
    }

    #[doc = docstring!("Stream.close")]
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, |archive, stream| archive.finish_stream(stream, &keep_going))
    }

    #[doc = docstring!("Stream._discard")]
    fn _discard(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, |archive, stream| archive.discard_stream(stream, &keep_going))
    }

    #[doc = docstring!("Stream.closed")]
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(inner) = self.inner.get() else { return Ok(true) };
        if inner.forks == fork::generation() && inner.archive.upgrade().is_none() {
            return Ok(true);
        }
        detached_on(py, &inner.shown, || inner.stream.is_over())
    }

    #[doc = docstring!("Stream.name")]
    #[getter]
    fn name(&self) -> PyResult<&str> {
        Ok(&self.inner()?.name)
    }

    #[doc = docstring!("Stream.dtype")]
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyArrayDescr>> {
        Ok(self.inner()?.dtype.clone_ref(py))
    }

    #[doc = docstring!("Stream.shape")]
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let inner = self.inner()?;
        let rows = inner.stream.count() as usize;
        let shape: Vec<_> = std::iter::once(rows).chain(inner.row_shape.iter().copied()).collect();
        PyTuple::new(py, shape)
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.inner()?.stream.count() as usize)
    }
}

impl Stream {
    /// Ends the stream, unless it has ended, or belongs to the parent of this process.
    fn end(
        &self,
        py: Python<'_>,
        end: impl FnOnce(&ArchiveWriter, &stream::Stream) -> Result<(), Failure> + Send + Sync,
    ) -> PyResult<()> {
        let Some(inner) = self.inner.get().filter(|inner| inner.forks == fork::generation()) else {
            return Ok(());
        };
        let Some(archive) = inner.archive.upgrade() else { return Ok(()) };
        let ended = detached_on(py, &inner.shown, || Ok(end(&archive, &inner.stream)))?;
        ended.map_err(|failure| inner.failed(py, failure))
    }
}
