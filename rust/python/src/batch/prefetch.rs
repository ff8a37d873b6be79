//! `prefetch`: having the system read what a later batch needs.

use pyo3::prelude::*;

use mmnpz_file::excerpts::{Array, Rows};

use crate::batch::arguments::Keys;
use crate::batch::lookup::BatchLookup;
use crate::batch::members::{excerpt_err, fetch_headers, with_all};
use crate::numpy::array;

/// Has the system read these rows of members.
pub(crate) fn prefetch(lookup: &BatchLookup<'_>, keys: &Keys<'_>, rows: &Rows) -> PyResult<()> {
    fetch_headers(lookup, keys)?;
    let mut places = Vec::with_capacity(keys.len());
    with_all(lookup, keys, |number, key, layout| {
        let itemsize = array::itemsize(&layout.dtype(lookup.py));
        let array = Array { shape: layout.shape, itemsize, offset: lookup.map().offset_of(layout.start) };
        let place = rows.place(number, &array, layout.in_order);
        places.push(place.map_err(|misfit| excerpt_err(lookup, key, &misfit))?);
        Ok(())
    })?;
    lookup.handle.file.fetch(lookup.py, &places)
}
