//! Going through the views of the members that are asked for, and naming one in an error.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;

use pyo3::exceptions::{PyIndexError, PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use mmnpz_file::excerpts::Misfit;
use mmnpz_file::{copy, fetch};

use crate::batch::arguments::{Keys, not_a_name};
use crate::batch::lookup::{BatchLookup, Kept, Key};
use crate::numpy::array::{self, Described, Layout};

/// An array that is asked for.
pub(crate) struct Found<'a> {
    pub(crate) layout: Layout<'a>,
    /// Where it is in the file, if its items are there as they are.
    pub(crate) offset: Option<usize>,
}

/// Calls `read` with the array of a member.
pub(crate) fn with_found<'py, R>(
    lookup: &BatchLookup<'py>,
    key: Key<'_, 'py>,
    read: impl FnOnce(&Found<'_>) -> PyResult<R>,
) -> PyResult<R> {
    if lookup.handle.file.snapshot.reads_arrays() {
        return with_described(lookup, key, read);
    }
    with_view(lookup, key, |_, found| read(found))
}

/// Calls `read` with the view of a member.
pub(crate) fn with_view<'py, R>(
    lookup: &BatchLookup<'py>,
    key: Key<'_, 'py>,
    read: impl FnOnce(&Bound<'py, PyAny>, &Found<'_>) -> PyResult<R>,
) -> PyResult<R> {
    with_kept(lookup, key, lookup.kept(key)?, read)
}

/// Calls `read` with what the header of a member says that is read when it is asked for.
#[cold]
fn with_described<'py, R>(
    lookup: &BatchLookup<'py>,
    key: Key<'_, 'py>,
    read: impl FnOnce(&Found<'_>) -> PyResult<R>,
) -> PyResult<R> {
    let (py, file) = (lookup.py, &lookup.handle.file);
    if let Some((member, name)) = lookup.named(key)?
        && !member.has_whole_name()
        && !member.is_compressed()
    {
        let name = name.to_str()?;
        let described = Described::new(py, &file.locate(py, &member, name)?);
        let described = described.map_err(|error| file.unfit(py, &member, name, error))?;
        return read(&Found { layout: described.layout(), offset: Some(described.offset) });
    }
    // What is no name has its error, and what is no array, too.
    let value = named(lookup.access(key, false), key)?;
    read(&Found { layout: layout_of(lookup, key, &value)?, offset: None })
}

fn layout_of<'a>(
    lookup: &BatchLookup<'_>,
    key: Key<'_, '_>,
    value: &'a Bound<'_, PyAny>,
) -> PyResult<Layout<'a>> {
    array::layout(value).ok_or_else(|| PyTypeError::new_err(message(lookup, key, "it is no array")))
}

/// A view, or what is wrong with what was given as a name.
fn named<'py>(view: PyResult<Bound<'py, PyAny>>, key: Key<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    view.map_err(|error| match key {
        Key::Name(name) if error.is_instance_of::<PyKeyError>(name.py()) => {
            not_a_name(&name).unwrap_or(error)
        }
        _ => error,
    })
}

/// Reads the view of a member that may be kept. What somebody else put in the dict of views is not believed.
#[inline]
fn with_kept<'py, R>(
    lookup: &BatchLookup<'py>,
    key: Key<'_, 'py>,
    kept: Option<Kept<'_, 'py>>,
    read: impl FnOnce(&Bound<'py, PyAny>, &Found<'_>) -> PyResult<R>,
) -> PyResult<R> {
    let map = lookup.map();
    let kept = kept.map_or_else(|| named(lookup.access(key, lookup.cache), key).map(Kept::Own), Ok)?;
    if let Some(layout) = array::layout(&kept)
        && map.contains(layout.start)
    {
        let offset = Some(map.offset_of(layout.start));
        return read(&kept, &Found { layout, offset });
    }
    let view = named(lookup.access(key, false), key)?;
    let layout = layout_of(lookup, key, &view)?;
    let offset = map.contains(layout.start).then(|| map.offset_of(layout.start));
    read(&view, &Found { layout, offset })
}

/// How many members are looked up together.
const TOGETHER: usize = 64;

/// Calls `read` with the arrays of all members, and their numbers.
///
/// What is read of each lies in some five places of memory, each of which leads to the next, and copying the
/// last batch has driven all of them out of the cache. One after the other, to wait for them takes a fifth of
/// the time of a batch. So each step is taken for many members before the next one is.
pub(crate) fn with_all<'py>(
    lookup: &BatchLookup<'py>,
    keys: &Keys<'py>,
    mut read: impl FnMut(usize, Key<'_, 'py>, &Found<'_>) -> PyResult<()>,
) -> PyResult<()> {
    if lookup.handle.file.snapshot.reads_arrays() {
        let mut keys = keys.iter().enumerate();
        return keys
            .try_for_each(|(number, key)| with_described(lookup, key, |found| read(number, key, found)));
    }
    let mut some = Vec::with_capacity(TOGETHER);
    let mut kept = Vec::with_capacity(TOGETHER);
    let mut keys = keys.iter();
    let mut numbers = 0..;
    loop {
        some.clear();
        some.extend(keys.by_ref().take(TOGETHER));
        if some.is_empty() {
            return Ok(());
        }
        lookup.kept_of(&some, &mut kept);
        for view in kept.iter().flatten() {
            copy::soon(view.as_ptr().cast_const().cast(), array::HEADER);
        }
        for layout in kept.iter().flatten().filter_map(|view| array::layout(view)) {
            copy::soon(layout.shape.as_ptr().cast(), size_of_val(layout.shape));
        }
        for ((&key, view), number) in some.iter().zip(kept.drain(..)).zip(&mut numbers) {
            with_kept(lookup, key, view, |_, found| read(number, key, found))?;
        }
    }
}

/// The arrays of those members that are compressed, by their numbers among the keys. Each is decompressed
/// once.
pub(crate) fn decompressed<'py>(
    lookup: &BatchLookup<'py>,
    keys: &Keys<'py>,
    threads: usize,
) -> PyResult<HashMap<usize, Bound<'py, PyAny>>> {
    let mut held = HashMap::new();
    let mut numbers = Vec::new();
    let mut members = Vec::new();
    let mut places = HashMap::new();
    let mut others = HashMap::new();
    for (number, key) in keys.iter().enumerate() {
        let Some((member, name)) = lookup.compressed(key)? else { continue };
        if member.has_whole_name() {
            // It need not be an array.
            let value = match others.entry(member.id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(lookup.handle.view_of(&member, &name, lookup.cache)?),
            };
            held.insert(number, value.clone());
            continue;
        }
        let place = *places.entry(member.id).or_insert(members.len());
        if place == members.len() {
            members.push((member, name));
        }
        numbers.push((number, place));
    }
    let arrays = lookup.handle.decompressed(lookup.py, &members, threads, lookup.cache)?;
    held.extend(numbers.into_iter().map(|(number, place)| (number, Bound::clone(&arrays[place]))));
    Ok(held)
}

/// Has the system read the headers of members that views cannot be made without, if they are not in memory.
/// To find them so one after the other would be to wait for the disk as often.
pub(crate) fn fetch_headers(lookup: &BatchLookup<'_>, keys: &Keys<'_>) -> PyResult<()> {
    if !lookup.reads_headers() {
        return Ok(());
    }
    let map = lookup.map();
    let place = |key| map.headers_at(lookup.headers_at(key)?);
    // Where they are in memory, to look for all of them would be half of the work.
    let some = keys.iter().step_by((keys.len() / 2).max(1)).filter_map(place);
    if !fetch::are_cold(map, &some.collect::<Vec<_>>()) {
        return Ok(());
    }
    lookup.handle.file.fetch(lookup.py, &keys.iter().filter_map(place).collect::<Vec<_>>())
}

/// Fetches the headers of members whose names are going to be looked up one by one.
pub(crate) fn fetch_headers_of(lookup: &BatchLookup<'_>, names: &Bound<'_, PyAny>) -> PyResult<()> {
    if lookup.reads_headers() { fetch_headers(lookup, &Keys::new(lookup, names)?) } else { Ok(()) }
}

/// The error for an excerpt that does not fit into a batch.
#[cold]
pub(crate) fn excerpt_err(lookup: &BatchLookup<'_>, key: Key<'_, '_>, misfit: &Misfit) -> PyErr {
    let message = message(lookup, key, misfit);
    if misfit.is_out_of_range() { PyIndexError::new_err(message) } else { PyValueError::new_err(message) }
}

pub(crate) fn message(lookup: &BatchLookup<'_>, key: Key<'_, '_>, what: impl Display) -> String {
    format!("{}: member {}: {what}", lookup.shown().to_string_lossy(), quoted(lookup, key))
}

/// The name of a member in quotes, as in all other errors.
pub(crate) fn quoted(lookup: &BatchLookup<'_>, key: Key<'_, '_>) -> String {
    match key {
        Key::Name(name) => format!("{:?}", name.to_string()),
        Key::Position(position) => lookup
            .name_at(position)
            .map_or_else(|_| format!("at position {position}"), |name| format!("{name:?}")),
    }
}

/// The name of a member.
pub(crate) fn name_of(lookup: &BatchLookup<'_>, key: Key<'_, '_>) -> String {
    match key {
        Key::Name(name) => name.to_string(),
        Key::Position(position) => lookup.name_at(position).unwrap_or_default(),
    }
}
