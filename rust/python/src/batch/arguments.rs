//! What is asked for: names or positions, and rows.

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString, PyTuple};

use numpy::PyArrayDescrMethods;

use mmnpz_file::excerpts::{Numbers, Rows};

use crate::batch::lookup::{BatchLookup, Key};
use crate::numpy::array;

/// The members that are asked for: the first of these two, or the second if that is empty.
pub(crate) struct Keys<'py> {
    /// A tuple, which nobody changes meanwhile.
    names: Bound<'py, PyTuple>,
    positions: Vec<usize>,
}

/// Numbers that are given: one for all of `count` names, or one for each.
fn numbers(given: &Bound<'_, PyAny>, what: &str, count: usize) -> PyResult<Numbers> {
    let not_integers = |error: PyErr| {
        if !error.is_instance_of::<PyTypeError>(given.py()) {
            return error;
        }
        PyTypeError::new_err(format!("{what} must be integers: {}", error.value(given.py())))
    };
    let each = match array::integers(given) {
        Some(each) => each,
        None => match given.try_iter() {
            Ok(items) => {
                let items = items.map(|item| item?.extract::<i64>());
                items.collect::<PyResult<Vec<_>>>().map_err(not_integers)?
            }
            Err(_) => return given.extract().map(Numbers::Same).map_err(not_integers),
        },
    };
    if each.len() != count {
        return Err(PyValueError::new_err(format!("got {count} names and {} {what}", each.len())));
    }
    Ok(Numbers::Each(each))
}

/// Which rows of `count` members.
pub(crate) fn rows(
    count: usize,
    starts: Option<&Bound<'_, PyAny>>,
    stops: Option<&Bound<'_, PyAny>>,
    length: Option<i64>,
) -> PyResult<Rows> {
    let numbers = |given: Option<_>, what| given.map(|given| numbers(given, what, count)).transpose();
    let length = length.map(usize::try_from).transpose();
    let length = length.map_err(|_| PyValueError::new_err("length must not be negative"))?;
    Ok(Rows { starts: numbers(starts, "starts")?, stops: numbers(stops, "stops")?, length })
}

impl<'py> Keys<'py> {
    pub(crate) fn new(lookup: &BatchLookup<'py>, names: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = names.py();
        let mut names = names.clone();
        if let Some(layout) = array::layout(&names) {
            let (kind, dimensions) = (layout.dtype(py).kind(), layout.shape.len());
            if dimensions != 1 {
                let message =
                    format!("names must be one-dimensional, got an array of {dimensions} dimensions");
                return Err(PyTypeError::new_err(message));
            }
            match kind {
                b'i' | b'u' => return Self::of_array(lookup, &names),
                b'b' => return Err(a_mask()),
                // Strings of Python are looked up faster than those of NumPy.
                _ => names = names.call_method0("tolist")?,
            }
        }
        if let Ok(list) = names.cast::<PyList>() {
            return Self::of_items(lookup, list.to_tuple());
        }
        if names.is_instance_of::<PyString>() || names.is_instance_of::<PyBytes>() {
            let message = format!("names must be a sequence of names, got the string {}", names.repr()?);
            return Err(PyTypeError::new_err(message));
        }
        Self::of_items(lookup, py.get_type::<PyTuple>().call1((names,))?.cast_into()?)
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
    fn of_items(lookup: &BatchLookup<'py>, names: Bound<'py, PyTuple>) -> PyResult<Self> {
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
                if error.is_instance_of::<PyOverflowError>(lookup.py) {
                    out_of_range(lookup, &item, count)
                } else if error.is_instance_of::<PyTypeError>(lookup.py) {
                    not_a_position(&item)
                } else {
                    error
                }
            })?;
            from_start(given, count).ok_or_else(|| out_of_range(lookup, &item, count))
        });
        let positions = positions.collect::<PyResult<_>>()?;
        Ok(Keys { names: PyTuple::empty(lookup.py), positions })
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
    if is_truth_value(given) {
        return Some(a_mask());
    }
    let mixed = || PyTypeError::new_err(format!("names cannot be mixed with positions, got {given}"));
    is_integer(given).then(mixed)
}

/// The error for what is no integer, among positions.
#[cold]
fn not_a_position(given: &Bound<'_, PyAny>) -> PyErr {
    let given = given.repr().map_or_else(|_| String::new(), |text| text.to_string());
    PyTypeError::new_err(format!("positions cannot be mixed with others, got {given}"))
}

#[cold]
fn a_mask() -> PyErr {
    PyTypeError::new_err(
        "names must be names or positions, got booleans; numpy.flatnonzero gives the positions of a mask",
    )
}

#[cold]
fn out_of_range(lookup: &BatchLookup<'_>, given: &Bound<'_, PyAny>, count: usize) -> PyErr {
    let path = lookup.shown().to_string_lossy();
    PyIndexError::new_err(format!("{path}: position {given} is out of range for {count} members"))
}
