//! What `savez` needs: a new file that takes the place of an old one.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use mmnpz_file::replace;

use crate::detach::detached_on;

#[doc = docstring!("Replacement")]
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Replacement {
    temporary: PathBuf,
    target: PathBuf,
    excludes_others: bool,
    /// None when it is done, and while it is being finished.
    held: Mutex<Option<replace::Replacement>>,
}

#[pymethods]
impl Replacement {
    #[new]
    fn begin(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let held = detached_on(py, &path, || replace::Replacement::begin(&path))?;
        let (temporary, target) = (held.new.clone(), held.target.clone());
        let excludes_others = held.excludes_others();
        Ok(Replacement { temporary, target, excludes_others, held: Mutex::new(Some(held)) })
    }

    #[doc = docstring!("Replacement.temporary")]
    #[getter]
    fn temporary(&self) -> PathBuf {
        self.temporary.clone()
    }

    #[doc = docstring!("Replacement.target")]
    #[getter]
    fn target(&self) -> PathBuf {
        self.target.clone()
    }

    #[doc = docstring!("Replacement.excludes_others")]
    #[getter]
    fn excludes_others(&self) -> bool {
        self.excludes_others
    }

    #[doc = docstring!("Replacement.finish")]
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        // Taken out, so that the lock is not held while this waits for the disk.
        let Some(mut held) = self.take() else { return Ok(()) };
        let done = detached_on(py, &self.temporary, || held.finish());
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
        done
    }

    #[doc = docstring!("Replacement.release")]
    fn release(&self) {
        drop(self.take());
    }
}

impl Replacement {
    fn take(&self) -> Option<replace::Replacement> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
