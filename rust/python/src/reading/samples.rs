//! What `mmnpz.torch` needs of a reader besides views: positions in place of names, and having the system
//! read all samples of a batch at once.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use mmnpz_file::mapping::Map;

use crate::batch::members;
use crate::numpy::array;
use crate::reading::reader::Reader;
use crate::views::unknown_name::unknown_name;

#[pyfunction]
#[doc = docstring!("_name_at")]
pub(crate) fn _name_at(reader: &Bound<'_, Reader>, position: usize) -> PyResult<String> {
    let py = reader.py();
    let file = reader.get().file(py)?;
    file.verify_or_err(py)?;
    let member = file.lookup().id(position);
    let member = member.ok_or_else(|| PyIndexError::new_err(format!("there is no array {position}")))?;
    file.name(py, member)
}

#[pyfunction]
#[doc = docstring!("_position")]
pub(crate) fn _position(reader: &Bound<'_, Reader>, name: &Bound<'_, PyString>) -> PyResult<u32> {
    let py = reader.py();
    let file = reader.get().file(py)?;
    // No archive has a name with lone surrogates.
    let member = name.to_str().map_or(Ok(None), |name| file.find_array(py, name, true))?;
    let position = member.map(|member| file.lookup().position(member.id));
    position.ok_or_else(|| unknown_name(&file, name))
}

#[pyfunction]
#[doc = docstring!("_is_mapped")]
pub(crate) fn _is_mapped(reader: &Bound<'_, Reader>, array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let extent = array::extent(array);
    let is_in = |map: &Map| extent.is_some_and(|extent| map.place_of(&extent).is_some());
    reader.get().with_file(reader.py(), |file| is_in(file.snapshot.map()))
}

#[pyfunction]
#[doc = docstring!("_fetch")]
pub(crate) fn _fetch(reader: &Bound<'_, Reader>, arrays: &Bound<'_, PyList>) -> PyResult<()> {
    let file = reader.get().file(reader.py())?;
    let extents = arrays.iter().filter_map(|array| array::extent(&array));
    let places = extents.filter(|extent| !extent.is_sparse());
    let places: Vec<_> = places.filter_map(|extent| file.snapshot.map().place_of(&extent)).collect();
    file.fetch_cold(reader.py(), &places)
}

#[pyfunction]
#[doc = docstring!("_fetch_headers")]
pub(crate) fn _fetch_headers(reader: &Bound<'_, Reader>, names: &Bound<'_, PyAny>) -> PyResult<()> {
    members::fetch_headers_of(&reader.get().lookup(reader.py())?, names)
}
