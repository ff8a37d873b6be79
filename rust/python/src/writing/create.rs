//! `NpzWriter.create`: an array in the file, which a program fills.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use numpy::{PyArrayDescr, PyArrayDescrMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::detach::detached_on;
use crate::error::{exception, in_member, keep_going};
use crate::numpy::array::{filled_array, itemsize};
use crate::numpy::npy_header::NpyHeader;
use crate::progress::{tell_of_all, tell_of_some};
use crate::writing::writer::{Writer, place};
use mmnpz_file::writer::{self, ArchiveWriter};
use mmnpz_file::{Failure, fork};
use mmnpz_format::error::ErrorKind;
use mmnpz_format::zip::name::StoredName;

#[doc = docstring!("Created")]
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Created {
    /// Gone once the writer is closed: arrays that a program keeps do not keep the file open.
    archive: Weak<ArchiveWriter>,
    shown: PathBuf,
    /// The fork generation of the process in which the block began.
    forks: u64,
    array: Arc<writer::Created>,
}

impl Created {
    fn is_own(&self) -> bool {
        self.forks == fork::generation()
    }
}

#[doc = docstring!("_create")]
#[pyfunction]
#[pyo3(name = "_create")]
pub(crate) fn create<'py>(
    writer: &Bound<'py, Writer>,
    name: &str,
    shape: Vec<u64>,
    dtype: &Bound<'py, PyArrayDescr>,
    fortran_order: bool,
) -> PyResult<(Bound<'py, Created>, Bound<'py, PyAny>)> {
    let py = writer.py();
    let archive = writer.get().own_archive(py)?;
    let path = archive.shown.as_path();
    let fail = |kind: ErrorKind| exception(py, path, mmnpz_format::Error::from(kind).in_member(name).into());
    let stored_name = StoredName::new(name).map_err(|error| fail(error.kind))?;
    let header =
        NpyHeader::of(dtype, fortran_order, shape).map_err(|error| in_member(py, path, name, error))?;
    let items =
        header.shape.iter().try_fold(itemsize(dtype) as u64, |size, &dimension| size.checked_mul(dimension));
    let size = if header.shape.contains(&0) { Some(0) } else { items };
    let size = size.ok_or_else(|| fail(ErrorKind::TooLarge))?;
    if dtype.has_subarray() || (itemsize(dtype) == 0 && matches!(dtype.kind(), b'S' | b'U')) {
        // NumPy would make an array of another dtype, which may have more bytes.
        return Err(PyValueError::new_err(format!("no array has dtype {dtype}")));
    }
    let place = place(py, &archive, name, |is_repeated| {
        detached_on(py, path, || archive.reserve_created(&stored_name, &header.bytes, size, is_repeated))
    })?;
    let begin =
        || archive.create(&place, stored_name, &header.bytes, header.array_field.clone(), &keep_going);
    let created = detached_on(py, path, begin)?;
    let start = created.start();
    let (shown, forks) = (archive.shown.clone(), fork::generation());
    let created =
        Bound::new(py, Created { archive: Arc::downgrade(&archive), shown, forks, array: created })?;
    // SAFETY: the map has `size` bytes for as long as `created` lives, and they are zeros: those of an array
    // of this dtype and shape, as NumPy makes no other one of the dtype.
    let array = unsafe { filled_array(created.as_any(), dtype, &header.shape, fortran_order, start) }?;
    Ok((created, array))
}

#[pymethods]
impl Created {
    #[doc = docstring!("Created.finish")]
    fn finish(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<()> {
        if !self.is_own() {
            return Ok(());
        }
        let total = self.array.len() as u64;
        let tell = |done| tell_of_some(progress.as_ref(), done, total);
        detached_on(py, &self.shown, || {
            let archive = self.archive.upgrade().ok_or(Failure::GivenUp)?;
            archive.finish_created(&self.array, &tell)
        })?;
        tell_of_all(py, progress.as_ref(), total)
    }

    #[doc = docstring!("Created.discard")]
    fn discard(&self, py: Python<'_>) -> PyResult<()> {
        match self.archive.upgrade().filter(|_| self.is_own()) {
            Some(archive) => detached_on(py, &self.shown, || archive.discard_created(&self.array)),
            None => Ok(()),
        }
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        // Not finished: nobody can any more. In a forked child, the lock could be held for good.
        if let Some(archive) = self.archive.upgrade().filter(|_| self.is_own()) {
            let _ = archive.discard_created(&self.array);
        }
    }
}
