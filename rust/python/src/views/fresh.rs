//! Arrays that are read when they are asked for, each into memory of its own.

use std::mem::MaybeUninit;
use std::ops::Range;

use numpy::PyUntypedArray;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use mmnpz_format::read::lookup::LocatedArray;
use mmnpz_format::read::walked_index::Member;

use crate::detach::detached;
use crate::error::keep_going;
use crate::numpy::array::{self, Memory};
use crate::views::open_file::OpenFile;

/// A new array of a member that is not compressed.
pub(crate) fn array<'py>(
    py: Python<'py>,
    file: &OpenFile,
    member: &Member,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    read(py, file, member, name, file.locate(py, member, name)?)
}

/// A new array of some rows of a member that is not compressed. Only of an array in C order, they alone are
/// read.
pub(crate) fn rows<'py>(
    py: Python<'py>,
    file: &OpenFile,
    member: &Member,
    name: &str,
    rows: &Range<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let mut located = file.locate(py, member, name)?;
    let length = data_len(py, file, &located, (member, name))?;
    let header = &mut located.header;
    match header.shape.0.first_mut() {
        Some(count) if !header.fortran_order && *count > 0 && rows.end as u64 <= *count => {
            let row = length / *count;
            *count = rows.len() as u64;
            located.offset += rows.start as u64 * row;
            located.stored = rows.len() as u64 * row;
            read(py, file, member, name, located)
        }
        _ => {
            let slice = pyo3::types::PySlice::new(py, rows.start as isize, rows.end as isize, 1);
            read(py, file, member, name, located)?.get_item(slice)
        }
    }
}

/// How many bytes the items of an array are.
fn data_len(
    py: Python<'_>,
    file: &OpenFile,
    located: &LocatedArray<'_>,
    (member, name): (&Member, &str),
) -> PyResult<u64> {
    let length = array::with_dtype(py, &located.header.descr, |dtype| {
        array::data_len(&located.header, located.stored, dtype)
    });
    length.map_err(|error| file.unfit(py, member, name, error))
}

fn read<'py>(
    py: Python<'py>,
    file: &OpenFile,
    member: &Member,
    name: &str,
    located: LocatedArray<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    let snapshot = &file.snapshot;
    let too_large = || PyMemoryError::new_err("the array is too large");
    let length = usize::try_from(data_len(py, file, &located, (member, name))?).map_err(|_| too_large())?;
    let (memory, before) = array::aligned_new(py, length)?;
    let Some(layout) = array::layout(&memory) else { return Err(too_large()) };
    let start = layout.start.wrapping_add(before);
    // SAFETY: a new array of `length` bytes behind the first `before`, which nobody else has, and which
    // `memory` keeps.
    let out = unsafe { std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), length) };
    let read = detached(py, || {
        snapshot.read_new(located.offset, out, &keep_going)?;
        snapshot.check_read(member, name)
    });
    // Python does not get to see memory to which nothing was read: it is freed here.
    read.map_err(|failure| file.member_err(py, failure, name))?;
    // SAFETY: as above, and all of them were read.
    let bytes = unsafe { std::slice::from_raw_parts(start, length) };
    let located = LocatedArray { offset: 0, stored: length as u64, ..located };
    let array = array::with_dtype(py, &located.header.descr, |dtype| {
        let memory_of = Memory { bytes, is_writable: true };
        array::map_array(memory_of, &memory, &py.get_type::<PyUntypedArray>(), &located, dtype)
    });
    array.map_err(|error| file.unfit(py, member, name, error))
}
