//! The Python object that keeps an archive mapped.

use std::sync::Arc;

use pyo3::prelude::*;

use mmnpz_file::mapping::Map;

#[doc = docstring!("Mapping")]
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Mapping {
    pub(crate) map: Arc<Map>,
    #[doc = docstring!("Mapping.filename")]
    #[pyo3(get)]
    filename: Py<PyAny>,
}

impl Mapping {
    pub(crate) fn new(map: Arc<Map>, filename: Py<PyAny>) -> Self {
        Mapping { map, filename }
    }
}
