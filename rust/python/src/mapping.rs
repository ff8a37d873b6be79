//! The Python object that keeps an archive mapped.

use std::ops::Deref;
use std::sync::Arc;

use pyo3::prelude::*;

use mmnpz_file::mapping::Map;

/// Keeps an archive mapped: the last owner in the chain of bases of every view.
///
/// It lives as long as a view does; there is nothing to call.
#[pyclass(frozen, module = "mmnpz._mmnpz")]
pub(crate) struct Mapping {
    map: Arc<Map>,
    /// The path of the mapped file, absolute, in the type it was given in.
    #[pyo3(get)]
    filename: Py<PyAny>,
}

impl Mapping {
    pub(crate) fn new(map: Arc<Map>, filename: Py<PyAny>) -> Self {
        Mapping { map, filename }
    }
}

impl Deref for Mapping {
    type Target = Map;

    fn deref(&self) -> &Map {
        &self.map
    }
}
