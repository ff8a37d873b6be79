//! What is asked for: names or positions, and rows.

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString, PyTuple};

use numpy::PyArrayDescrMethods;

use crate::batch::lookup::{BatchLookup, Key};
use crate::numpy::array;

/// The members that are asked for: the first of these two, or the second if that is empty.
pub(crate) struct Keys<'py> {
    /// A tuple, which nobody changes meanwhile.
    names: Bound<'py, PyTuple>,
    positions: Vec<usize>,
}

/// Which rows of which members.
pub(crate) struct Part<'py> {
    pub(crate) keys: Keys<'py>,
    starts: Option<Numbers>,
    stops: Option<Numbers>,
    pub(crate) length: Option<usize>,
}

/// A number for each name.
enum Numbers {
    Same(i64),
    Each(Vec<i64>),
}

impl Numbers {
    pub(crate) fn new(numbers: &Bound<'_, PyAny>, what: &str, names: usize) -> PyResult<Self> {
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
            return Err(PyValueError::new_err(format!("got {names} names and {} {what}", each.len())));
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
    pub(crate) fn is_whole(&self) -> bool {
        self.starts.is_none() && self.stops.is_none() && self.length.is_none()
    }

    /// From which row to which, of an array that has so many; or what is wrong with it. With `clip` what is
    /// behind the array is left out, as by a slice.
    #[inline]
    pub(crate) fn rows(&self, number: usize, rows: usize, clip: bool) -> Result<(usize, usize), String> {
        let start = self.starts.as_ref().map_or(0, |starts| starts.get(number));
        let behind = self.length.map(|length| start.saturating_add_unsigned(length as u64));
        let stop = self.stops.as_ref().map(|stops| stops.get(number)).or(behind);
        let stop = stop.unwrap_or_else(|| start.max(rows as i64));
        match (usize::try_from(start), usize::try_from(stop)) {
            (Ok(start), Ok(stop)) if start <= stop && stop <= rows => Ok((start, stop)),
            (Ok(start), Ok(stop)) if start <= stop && clip => Ok((start.min(rows), stop.min(rows))),
            (Ok(_), Ok(_)) if start <= stop => {
                let advice = if clip { "" } else { "; pass pad= to fill the missing ones" };
                Err(format!("rows {start}:{stop} requested, but the array has {rows} rows{advice}"))
            }
            (Ok(_), Ok(_)) => Err(format!("rows {start}:{stop} end before they start")),
            _ => Err(format!("rows must not be negative, got {start}:{stop}")),
        }
    }
}

impl<'py> Keys<'py> {
    pub(crate) fn new(lookup: &BatchLookup<'py>, names: &Bound<'py, PyAny>) -> PyResult<Self> {
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
        // Numbers that int64 does not have become negative ones: the unsigned ones that there are too many
        // of.
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

    pub(crate) fn len(&self) -> usize {
        self.names.len() + self.positions.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Key<'_, 'py>> {
        let positions = self.positions.iter().copied().map(Key::Position);
        self.names.iter_borrowed().map(Key::Name).chain(positions)
    }
}

/// Whether an object is `True` or `False`, of Python or of NumPy, whose old releases take theirs for
/// integers.
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

/// Whether it is a truth value of Python or of NumPy, whose type has one name in version 1 and the other in
/// version 2.
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
