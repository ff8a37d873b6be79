//! What `savez` needs: a new file that takes the place of an old one.

use std::path::PathBuf;

use pyo3::prelude::*;

use mmnpz_file::replace;

use crate::detach::detached_on;

#[doc = docstring!("_prepare_replacement")]
#[pyfunction]
pub(crate) fn _prepare_replacement(py: Python<'_>, path: PathBuf) -> PyResult<(PathBuf, PathBuf)> {
    detached_on(py, &path, || replace::prepare(&path))
}
