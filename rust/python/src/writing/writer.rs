//! `NpzWriter`: from Python's arrays to an archive that is open for writing.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::detach::detached_on;
use crate::error::{exception, in_member, keep_going};
use crate::numpy::npy_header::{as_array, items, npy_header};
use crate::progress::{tell_of_all, tell_of_some, telling};
use crate::swap_cell::SwapCell;
use mmnpz_file::Failure;
use mmnpz_file::writer::{Answer, ArchiveWriter, Mode, NewMember};
use mmnpz_format::write::placement::{Alignment, Placement};
use mmnpz_format::zip::name::StoredName;

#[doc = docstring!("Writer")]
#[pyclass(subclass, frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Writer {
    /// None before opening and after closing.
    archive: SwapCell<Option<Arc<ArchiveWriter>>>,
}

impl Writer {
    fn archive(&self, py: Python<'_>) -> PyResult<Arc<ArchiveWriter>> {
        self.archive.read(py, Option::clone).ok_or_else(closed)
    }

    /// The archive, unless this is a fork of the process that opened it.
    pub(crate) fn own_archive(&self, py: Python<'_>) -> PyResult<Arc<ArchiveWriter>> {
        let archive = self.archive(py)?;
        if archive.is_own() {
            return Ok(archive);
        }
        Err(exception(py, &archive.shown, Failure::Forked))
    }

    /// Writes an array, and says how many bytes it has. `tell` is called outside the interpreter, with how
    /// many bytes are done and how many there are, and says whether to go on.
    pub(crate) fn write_array(
        &self,
        name: &str,
        array: &Bound<'_, PyAny>,
        tell: &(dyn Fn(u64, u64) -> bool + Sync),
    ) -> PyResult<u64> {
        let py = array.py();
        let archive = self.own_archive(py)?;
        let path = archive.shown.as_path();
        let fail = |failure| exception(py, path, failure);
        let stored_name = StoredName::new(name).map_err(|error| fail(error.in_member(name).into()))?;
        let array = as_array(array)?;
        let header = npy_header(&array).map_err(|error| in_member(py, path, name, error))?;
        let mut member = NewMember {
            name: stored_name,
            header: &header.bytes,
            array_field: header.array_field.as_ref(),
            items: items(&array)?,
        };
        let place = place(py, &archive, name, |is_repeated| {
            match archive.try_reserve(&member, is_repeated).map_err(fail)? {
                Some(answer) => Ok(answer),
                // Another thread has the lock for a moment. It must not wait for the interpreter, which this
                // thread has.
                None => detached_on(py, path, || archive.reserve(&member, is_repeated)),
            }
        })?;
        // `array` keeps the memory that `member` points to until this returns.
        let total = member.items.len();
        let written = detached_on(py, path, || archive.write(&place, &mut member, &|done| tell(done, total)));
        header.keep();
        written.map(|()| total)
    }
}

pub(crate) fn closed() -> PyErr {
    PyValueError::new_err("the writer is closed")
}

/// Warns as `zipfile` does of a name that the archive has already.
#[cold]
pub(crate) fn warn_of_duplicate(py: Python<'_>, name: &str) -> PyResult<()> {
    let full = PyString::new(py, &format!("{name}.npy")).repr()?;
    // No NUL: StoredName has none.
    let message = std::ffi::CString::new(format!("Duplicate name: {full}"))?;
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &message, 1)
}

/// A place for a member. `reserve` asks for it until there is one, and is told whether the name is meant to
/// be there twice.
pub(crate) fn place(
    py: Python<'_>,
    archive: &ArchiveWriter,
    name: &str,
    mut reserve: impl FnMut(bool) -> PyResult<Answer>,
) -> PyResult<Placement> {
    let path = archive.shown.as_path();
    let mut is_repeated = false;
    loop {
        match reserve(is_repeated)? {
            Answer::Place(place) => return Ok(place),
            Answer::Closed => return Err(closed()),
            Answer::Unprepared => detached_on(py, path, || archive.prepare())?,
            Answer::NoRoom(size) => detached_on(py, path, || archive.make_room(size))?,
            Answer::Duplicate => {
                warn_of_duplicate(py, name)?;
                is_repeated = true;
            }
        }
    }
}

#[pymethods]
impl Writer {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Writer { archive: SwapCell::new(None) }
    }

    #[doc = docstring!("Writer._open")]
    fn _open(
        &self,
        py: Python<'_>,
        path: PathBuf,
        mode: char,
        align: u64,
        sync: bool,
        shown: PathBuf,
    ) -> PyResult<bool> {
        self.close(py)?;
        let alignment = Alignment::new(align).map_err(|error| exception(py, &shown, error.into()))?;
        let mode = match mode {
            'x' => Mode::Create,
            'w' => Mode::Replace,
            _ => Mode::Append,
        };
        let open = || ArchiveWriter::open(path, mode, alignment, sync, &keep_going);
        let mut opened = detached_on(py, &shown, open)?;
        opened.shown = shown;
        let excludes_others = opened.excludes_others();
        drop(self.archive.replace(py, Some(Arc::new(opened))));
        Ok(excludes_others)
    }

    #[doc = docstring!("Writer.write")]
    #[pyo3(signature = (name, array, *, progress=None))]
    fn write(
        &self,
        name: &str,
        array: &Bound<'_, PyAny>,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if progress.is_none() {
            return self.write_array(name, array, &|_, _| keep_going()).map(drop);
        }
        let (py, archive) = (array.py(), self.own_archive(array.py())?);
        telling(py, progress, &archive.shown, |tell| {
            let total = self.write_array(name, array, &|done, total| tell_of_some(tell, done, total))?;
            tell_of_all(py, tell, total)
        })
    }

    fn __setitem__(&self, name: &str, array: &Bound<'_, PyAny>) -> PyResult<()> {
        self.write_array(name, array, &|_, _| keep_going()).map(drop)
    }

    #[doc = docstring!("Writer.flush")]
    #[pyo3(signature = (sync=false))]
    fn flush(&self, py: Python<'_>, sync: bool) -> PyResult<()> {
        let archive = self.own_archive(py)?;
        detached_on(py, &archive.shown, || archive.flush(sync))
    }

    #[doc = docstring!("Writer.files")]
    #[getter]
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let archive = self.own_archive(py)?;
        // Detached: this reads all of a directory, which may be large.
        let names = detached_on(py, &archive.shown, || archive.names())?;
        // Each name once.
        let unique = PyDict::new(py);
        for name in names {
            unique.set_item(name, py.None())?;
        }
        Ok(unique.keys())
    }

    fn __contains__(&self, name: &Bound<'_, PyAny>) -> PyResult<bool> {
        let archive = self.own_archive(name.py())?;
        let Ok(name) = name.cast::<PyString>() else { return Ok(false) };
        let stored = name.to_str().ok().and_then(|text| StoredName::new(text).ok());
        let Some(stored) = stored else { return Ok(false) };
        detached_on(name.py(), &archive.shown, || archive.contains(&stored))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.files(py)?.len())
    }

    #[doc = docstring!("Writer.close")]
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Ok(archive) = self.archive(py) else { return Ok(()) };
        if archive.is_own() {
            detached_on(py, &archive.shown, || archive.close(&keep_going))?;
        }
        drop(self.archive.replace(py, None));
        Ok(())
    }

    #[doc = docstring!("Writer.closed")]
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.archive.read(py, Option::is_none)
    }
}
