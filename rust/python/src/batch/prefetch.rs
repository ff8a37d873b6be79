//! `prefetch`: having the system read what a later batch needs.

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use mmnpz_file::copy::{self, Place};

use crate::batch::arguments::Part;
use crate::batch::lookup::BatchLookup;
use crate::batch::members::{fetch_headers, message, with_all};
use crate::detach::detached;
use crate::error::{IntoErr, keep_going};
use crate::numpy::array;

/// Has the system read a part of an archive.
pub(crate) fn prefetch(lookup: &BatchLookup<'_>, part: &Part<'_>) -> PyResult<()> {
    let py = lookup.py();
    let map = lookup.mapping();
    fetch_headers(lookup, &part.keys)?;
    let mut places = Vec::with_capacity(part.keys.len());
    with_all(lookup, &part.keys, |number, key, layout| {
        let bytes = layout.shape.iter().map(|&number| number.unsigned_abs()).product::<usize>();
        let bytes = bytes * array::itemsize(&layout.dtype(py));
        let rows = layout.shape.first().map_or(1, |rows| rows.unsigned_abs());
        let range = if part.is_whole() { Ok((0, rows)) } else { part.rows(number, rows, true) };
        let (mut start, mut stop) =
            range.map_err(|what| PyIndexError::new_err(message(lookup, key, what)))?;
        if !layout.in_order && start < stop {
            (start, stop) = (0, rows); // the rows are all over the array
        }
        let row = bytes / rows.max(1);
        let offset = layout.start.addr().saturating_sub(map.start().addr()) + start * row;
        places.push(Place { offset, bytes: (stop - start) * row });
        Ok(())
    })?;
    let result = detached(py, || copy::fetch(map, &places, &keep_going));
    result.map_err(|failure| failure.into_err(py, lookup.path()))
}
