//! Batches: excerpts of many members in one array.
//!
//! First all that is asked for is looked up and checked, so that nothing is written before it is known to
//! fit; then it is copied, without the interpreter. What is not plain bytes behind each other, or becomes
//! another dtype, NumPy copies.

use std::collections::HashMap;
use std::ops::Range;

use numpy::PyArrayDescr;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyEllipsis, PySlice};

use mmnpz_file::copy::Copying;
use mmnpz_file::excerpts::{Excerpts, Rows, show};
use mmnpz_file::items::Extent;

use crate::batch::arguments::Keys;
use crate::batch::lookup::{BatchLookup, Key};
use crate::batch::members::{
    Found, decompressed, excerpt_err, fetch_headers, message, name_of, quoted, with_all, with_found,
    with_view,
};
use crate::detach::detached;
use crate::error::keep_going;
use crate::numpy::array::{self, Layout};
use crate::views::fresh;

/// This many bytes are copied in a few microseconds: others who want the interpreter wait no longer than for
/// anything else, while to get it back from them can take milliseconds.
const DETACH_FROM: usize = 1 << 14;

/// A batch whose excerpts were found, and are known to fit together.
struct Batch<'a, 'py> {
    lookup: &'a BatchLookup<'py>,
    keys: &'a Keys<'py>,
    excerpts: Excerpts,
    /// The dtype that items are to become.
    wanted: Option<Bound<'py, PyArrayDescr>>,
    /// The dtype of the first member, and of all others if none is wanted.
    dtype: Option<Bound<'py, PyArrayDescr>>,
    /// Whether there are excerpts that NumPy has to copy.
    odd: bool,
    /// The arrays of compressed members, by their numbers: each is decompressed once.
    held: HashMap<usize, Bound<'py, PyAny>>,
}

impl<'a, 'py> Batch<'a, 'py> {
    fn new(
        lookup: &'a BatchLookup<'py>,
        keys: &'a Keys<'py>,
        rows: Rows,
        wanted: Option<Bound<'py, PyArrayDescr>>,
        padded: bool,
        threads: usize,
    ) -> PyResult<Self> {
        let excerpts = Excerpts::new(rows, padded, keys.len());
        let mut batch =
            Batch { lookup, keys, excerpts, wanted, dtype: None, odd: false, held: HashMap::new() };
        if !lookup.handle.file.lookup().has_compressed() {
            with_all(lookup, keys, |_, key, found| batch.add(key, found))?;
            return Ok(batch);
        }
        batch.held = decompressed(lookup, keys, threads)?;
        for (number, key) in keys.iter().enumerate() {
            let held = batch.held.get(&number).cloned();
            match held.as_ref().and_then(array::layout) {
                Some(layout) => batch.add(key, &Found { layout, offset: None })?,
                None => with_found(lookup, key, |found| batch.add(key, found))?,
            }
        }
        Ok(batch)
    }

    /// Adds an excerpt of an array, if it fits to those before.
    #[inline]
    fn add(&mut self, key: Key<'_, 'py>, Found { layout, offset }: &Found<'_>) -> PyResult<()> {
        let misfit = |misfit| excerpt_err(self.lookup, key, &misfit);
        let rows = self.excerpts.next_rows(layout.shape).map_err(misfit)?;
        let shape = self.excerpts.row_shape(layout.shape);
        if self.dtype.is_none() {
            let dtype = self.first_dtype(key, layout)?;
            self.excerpts.begin(&rows, shape, array::itemsize(&dtype));
            self.dtype = Some(dtype);
        }
        let Some(dtype) = &self.dtype else { return Ok(()) };
        if !self.excerpts.fits(shape) {
            return Err(self.differs_in_shape(key, shape));
        }
        let is_of_dtype = layout.is_of(dtype);
        if !is_of_dtype {
            let dtype = layout.dtype(self.lookup.py);
            let Some(wanted) = &self.wanted else { return Err(self.differs_in_dtype(key, &dtype)) };
            self.check_casting(key, &dtype, wanted)?;
        }
        let map = self.lookup.map();
        // Nothing is at the end of the file.
        let place = self.excerpts.add(rows, offset.unwrap_or(map.len())).map_err(misfit)?;
        let is_there = offset.is_some() && map.has(place);
        self.odd |= !(is_of_dtype && layout.in_order && is_there);
        Ok(())
    }

    /// The dtype of the first member, whose items can be converted if they have to be.
    #[cold]
    fn first_dtype(&mut self, key: Key<'_, 'py>, layout: &Layout<'_>) -> PyResult<Bound<'py, PyArrayDescr>> {
        let dtype = layout.dtype(self.lookup.py);
        if let Some(wanted) = self.wanted.as_ref().filter(|wanted| !layout.is_of(wanted)) {
            self.odd = true;
            self.check_casting(key, &dtype, wanted)?;
        }
        Ok(dtype)
    }

    #[cold]
    fn differs_in_shape(&self, key: Key<'_, 'py>, shape: &[isize]) -> PyErr {
        let what = if self.excerpts.are_whole() { "shape" } else { "row shape" };
        let (mine, theirs) = (show(shape), show(self.excerpts.first_row_shape()));
        let what = format!("{what} {mine} differs from {theirs} of member {}", self.first());
        PyValueError::new_err(message(self.lookup, key, what))
    }

    #[cold]
    fn differs_in_dtype(&self, key: Key<'_, 'py>, mine: &Bound<'py, PyArrayDescr>) -> PyErr {
        let theirs = self.dtype.as_ref().map_or_else(String::new, ToString::to_string);
        let first = self.first();
        let what = format!("dtype {mine} differs from {theirs} of member {first}; pass dtype= to convert");
        PyTypeError::new_err(message(self.lookup, key, what))
    }

    /// The name of the first member, to which all others have to fit.
    fn first(&self) -> String {
        self.keys.iter().next().map(|first| quoted(self.lookup, first)).unwrap_or_default()
    }

    /// Makes sure that items of one dtype can become items of another.
    fn check_casting(
        &self,
        key: Key<'_, 'py>,
        from: &Bound<'py, PyArrayDescr>,
        to: &Bound<'py, PyArrayDescr>,
    ) -> PyResult<()> {
        if array::can_become(from, to) {
            return Ok(());
        }
        let what = format!("dtype {from} cannot be converted to {to} by the rule \"same_kind\"");
        Err(PyTypeError::new_err(message(self.lookup, key, what)))
    }

    /// The array to copy to: that of the caller, if it fits, or a new one.
    fn out(&self, given: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let dtype = self.wanted.as_ref().or(self.dtype.as_ref());
        let shape = self.excerpts.shape();
        let Some(out) = given else {
            let dtype = dtype.filter(|_| self.dtype.is_some());
            let message = "cannot infer shape and dtype of an empty batch; pass out=";
            return array::empty(dtype.ok_or_else(|| PyValueError::new_err(message))?, &shape);
        };
        let path = self.lookup.shown().to_string_lossy();
        let Some(layout) = array::layout(out) else {
            let mut message = format!("{path}: out must be an array, got {}", out.get_type());
            // A tensor of PyTorch.
            if out.hasattr("numpy")? {
                message += ": pass out.numpy(), which has the same memory";
            }
            return Err(PyTypeError::new_err(message));
        };
        if !self.excerpts.can_be(layout.shape) {
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
        let overlaps = |extent: &Extent| {
            let mut held = self.held.values().filter_map(array::extent);
            self.lookup.map().overlaps(extent) || held.any(|held| held.overlaps(extent))
        };
        if array::extent(out).as_ref().is_some_and(overlaps) {
            let message =
                format!("{path}: out lies in the memory of the archive, from which a batch is copied");
            return Err(PyValueError::new_err(message));
        }
        Ok(out.clone())
    }

    /// A row of what pads.
    fn pad_row(&self, out: &Bound<'py, PyAny>, pad: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let dtype = array::layout(out).map(|layout| layout.dtype(self.lookup.py));
        let dtype = dtype.ok_or_else(|| PyTypeError::new_err("out must be an array"))?;
        // Behind the axes of excerpts and of rows.
        let row = array::empty(&dtype, self.excerpts.shape().get(2..).unwrap_or_default())?;
        row.set_item(PyEllipsis::get(self.lookup.py), pad)?;
        Ok(row)
    }

    /// Copies all to `out`, which has the shape and the dtype of the batch.
    fn copy(&self, out: &Bound<'py, PyAny>, pad: Option<&Bound<'py, PyAny>>, threads: usize) -> PyResult<()> {
        let (Some(dtype), Some(layout)) = (&self.dtype, array::layout(out)) else { return Ok(()) };
        let pad_row = pad.map(|pad| self.pad_row(out, pad)).transpose()?;
        let dtype = self.wanted.as_ref().unwrap_or(dtype);
        if self.odd || !layout.in_order || !layout.is_of(dtype) || array::itemsize(dtype) == 0 {
            return self.copy_by_numpy(out, pad_row.as_ref());
        }
        let room = self.excerpts.length() * self.excerpts.row_bytes();
        let row = pad_row.as_ref().and_then(array::layout);
        let row = row.map_or(&[][..], |row| {
            // SAFETY: a new array of the shape and the dtype of a row, in order, which nobody else has.
            unsafe { std::slice::from_raw_parts(row.start, self.excerpts.row_bytes()) }
        });
        // SAFETY: `add` has seen that the places lie in the map; no excerpt has more rows than
        // `length` says, and those that have less are padded by rows. `out` is an array of this shape and
        // of items of this size, in order, writeable and outside of the map (`Batch::out`), and lives as long
        // as this call. Whoever changes its
        // size or writes to it meanwhile does what NumPy does not allow for its own functions either, all of
        // which copy without the interpreter, too.
        let copying =
            unsafe { Copying::new(self.lookup.map(), self.excerpts.places(), room, row, layout.start) };
        let is_short =
            room * self.keys.len() < DETACH_FROM && !self.lookup.handle.file.snapshot.is_unmapped();
        let result = if is_short {
            copying.run(threads, &keep_going)
        } else {
            detached(self.lookup.py, || copying.run(threads, &keep_going))
        };
        let file = &self.lookup.handle.file;
        result.map_err(|(number, failure)| match number.and_then(|number| self.keys.iter().nth(number)) {
            Some(key) => file.member_err(self.lookup.py, failure, &name_of(self.lookup, key)),
            None => file.err(self.lookup.py, failure),
        })?;
        self.check_read()
    }

    /// Once excerpts were read of a file that is not mapped: makes sure that they are of these members.
    fn check_read(&self) -> PyResult<()> {
        let (py, file) = (self.lookup.py, &self.lookup.handle.file);
        if !file.snapshot.is_unmapped() {
            return Ok(());
        }
        let may_be_another = detached(py, || file.snapshot.may_be_another());
        if !may_be_another.map_err(|failure| file.err(py, failure))? {
            return Ok(());
        }
        for key in self.keys.iter() {
            let Some((member, name)) = self.lookup.named(key)? else { continue };
            let name = name.to_str()?;
            let checked = detached(py, || file.snapshot.check_read(&member, name));
            checked.map_err(|failure| file.member_err(py, failure, name))?;
        }
        Ok(())
    }

    /// Copies items that are not behind each other, or become others.
    fn copy_by_numpy(&self, out: &Bound<'py, PyAny>, pad_row: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = self.lookup.py;
        let slice = |start: usize, stop: usize| PySlice::new(py, start as isize, stop as isize, 1);
        let (is_whole, ranges) = (self.excerpts.are_whole(), self.excerpts.ranges());
        let file = &self.lookup.handle.file;
        let excerpt = |number: usize, key: Key<'_, 'py>, rows: &Range<usize>| {
            let excerpt = |view: &Bound<'py, PyAny>| {
                if is_whole { Ok(view.clone()) } else { view.get_item(slice(rows.start, rows.end)) }
            };
            match self.held.get(&number) {
                Some(view) => excerpt(view),
                None if !file.snapshot.reads_arrays() => with_view(self.lookup, key, |view, _| excerpt(view)),
                None => match self.lookup.named(key)? {
                    Some((member, name)) if !is_whole && !member.has_whole_name() => {
                        fresh::rows(py, file, &member, name.to_str()?, rows)
                    }
                    _ => excerpt(&self.lookup.access(key, false)?),
                },
            }
        };
        let mut all =
            self.keys.iter().zip(ranges).enumerate().map(|(number, (key, rows))| excerpt(number, key, rows));
        // What is read has memory of its own: there, only one is held at a time.
        let mut held = Vec::new();
        if !file.snapshot.reads_arrays() {
            held = all.by_ref().collect::<PyResult<_>>()?;
        }
        let excerpts = held.into_iter().map(Ok).chain(all);
        // All excerpts at once, not one after the other. Those of compressed members are in memory.
        let (map, places) = (self.lookup.map(), self.excerpts.places());
        let mapped: Vec<_> = places.iter().copied().filter(|&place| map.has(place)).collect();
        self.lookup.handle.file.fetch_cold(py, &mapped)?;
        let copy = py.import("numpy")?.getattr("copyto")?;
        let casting = [("casting", "same_kind")].into_py_dict(py)?;
        let length = self.excerpts.length();
        for (number, (excerpt, rows)) in excerpts.zip(ranges).enumerate() {
            let excerpt = excerpt?;
            if is_whole {
                copy.call((out.get_item((number, PyEllipsis::get(py)))?, excerpt), Some(&casting))?;
            } else {
                let rows = rows.len();
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

/// How a batch is to be made.
pub(crate) struct Making<'a, 'py> {
    pub(crate) out: Option<&'a Bound<'py, PyAny>>,
    pub(crate) dtype: Option<&'a Bound<'py, PyAny>>,
    pub(crate) pad: Option<&'a Bound<'py, PyAny>>,
    pub(crate) threads: Option<i64>,
}

/// A batch of excerpts.
pub(crate) fn gather<'py>(
    lookup: &BatchLookup<'py>,
    keys: &Keys<'py>,
    rows: Rows,
    making: &Making<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let threads = usize::try_from(making.threads.unwrap_or(1)).unwrap_or(0);
    if threads == 0 {
        return Err(PyValueError::new_err("threads must be 1 or more"));
    }
    let wanted = making.dtype.map(array::dtype_given).transpose()?;
    fetch_headers(lookup, keys)?;
    let batch = Batch::new(lookup, keys, rows, wanted, making.pad.is_some(), threads)?;
    let out = batch.out(making.out)?;
    batch.copy(&out, making.pad, threads)?;
    Ok(out)
}
