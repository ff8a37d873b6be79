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
    /// None when it is done. Only the call that made this uses it, so nobody waits for the lock.
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
        detached_on(py, &self.temporary, || {
            self.held
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
                .map_or(Ok(()), replace::Replacement::finish)
        })
    }

    #[doc = docstring!("Replacement.release")]
    fn release(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(held);
    }
}
