//! The map of a file whose views come from another process.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyType;

use mmnpz_file::mapping::{self, Identity};

use crate::detach::detached_on;
use crate::mapping::Mapping;
use crate::numpy::array;

#[pyfunction]
#[doc = docstring!("_map_again")]
pub(crate) fn _map_again<'py>(
    filename: Bound<'py, PyAny>,
    identity: (u64, u128, u64),
    map_type: &Bound<'py, PyType>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = map_type.py();
    let (size, modified, inode) = identity;
    let identity = Identity { size, modified, inode };
    let path: PathBuf = filename.extract()?;
    let map = detached_on(py, &path, || mapping::map_again(&path, identity))?;
    array::whole_map(&Bound::new(py, Mapping::new(Arc::new(map), filename.unbind(), identity))?, map_type)
}
