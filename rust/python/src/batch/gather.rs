//! Batches: excerpts of many members in one array.
//!
//! First all that is asked for is looked up and checked, so that nothing is written before it is known to
//! fit; then it is copied, without the interpreter. What is not plain bytes behind each other, or becomes
//! another dtype, NumPy copies.

use std::fmt::Display;

use numpy::PyArrayDescr;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyEllipsis, PySlice};

use mmnpz_file::copy::{Copying, Place};

use crate::batch::arguments::Part;
use crate::batch::lookup::{BatchLookup, Key};
use crate::batch::members::{fetch_headers, message, quoted, with_all, with_view};
use crate::detach::detached;
use crate::error::{IntoErr, keep_going};
use crate::numpy::array::{self, Layout};
use crate::views::pages::fetch_cold;

/// This many bytes are copied in a few microseconds: others who want the interpreter wait no longer than for
/// anything else, while to get it back from them can take milliseconds.
const DETACH_FROM: usize = 1 << 14;

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
            None => return Err(self.value_error(key, "an array of no dimensions has no rows")),
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
            return Err(self.differs_in_shape(key, shape));
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
            let what = format!(
                "rows {start}:{stop} are {}, but every excerpt must have {}",
                stop - start,
                common.length
            );
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

    /// The error for a member whose shape differs from that of the first.
    #[cold]
    fn differs_in_shape(&self, key: Key<'_, 'py>, mine: &[isize]) -> PyErr {
        let what = if self.whole { "shape" } else { "row shape" };
        let of_rows = |layout: &Layout<'_>| {
            show(if self.whole { layout.shape } else { layout.shape.get(1..).unwrap_or_default() })
        };
        let first = self.part.keys.iter().next().map(|first| {
            with_view(self.lookup, first, |_, layout| Ok((quoted(self.lookup, first), of_rows(layout))))
        });
        match first.unwrap_or_else(|| Ok(Default::default())) {
            Ok((first, theirs)) => {
                let mine = show(mine);
                self.value_error(key, &format!("{what} {mine} differs from {theirs} of member {first}"))
            }
            Err(error) => error,
        }
    }

    #[cold]
    fn differs_in_dtype(&self, key: Key<'_, 'py>, dtype: &Bound<'py, PyArrayDescr>) -> PyErr {
        let first = self.part.keys.iter().next().map(|first| quoted(self.lookup, first));
        let (first, theirs) = (first.unwrap_or_default(), self.common.as_ref().map(|common| &common.dtype));
        let theirs = theirs.map_or_else(String::new, ToString::to_string);
        let what = format!("dtype {dtype} differs from {theirs} of member {first}; pass dtype= to convert");
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
            let message = "cannot infer shape and dtype of an empty batch; pass out=";
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
            let message = format!("{path}: out has shape {theirs}, but the batch has shape {}", show(&shape));
            return Err(PyValueError::new_err(message));
        }
        if let Some(dtype) = dtype.filter(|dtype| !layout.is_of(dtype)) {
            let theirs = layout.dtype(out.py());
            let message = format!(
                "{path}: out has dtype {theirs}, but the batch has dtype {dtype}; pass dtype= to convert"
            );
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
        // SAFETY: `add` has seen that the places lie in the map; no excerpt has more rows than
        // `common.length`, and those that have less are padded by rows. `out` is an array of this shape and
        // of items of this size, in order and writeable, and lives as long as this call. Whoever changes its
        // size or writes to it meanwhile does what NumPy does not allow for its own functions either, all of
        // which copy without the interpreter, too.
        let copying = unsafe { Copying::new(mapping, &self.places, room, row, layout.start) };
        let result = if room * self.places.len() < DETACH_FROM {
            copying.run(threads, &keep_going)
        } else {
            detached(self.py(), || copying.run(threads, &keep_going))
        };
        result.map_err(|failure| failure.into_err(self.py(), self.lookup.path()))
    }

    /// Copies items that are not behind each other, or become others.
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
    let what = format!("dtype {from} cannot be converted to {to} by the rule \"same_kind\"");
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
