//! The Python object that keeps an archive mapped.

use std::sync::Arc;

use pyo3::prelude::*;

use mmnpz_file::mapping::{Identity, Map};

#[doc = docstring!("Mapping")]
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Mapping {
    pub(crate) map: Arc<Map>,
    #[doc = docstring!("Mapping.filename")]
    #[pyo3(get)]
    filename: Py<PyAny>,
    identity: Identity,
}

#[pymethods]
impl Mapping {
    #[doc = docstring!("Mapping.identity")]
    #[getter]
    pub(crate) fn identity(&self) -> (u64, u128, u64) {
        let Identity { size, modified, inode } = self.identity;
        (size, modified, inode)
    }
}

impl Mapping {
    pub(crate) fn new(map: Arc<Map>, filename: Py<PyAny>, identity: Identity) -> Self {
        Mapping { map, filename, identity }
    }
}
