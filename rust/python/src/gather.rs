//! Batches: excerpts of many members in one array.
//!
//! First all that is asked for is looked up and checked, so that nothing is written before it is known to fit; then it
//! is copied, without the interpreter. What is not plain bytes behind each other, or becomes another dtype, NumPy copies.

use std::fmt::Display;
use std::path::Path;

use numpy::{PyArrayDescr, PyArrayDescrMethods};
use pyo3::Borrowed;
use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBool, PyBytes, PyEllipsis, PyInt, PyList, PySlice, PyString, PyTuple};

use crate::array::{self, Layout};
use crate::detach::detached;
use crate::error::{IntoErr, keep_going};
use crate::mapping::Mapping;
use crate::reader::{BatchLookup, Kept};
use mmnpz_file::copy::{self, Copying, Place};

/// So many bytes are copied in a few microseconds: others who want the interpreter wait no longer than for anything
/// else, while to get it back from them can take milliseconds.
const DETACH_FROM: usize = 1 << 14;

/// A member that is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Key<'a, 'py> {
    Name(Borrowed<'a, 'py, PyAny>),
    /// In archive order, less than the number of members.
    Position(usize),
}

/// The members that are asked for: the first of these two, or the second if that is empty.
struct Keys<'py> {
    /// A tuple, which nobody changes meanwhile.
    names: Bound<'py, PyTuple>,
    positions: Vec<usize>,
}

/// Which rows of which members.
pub(crate) struct Part<'py> {
    keys: Keys<'py>,
    starts: Option<Numbers>,
    stops: Option<Numbers>,
    length: Option<usize>,
}

/// A number for each name.
enum Numbers {
    Same(i64),
    Each(Vec<i64>),
}

impl Numbers {
    fn new(numbers: &Bound<'_, PyAny>, what: &str, names: usize) -> PyResult<Self> {
        let not_integers = |error: PyErr| {
            if !error.is_instance_of::<PyTypeError>(numbers.py()) {
                return error;
            }
            PyTypeError::new_err(format!("{what} must be integers: {}", error.value(numbers.py())))
        };
        let each = match array::integers(numbers) {
            Some(each) => each,
            None => match numbers.try_iter() {
                Ok(items) => {
                    let items = items.map(|item| item?.extract::<i64>());
                    items.collect::<PyResult<Vec<_>>>().map_err(not_integers)?
                }
                Err(_) => return numbers.extract().map(Numbers::Same).map_err(not_integers),
            },
        };
        if each.len() != names {
            return Err(PyValueError::new_err(format!("there are {names} names and {} {what}", each.len())));
        }
        Ok(Numbers::Each(each))
    }

    #[inline]
    fn get(&self, number: usize) -> i64 {
        match self {
            Numbers::Same(same) => *same,
            Numbers::Each(each) => each[number],
        }
    }
}

impl<'py> Part<'py> {
    pub(crate) fn new(
        lookup: &BatchLookup<'py>,
        names: &Bound<'py, PyAny>,
        starts: Option<&Bound<'py, PyAny>>,
        stops: Option<&Bound<'py, PyAny>>,
        length: Option<i64>,
    ) -> PyResult<Self> {
        let keys = Keys::new(lookup, names)?;
        let numbers = |numbers: Option<&Bound<'py, PyAny>>, what| {
            numbers.map(|numbers| Numbers::new(numbers, what, keys.len())).transpose()
        };
        let length = length.map(usize::try_from).transpose();
        let length = length.map_err(|_| PyValueError::new_err("length must not be negative"))?;
        Ok(Part { starts: numbers(starts, "starts")?, stops: numbers(stops, "stops")?, length, keys })
    }

    /// Whether nothing is said of rows.
    fn is_whole(&self) -> bool {
        self.starts.is_none() && self.stops.is_none() && self.length.is_none()
    }

    /// From which row to which, of an array that has so many; or what is wrong with it. With `clip` what is behind the
    /// array is left out, as by a slice.
    #[inline]
    fn rows(&self, number: usize, rows: usize, clip: bool) -> Result<(usize, usize), String> {
        let start = self.starts.as_ref().map_or(0, |starts| starts.get(number));
        let behind = self.length.map(|length| start.saturating_add_unsigned(length as u64));
        let stop = self.stops.as_ref().map(|stops| stops.get(number)).or(behind);
        let stop = stop.unwrap_or_else(|| start.max(rows as i64));
        match (usize::try_from(start), usize::try_from(stop)) {
            (Ok(start), Ok(stop)) if start <= stop && stop <= rows => Ok((start, stop)),
            (Ok(start), Ok(stop)) if start <= stop && clip => Ok((start.min(rows), stop.min(rows))),
            (Ok(_), Ok(_)) if start <= stop => {
                let array_field =
                    if clip { "" } else { "; pad= says what to put in place of those that it has not" };
                Err(format!("rows {start} to {stop} are asked for, and it has {rows}{array_field}"))
            }
            (Ok(_), Ok(_)) => {
                Err(format!("rows {start} to {stop} are asked for, which ends before it starts"))
            }
            _ => Err(format!("rows {start} to {stop} are asked for, and they are counted from the start")),
        }
    }
}

impl<'py> Keys<'py> {
    fn new(lookup: &BatchLookup<'py>, names: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = names.py();
        if let Some(layout) = array::layout(names) {
            let (kind, dimensions) = (layout.dtype(py).kind(), layout.shape.len());
            if dimensions != 1 {
                let message =
                    format!("names must be one-dimensional, got an array of {dimensions} dimensions");
                return Err(PyTypeError::new_err(message));
            }
            return match kind {
                b'i' | b'u' => Self::of_array(lookup, names),
                b'b' => Err(a_mask()),
                // Strings of Python are looked up faster than those of NumPy.
                _ => {
                    Self::of_items(lookup, py.get_type::<PyTuple>().call1((names.call_method0("tolist")?,))?)
                }
            };
        }
        if let Ok(list) = names.cast::<PyList>() {
            return Self::of_items(lookup, list.to_tuple().into_any());
        }
        if names.is_instance_of::<PyString>() || names.is_instance_of::<PyBytes>() {
            let message = format!("names must be a sequence of names, got the string {}", names.repr()?);
            return Err(PyTypeError::new_err(message));
        }
        Self::of_items(lookup, py.get_type::<PyTuple>().call1((names,))?)
    }

    /// Of an array of integers of any kind.
    fn of_array(lookup: &BatchLookup<'py>, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = array.py();
        // Numbers that int64 does not have become negative ones: the unsigned ones that there are too many of.
        let positions = match array::integers(array) {
            None => array::integers(&array.call_method1("astype", ("int64",))?),
            positions => positions,
        };
        let positions = positions.ok_or_else(|| PyTypeError::new_err("names cannot be made integers"))?;
        let count = lookup.count()?;
        let unsigned = array::layout(array).is_some_and(|layout| layout.dtype(py).kind() == b'u');
        let positions = positions.into_iter().enumerate().map(|(number, given)| {
            let position = if unsigned { usize::try_from(given).ok() } else { from_start(given, count) };
            match position.filter(|&position| position < count) {
                Some(position) => Ok(position),
                None => Err(out_of_range(lookup, &array.get_item(number)?, count)),
            }
        });
        Ok(Keys { names: PyTuple::empty(py), positions: positions.collect::<PyResult<_>>()? })
    }

    /// Of the items of a tuple: positions if the first one is an integer.
    fn of_items(lookup: &BatchLookup<'py>, items: Bound<'py, PyAny>) -> PyResult<Self> {
        let names = items.cast_into::<PyTuple>()?;
        let is_name = names.iter_borrowed().next().is_none_or(|first| !is_integer(&first));
        if is_name {
            return Ok(Keys { names, positions: Vec::new() });
        }
        let count = lookup.count()?;
        let positions = names.iter_borrowed().map(|item| {
            if is_truth_value(&item) {
                return Err(a_mask());
            }
            let given = item.extract::<i64>().map_err(|error| {
                if error.is_instance_of::<PyOverflowError>(lookup.py()) {
                    out_of_range(lookup, &item, count)
                } else if error.is_instance_of::<PyTypeError>(lookup.py()) {
                    not_a_position(&item)
                } else {
                    error
                }
            })?;
            from_start(given, count).ok_or_else(|| out_of_range(lookup, &item, count))
        });
        let positions = positions.collect::<PyResult<_>>()?;
        Ok(Keys { names: PyTuple::empty(lookup.py()), positions })
    }

    fn len(&self) -> usize {
        self.names.len() + self.positions.len()
    }

    fn iter(&self) -> impl Iterator<Item = Key<'_, 'py>> {
        let positions = self.positions.iter().copied().map(Key::Position);
        self.names.iter_borrowed().map(Key::Name).chain(positions)
    }
}

/// Whether an object is `True` or `False`, of Python or of NumPy, whose old releases take theirs for integers.
fn is_truth_value(object: &Bound<'_, PyAny>) -> bool {
    let is_numpys = || {
        let kind = object.getattr("dtype").and_then(|dtype| dtype.getattr("kind"));
        kind.is_ok_and(|kind| kind.eq("b").unwrap_or(false))
    };
    object.is_instance_of::<PyBool>() || (!object.is_instance_of::<PyInt>() && is_numpys())
}

/// The position that is given, counted from the start; or nothing if it is out of range.
fn from_start(given: i64, count: usize) -> Option<usize> {
    let behind = if given < 0 { count } else { 0 };
    let position = usize::try_from(given.checked_add(i64::try_from(behind).ok()?)?).ok()?;
    (position < count).then_some(position)
}

/// Whether Python takes an object for an integer.
fn is_integer(object: &Bound<'_, PyAny>) -> bool {
    let has_index = || object.get_type().hasattr("__index__").unwrap_or(false);
    object.is_instance_of::<PyInt>() || (!object.is_instance_of::<PyString>() && has_index())
}

/// The error for an integer, or a truth value, among names.
#[cold]
pub(crate) fn not_a_name(given: &Bound<'_, PyAny>) -> Option<PyErr> {
    if is_truth(given) {
        return Some(a_mask());
    }
    let mixed = || PyTypeError::new_err(format!("names cannot be mixed with positions, got {given}"));
    is_integer(given).then(mixed)
}

/// The error for what is no integer, among positions.
#[cold]
fn not_a_position(given: &Bound<'_, PyAny>) -> PyErr {
    if is_truth(given) {
        return a_mask();
    }
    let given = given.repr().map_or_else(|_| String::new(), |text| text.to_string());
    PyTypeError::new_err(format!("positions cannot be mixed with others, got {given}"))
}

/// Whether it is a truth value of Python or of NumPy, whose type has one name in version 1 and the other in version 2.
fn is_truth(object: &Bound<'_, PyAny>) -> bool {
    object.get_type().name().is_ok_and(|name| name == "bool" || name == "bool_")
}

#[cold]
fn a_mask() -> PyErr {
    PyTypeError::new_err(
        "names must be names or positions, got booleans; numpy.flatnonzero gives the positions of a mask",
    )
}

#[cold]
fn out_of_range(lookup: &BatchLookup<'_>, given: &Bound<'_, PyAny>, count: usize) -> PyErr {
    let path = lookup.path().to_string_lossy();
    PyIndexError::new_err(format!("{path}: position {given} is out of range for {count} members"))
}

/// What a batch consists of.
struct Batch<'a, 'py> {
    lookup: &'a BatchLookup<'py>,
    part: &'a Part<'py>,
    /// The dtype that items are to become.
    wanted: Option<Bound<'py, PyArrayDescr>>,
    padded: bool,
    whole: bool,
    common: Option<Common<'py>>,
    places: Vec<Place>,
    /// From which row to which.
    rows: Vec<(usize, usize)>,
    /// Whether there are excerpts that NumPy has to copy.
    odd: bool,
}

/// What all members have in common.
struct Common<'py> {
    dtype: Bound<'py, PyArrayDescr>,
    /// Of a row or, if whole members are gathered, of a member.
    shape: Vec<isize>,
    row_bytes: usize,
    /// How many rows an excerpt has.
    length: usize,
}

impl<'a, 'py> Batch<'a, 'py> {
    fn new(
        lookup: &'a BatchLookup<'py>,
        part: &'a Part<'py>,
        wanted: Option<Bound<'py, PyArrayDescr>>,
        padded: bool,
    ) -> PyResult<Self> {
        let count = part.keys.len();
        let mut batch = Batch {
            lookup,
            part,
            wanted,
            padded,
            whole: part.is_whole() && !padded,
            common: None,
            places: Vec::with_capacity(count),
            rows: Vec::with_capacity(count),
            odd: false,
        };
        with_all(lookup, &part.keys, |number, key, layout| batch.add(number, key, layout))?;
        Ok(batch)
    }

    fn py(&self) -> Python<'py> {
        self.lookup.py()
    }

    /// Adds an excerpt of an array, if it fits to those before.
    #[inline]
    fn add(&mut self, number: usize, key: Key<'_, 'py>, layout: &Layout<'_>) -> PyResult<()> {
        // A whole member is one row, of any shape.
        let (rows, shape) = match layout.shape.split_first() {
            _ if self.whole => (1, layout.shape),
            Some((rows, shape)) => (usize::try_from(*rows).unwrap_or(0), shape),
            None => return Err(self.value_error(key, "it is of no dimensions, and has no rows")),
        };
        let range = if self.whole { Ok((0, 1)) } else { self.part.rows(number, rows, self.padded) };
        let (start, stop) = match range {
            Ok(range) => range,
            Err(what) => return Err(PyIndexError::new_err(message(self.lookup, key, what))),
        };
        if self.common.is_none() {
            self.begin(key, layout, shape, stop - start)?;
        }
        let Some(common) = &mut self.common else { return Ok(()) };
        if shape != common.shape {
            return Err(self.differs(key, "shape", show(layout.shape), |layout| show(layout.shape)));
        }
        let mut is_plain = layout.in_order;
        if !layout.is_of(&common.dtype) {
            let dtype = layout.dtype(self.lookup.py());
            let Some(wanted) = &self.wanted else { return Err(self.differs_in_dtype(key, &dtype)) };
            if !array::can_become(&dtype, wanted) {
                return Err(cannot_become(self.lookup, key, &dtype, wanted));
            }
            is_plain = false;
        }
        if self.padded && self.part.length.is_none() {
            common.length = common.length.max(stop - start);
        } else if stop - start > common.length || (!self.padded && stop - start != common.length) {
            let what = format!("rows {start} to {stop} are not the {} that all excerpts have", common.length);
            return Err(self.value_error(key, &what));
        }
        let map = self.lookup.mapping();
        let place = Place {
            offset: layout.start.addr().saturating_sub(map.start().addr()) + start * common.row_bytes,
            bytes: (stop - start) * common.row_bytes,
        };
        let is_inside = place.offset.checked_add(place.bytes).is_some_and(|end| end <= map.bytes().len());
        self.odd |= !(is_plain && is_inside);
        self.places.push(place);
        self.rows.push((start, stop));
        Ok(())
    }

    /// Has what follows fit to this member.
    #[cold]
    fn begin(
        &mut self,
        key: Key<'_, 'py>,
        layout: &Layout<'_>,
        shape: &[isize],
        length: usize,
    ) -> PyResult<()> {
        let dtype = layout.dtype(self.py());
        if let Some(wanted) = self.wanted.as_ref().filter(|wanted| !layout.is_of(wanted)) {
            self.odd = true;
            if !array::can_become(&dtype, wanted) {
                return Err(cannot_become(self.lookup, key, &dtype, wanted));
            }
        }
        let row_bytes = shape.iter().map(|&number| number.unsigned_abs()).product::<usize>();
        let row_bytes = row_bytes * array::itemsize(&dtype);
        let length = if self.whole { 1 } else { self.part.length.unwrap_or(length) };
        self.common = Some(Common { dtype, shape: shape.to_vec(), row_bytes, length });
        Ok(())
    }

    #[cold]
    fn value_error(&self, key: Key<'_, 'py>, what: &str) -> PyErr {
        PyValueError::new_err(message(self.lookup, key, what))
    }

    /// The error for a member that differs from the first.
    #[cold]
    fn differs(
        &self,
        key: Key<'_, 'py>,
        what: &str,
        mine: String,
        other: impl FnOnce(&Layout<'_>) -> String,
    ) -> PyErr {
        let first = self.part.keys.iter().next().map(|first| {
            with_view(self.lookup, first, |_, layout| Ok((quoted(self.lookup, first), other(layout))))
        });
        match first.unwrap_or_else(|| Ok(Default::default())) {
            Ok((first, theirs)) => {
                let array_field = if self.whole { "" } else { ", apart from the first axis" };
                let text = format!("its {what} {mine} does not fit {theirs} of member {first}{array_field}");
                self.value_error(key, &text)
            }
            Err(error) => error,
        }
    }

    #[cold]
    fn differs_in_dtype(&self, key: Key<'_, 'py>, dtype: &Bound<'py, PyArrayDescr>) -> PyErr {
        let first = self.part.keys.iter().next().map(|first| quoted(self.lookup, first));
        let (first, theirs) = (first.unwrap_or_default(), self.common.as_ref().map(|common| &common.dtype));
        let theirs = theirs.map_or_else(String::new, ToString::to_string);
        let what = format!("its dtype {dtype} is not {theirs}, that of member {first}; dtype= converts");
        PyTypeError::new_err(message(self.lookup, key, what))
    }

    /// The shape of the batch.
    fn shape(&self) -> Vec<usize> {
        let mut shape = vec![self.part.keys.len()];
        if let Some(common) = &self.common {
            if !self.whole {
                shape.push(common.length);
            }
            shape.extend(common.shape.iter().map(|number| number.unsigned_abs()));
        }
        shape
    }

    /// The array to copy to: that of the caller, if it fits, or a new one.
    fn out(&self, given: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let dtype = self.wanted.as_ref().or_else(|| self.common.as_ref().map(|common| &common.dtype));
        let shape = self.shape();
        let Some(out) = given else {
            let dtype = dtype.filter(|_| self.common.is_some());
            let message =
                "there are no names, which leaves open what shape and dtype the batch has; out= says it";
            return array::empty(dtype.ok_or_else(|| PyValueError::new_err(message))?, &shape);
        };
        let path = self.lookup.path().to_string_lossy();
        let Some(layout) = array::layout(out) else {
            let message = format!("{path}: out must be an array, got {}", out.get_type());
            return Err(PyTypeError::new_err(message));
        };
        let fits = match (&self.common, layout.shape) {
            (None, [0]) => self.part.length.is_none(),
            (None, [0, rows, ..]) => self.part.length.is_none_or(|length| length == rows.unsigned_abs()),
            (None, _) => false,
            (Some(_), theirs) => theirs.iter().map(|number| number.unsigned_abs()).eq(shape.iter().copied()),
        };
        if !fits {
            let theirs = show(layout.shape);
            let message = format!("{path}: out has the shape {theirs}, and the batch has {}", show(&shape));
            return Err(PyValueError::new_err(message));
        }
        if let Some(dtype) = dtype.filter(|dtype| !layout.is_of(dtype)) {
            let theirs = layout.dtype(out.py());
            let message =
                format!("{path}: out has the dtype {theirs}, and the batch has {dtype}; dtype= converts");
            return Err(PyTypeError::new_err(message));
        }
        if !layout.writeable {
            return Err(PyValueError::new_err(format!("{path}: out is read-only")));
        }
        Ok(out.clone())
    }

    /// A row of what pads.
    fn pad_row(&self, out: &Bound<'py, PyAny>, pad: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let shape = self.common.as_ref().map_or(&[][..], |common| &common.shape);
        let shape: Vec<_> = shape.iter().map(|number| number.unsigned_abs()).collect();
        let dtype = array::layout(out).map(|layout| layout.dtype(self.py()));
        let dtype = dtype.ok_or_else(|| PyTypeError::new_err("out must be an array"))?;
        let row = array::empty(&dtype, &shape)?;
        row.set_item(PyEllipsis::get(self.py()), pad)?;
        Ok(row)
    }

    /// Copies all to `out`, which has the shape and the dtype of the batch.
    fn copy(&self, out: &Bound<'py, PyAny>, pad: Option<&Bound<'py, PyAny>>, threads: usize) -> PyResult<()> {
        let (Some(common), Some(layout)) = (&self.common, array::layout(out)) else { return Ok(()) };
        let pad_row = pad.map(|pad| self.pad_row(out, pad)).transpose()?;
        let dtype = self.wanted.as_ref().unwrap_or(&common.dtype);
        if self.odd || !layout.in_order || !layout.is_of(dtype) || array::itemsize(dtype) == 0 {
            return self.copy_by_numpy(out, pad_row.as_ref());
        }
        let room = common.length * common.row_bytes;
        let mapping = self.lookup.mapping();
        let row = pad_row.as_ref().and_then(array::layout);
        let row = row.map_or(&[][..], |row| {
            // SAFETY: a new array of the shape and the dtype of a row, in order, which nobody else has.
            unsafe { std::slice::from_raw_parts(row.start, common.row_bytes) }
        });
        // SAFETY: `add` has seen that the places lie in the map; no excerpt has more rows than `common.length`, and those
        // that have less are padded by rows. `out` is an array of this shape and of items of this size, in order and
        // writeable, and lives as long as this call. Whoever changes its size or writes to it meanwhile does what NumPy
        // does not allow for its own functions either, all of which copy without the interpreter, too.
        let copying = unsafe { Copying::new(mapping, &self.places, room, row, layout.start) };
        let result = if room * self.places.len() < DETACH_FROM {
            copying.run(threads, &keep_going)
        } else {
            detached(self.py(), || copying.run(threads, &keep_going))
        };
        result.map_err(|failure| failure.into_err(self.py(), self.lookup.path()))
    }

    /// The same for items that are not behind each other, or become others.
    fn copy_by_numpy(&self, out: &Bound<'py, PyAny>, pad_row: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = self.py();
        let slice = |start: usize, stop: usize| PySlice::new(py, start as isize, stop as isize, 1);
        let excerpts = self.part.keys.iter().zip(&self.rows).map(|(key, &(start, stop))| {
            with_view(self.lookup, key, |view, _| {
                if self.whole { Ok(view.clone()) } else { view.get_item(slice(start, stop)) }
            })
        });
        let excerpts = excerpts.collect::<PyResult<Vec<_>>>()?;
        // All excerpts at once, not one after the other.
        fetch_cold(py, self.lookup.mapping(), self.lookup.path(), &self.places)?;
        let copy = py.import("numpy")?.getattr("copyto")?;
        let casting = [("casting", "same_kind")].into_py_dict(py)?;
        let length = self.common.as_ref().map_or(0, |common| common.length);
        for (number, (excerpt, (start, stop))) in excerpts.into_iter().zip(&self.rows).enumerate() {
            if self.whole {
                copy.call((out.get_item((number, PyEllipsis::get(py)))?, excerpt), Some(&casting))?;
            } else {
                let rows = stop - start;
                copy.call((out.get_item((number, slice(0, rows)))?, excerpt), Some(&casting))?;
                if let Some(row) = pad_row.filter(|_| rows < length) {
                    out.set_item((number, slice(rows, length)), row)?;
                }
            }
            py.check_signals()?;
        }
        Ok(())
    }
}

/// Calls `read` with the view of a member and its layout.
fn with_view<'py, R>(
    lookup: &BatchLookup<'py>,
    key: Key<'_, 'py>,
    read: impl FnOnce(&Bound<'py, PyAny>, &Layout<'_>) -> PyResult<R>,
) -> PyResult<R> {
    with_kept(lookup, key, lookup.kept(key)?, read)
}

/// The same for one that may be kept. What somebody else put in the dict of views is not believed.
#[inline]
fn with_kept<'py, R>(
    lookup: &BatchLookup<'py>,
    key: Key<'_, 'py>,
    kept: Option<Kept<'_, 'py>>,
    read: impl FnOnce(&Bound<'py, PyAny>, &Layout<'_>) -> PyResult<R>,
) -> PyResult<R> {
    let map = lookup.mapping().bytes().as_ptr_range();
    let kept = kept.map_or_else(|| lookup.made(key).map(Kept::Own), Ok)?;
    if let Some(layout) = array::layout(&kept)
        && map.start <= layout.start
        && layout.start.cast_const() <= map.end
    {
        return read(&kept, &layout);
    }
    let view = lookup.fresh(key)?;
    let layout = array::layout(&view).ok_or_else(|| PyTypeError::new_err("a view is not an array"))?;
    read(&view, &layout)
}

/// So many members are looked up together.
const TOGETHER: usize = 64;

/// Calls `read` with the layouts of the views of all members, and their numbers.
///
/// What is read of each lies in some five places of memory, each of which leads to the next, and copying the last batch
/// has driven all of them out of the cache. One after the other, to wait for them takes a fifth of the time of a batch. So
/// each step is taken for many members before the next one is.
fn with_all<'py>(
    lookup: &BatchLookup<'py>,
    keys: &Keys<'py>,
    mut read: impl FnMut(usize, Key<'_, 'py>, &Layout<'_>) -> PyResult<()>,
) -> PyResult<()> {
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
            with_kept(lookup, key, view, |_, layout| read(number, key, layout))?;
        }
    }
}

fn message(lookup: &BatchLookup<'_>, key: Key<'_, '_>, what: impl Display) -> String {
    format!("{}: member {}: {what}", lookup.path().to_string_lossy(), quoted(lookup, key))
}

/// The name of a member in quotes, as in all other errors.
fn quoted(lookup: &BatchLookup<'_>, key: Key<'_, '_>) -> String {
    match key {
        Key::Name(name) => format!("{:?}", name.to_string()),
        Key::Position(position) => lookup
            .name_at(position)
            .map_or_else(|_| format!("at position {position}"), |name| format!("{name:?}")),
    }
}

/// A shape as Python shows it.
fn show<T: Display>(shape: &[T]) -> String {
    match shape {
        [only] => format!("({only},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cold]
fn cannot_become(
    lookup: &BatchLookup<'_>,
    key: Key<'_, '_>,
    from: &Bound<'_, PyArrayDescr>,
    to: &Bound<'_, PyArrayDescr>,
) -> PyErr {
    let what = format!("items of dtype {from} cannot become {to}, by the rule \"same_kind\"");
    PyTypeError::new_err(message(lookup, key, what))
}

/// How a batch is to be made of a part of an archive.
pub(crate) struct Making<'a, 'py> {
    pub(crate) out: Option<&'a Bound<'py, PyAny>>,
    pub(crate) dtype: Option<&'a Bound<'py, PyAny>>,
    pub(crate) pad: Option<&'a Bound<'py, PyAny>>,
    pub(crate) threads: Option<i64>,
}

/// A batch of excerpts.
pub(crate) fn gather<'py>(
    lookup: &BatchLookup<'py>,
    part: &Part<'py>,
    making: &Making<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let threads = usize::try_from(making.threads.unwrap_or(1)).unwrap_or(0);
    if threads == 0 {
        return Err(PyValueError::new_err("threads must be 1 or more"));
    }
    let wanted = making.dtype.map(array::dtype_given).transpose()?;
    fetch_headers(lookup, &part.keys)?;
    let batch = Batch::new(lookup, part, wanted, making.pad.is_some())?;
    let out = batch.out(making.out)?;
    batch.copy(&out, making.pad, threads)?;
    Ok(out)
}

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

/// The headers of a member whose local header is at this byte: with an ordinary `.npy` header they have so many bytes.
fn headers_at(map: &Mapping, at: u64) -> Option<Place> {
    const HEADERS: usize = 512;
    let offset = usize::try_from(at).ok()?;
    let left = map.bytes().len().checked_sub(offset).filter(|&left| left > 0)?;
    Some(Place { offset, bytes: HEADERS.min(left) })
}

/// Has the system read the headers of members that views cannot be made without, if they are not in memory. To find them
/// so one after the other would be to wait for the disk as often.
fn fetch_headers(lookup: &BatchLookup<'_>, keys: &Keys<'_>) -> PyResult<()> {
    if !lookup.reads_headers() {
        return Ok(());
    }
    let (py, map) = (lookup.py(), lookup.mapping());
    let place = |key| headers_at(map, lookup.headers_at(key)?);
    // Where they are in memory, to look for all of them would be half of the work.
    let some = keys.iter().step_by((keys.len() / 2).max(1)).filter_map(place);
    if !copy::are_cold(map, &some.collect::<Vec<_>>()) {
        return Ok(());
    }
    let places = keys.iter().filter_map(place).collect::<Vec<_>>();
    let result = detached(py, || copy::fetch(map, &places, &keep_going));
    result.map_err(|failure| failure.into_err(py, lookup.path()))
}

/// The same for members whose local headers are at these bytes.
pub(crate) fn fetch_headers_at(
    py: Python<'_>,
    map: &Mapping,
    path: &Path,
    local_headers: impl Iterator<Item = u64>,
) -> PyResult<()> {
    fetch_cold(py, map, path, &local_headers.filter_map(|at| headers_at(map, at)).collect::<Vec<_>>())
}

/// The same for names that are going to be looked up one by one.
pub(crate) fn fetch_headers_of(lookup: &BatchLookup<'_>, names: &Bound<'_, PyAny>) -> PyResult<()> {
    if lookup.reads_headers() { fetch_headers(lookup, &Keys::new(lookup, names)?) } else { Ok(()) }
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
fn fetch_cold(py: Python<'_>, map: &Mapping, path: &Path, places: &[Place]) -> PyResult<()> {
    // To look takes a microsecond, and to get the interpreter back from others can take milliseconds.
    if !copy::are_cold(map, places) {
        return Ok(());
    }
    let result = detached(py, || copy::fetch(map, places, &keep_going));
    result.map_err(|failure| failure.into_err(py, path))
}
