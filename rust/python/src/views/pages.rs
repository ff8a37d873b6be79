//! Having the system read what views need, all at once and before it is touched.
//!
//! A page that is not in memory costs a page fault, which waits for the disk. So whoever is going to read
//! many places tells the system of all of them first, unless a look at some says that they are there.

use std::path::Path;

use pyo3::prelude::*;
use pyo3::types::PyList;

use mmnpz_file::copy::{self, Place};

use crate::detach::detached;
use crate::error::{IntoErr, keep_going};
use crate::mapping::Mapping;
use crate::numpy::array;

/// The headers of a member whose local header is at this byte: with an ordinary `.npy` header they have so
/// many bytes.
pub(crate) fn headers_at(map: &Mapping, at: u64) -> Option<Place> {
    const HEADERS: usize = 512;
    let offset = usize::try_from(at).ok()?;
    let left = map.bytes().len().checked_sub(offset).filter(|&left| left > 0)?;
    Some(Place { offset, bytes: HEADERS.min(left) })
}

/// Has the system read the headers of members whose local headers are at these bytes, if some are not in
/// memory.
pub(crate) fn fetch_headers_at(
    py: Python<'_>,
    map: &Mapping,
    path: &Path,
    local_headers: impl Iterator<Item = u64>,
) -> PyResult<()> {
    fetch_cold(py, map, path, &local_headers.filter_map(|at| headers_at(map, at)).collect::<Vec<_>>())
}

/// Where the items of an array are in a map, and how many bytes they have, if all of them are in it.
pub(crate) fn place_of(map: &Mapping, array: &Bound<'_, PyAny>) -> Option<(Place, usize)> {
    let (extent, bytes) = array::extent(array)?;
    let offset = extent.start.checked_sub(map.start().addr())?;
    let place = Place { offset, bytes: extent.len() };
    (offset.checked_add(place.bytes)? <= map.bytes().len()).then_some((place, bytes))
}

/// Items that are further apart than this many times their size are not worth what is between them.
const SPARSE: usize = 4;

/// Has the system read the items of arrays that lie in the map, if some are not in memory.
pub(crate) fn fetch(map: &Mapping, path: &Path, arrays: &Bound<'_, PyList>) -> PyResult<()> {
    let places = arrays.iter().filter_map(|array| place_of(map, &array));
    let places = places.filter(|(place, bytes)| place.bytes / SPARSE <= *bytes).map(|(place, _)| place);
    fetch_cold(arrays.py(), map, path, &places.collect::<Vec<_>>())
}

/// Has the system read places, if some are not in memory.
pub(crate) fn fetch_cold(py: Python<'_>, map: &Mapping, path: &Path, places: &[Place]) -> PyResult<()> {
    // To look takes a microsecond, and to get the interpreter back from others can take milliseconds.
    if !copy::are_cold(map, places) {
        return Ok(());
    }
    let result = detached(py, || copy::fetch(map, places, &keep_going));
    result.map_err(|failure| failure.into_err(py, path))
}
