//! `prefetch`: having the system read what a later batch needs.

use pyo3::prelude::*;

use mmnpz_file::excerpts::{Array, Rows};
use mmnpz_file::fetch::Place;

use crate::batch::arguments::Keys;
use crate::batch::lookup::{BatchLookup, Key};
use crate::batch::members::{Found, excerpt_err, fetch_headers, with_all, with_found};
use crate::numpy::array;

/// Has the system read these rows of members.
pub(crate) fn prefetch(lookup: &BatchLookup<'_>, keys: &Keys<'_>, rows: &Rows) -> PyResult<()> {
    fetch_headers(lookup, keys)?;
    let mut places = Vec::with_capacity(keys.len());
    if lookup.handle.file.lookup().has_compressed() {
        // Of a compressed member, all bytes are needed for any row; its array is not made here.
        for (number, key) in keys.iter().enumerate() {
            match lookup.compressed_at(key)? {
                Some(place) => places.push(place),
                None => with_found(lookup, key, |found| {
                    places.push(place_of(lookup, number, key, rows, found)?);
                    Ok(())
                })?,
            }
        }
        return lookup.handle.file.fetch(lookup.py, &places);
    }
    with_all(lookup, keys, |number, key, found| {
        places.push(place_of(lookup, number, key, rows, found)?);
        Ok(())
    })?;
    lookup.handle.file.fetch(lookup.py, &places)
}

/// Where the rows of a member are in the map.
fn place_of(
    lookup: &BatchLookup<'_>,
    number: usize,
    key: Key<'_, '_>,
    rows: &Rows,
    Found { layout, offset }: &Found<'_>,
) -> PyResult<Place> {
    let itemsize = array::itemsize(&layout.dtype(lookup.py));
    let array = Array { shape: layout.shape, itemsize, offset: offset.unwrap_or(lookup.map().len()) };
    let place = rows.place(number, &array, layout.in_order);
    place.map_err(|misfit| excerpt_err(lookup, key, &misfit))
}
