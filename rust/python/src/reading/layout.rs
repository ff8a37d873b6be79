//! `info` and `layout`: what an archive tells of its arrays, without a view of each.

use numpy::{Element, PyArray1};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use mmnpz_file::columns::{Columns, Info};
use mmnpz_file::snapshot::Verify;
use mmnpz_format::npy::header::Header;
use mmnpz_format::npy::literal::Literal;

use crate::detach::detached;
use crate::error::{in_member, is_bad_member, keep_going};
use crate::numpy::array::{self, DType};
use crate::reading::reader::Reader;
use crate::views::unknown_name::unknown_name;

#[pyfunction]
#[doc = docstring!("_info")]
pub(crate) fn _info<'py>(
    reader: &Bound<'py, Reader>,
    name: &Bound<'py, PyAny>,
    touches_members: bool,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = reader.py();
    let file = reader.get().file(py)?;
    let text = name.cast::<PyString>().ok().and_then(|name| name.to_str().ok());
    let Some(text) = text else {
        name.hash()?;
        return Err(unknown_name(&file, name));
    };
    let found = file.find(py, text, true)?;
    let (member, text) = found.ok_or_else(|| unknown_name(&file, name))?;
    if !touches_members && !file.lookup().has_array_field(file.window(), &member, text) {
        return Ok(None);
    }
    let of = |verify: Verify<'_>| {
        Info::of(&file.snapshot, &member, text, file.max_header_size, verify, &keep_going)
    };
    let facts = if member.is_compressed() || file.snapshot.is_unmapped() {
        // To decompress a header can take any time, and so can the disk.
        detached(py, || of(&|| Python::attach(|py| file.verify(py))))
    } else {
        of(&|| file.verify(py))
    };
    let Info { header, offset, room, compress_type, compress_size, crc } =
        facts.map_err(|failure| file.member_err(py, failure, text))?;
    let (dtype, nbytes) = dtype_and_size(py, &header, room)
        .map_err(|error| in_member(py, file.snapshot.shown(), text, error))?;
    let shape = PyTuple::new(py, &header.shape.0)?;
    let order = header.fortran_order;
    let fields = (text, dtype, shape, order, nbytes, offset, compress_type, compress_size, crc);
    Ok(Some(fields.into_pyobject(py)?))
}

/// The dtype of an array, and how many bytes its items take.
fn dtype_and_size<'py>(
    py: Python<'py>,
    header: &Header<'_>,
    room: u64,
) -> PyResult<(Bound<'py, PyAny>, u64)> {
    array::with_dtype(py, &header.descr, |dtype| {
        let size = array::data_len(header, room, dtype)?;
        Ok((dtype.object(py).0, size))
    })
}

#[pyfunction]
#[doc = docstring!("_layout")]
pub(crate) fn _layout<'py>(reader: &Bound<'py, Reader>) -> PyResult<Bound<'py, PyTuple>> {
    let py = reader.py();
    let file = reader.get().file(py)?;
    file.verify_or_err(py)?;
    let made = detached(py, || {
        let verify = || Python::attach(|py| file.verify(py));
        Columns::new(&file.snapshot, file.max_header_size, &verify, &keep_going)
    });
    let mut columns = made.map_err(|failure| file.err(py, failure))?;
    let (dtypes, by_dtype) = (PyList::empty(py), PyDict::new(py));
    let mut codes = Vec::with_capacity(columns.descrs.len());
    for descr in &columns.descrs {
        let Some((dtype, size, is_of_items)) = known_dtype(py, descr)? else {
            codes.push(None);
            continue;
        };
        // One dtype can have several descriptions.
        let code = if let Some(code) = by_dtype.get_item(&dtype)? {
            code.extract()?
        } else {
            let code = i32::try_from(dtypes.len())?;
            by_dtype.set_item(&dtype, code)?;
            dtypes.append(dtype)?;
            code
        };
        codes.push(Some((code, size, is_of_items)));
    }
    detached(py, || columns.set_dtypes(&codes));
    let Columns { dtype, ndim, length, items, offset, compress_type, compress_size, crc, .. } = columns;
    let columns = [
        dtypes.into_any(),
        column(py, dtype),
        column(py, ndim),
        column(py, length),
        column(py, items),
        column(py, offset),
        column(py, compress_type),
        column(py, compress_size),
        column(py, crc),
    ];
    PyTuple::new(py, columns)
}

/// A dtype, its item size, and whether arrays with items can have it. None if no array can, as for objects.
fn known_dtype<'py>(
    py: Python<'py>,
    descr: &Literal<'_>,
) -> PyResult<Option<(Bound<'py, PyAny>, u64, bool)>> {
    let known = array::with_dtype(py, descr, |dtype: &DType| {
        let (object, size) = dtype.object(py);
        Ok((object, size, dtype.is_of_items()))
    });
    match known {
        Ok(known) => Ok(Some(known)),
        Err(error) if is_bad_member(py, &error) || error.is_instance_of::<PyTypeError>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

fn column<T: Element>(py: Python<'_>, column: Vec<T>) -> Bound<'_, PyAny> {
    PyArray1::from_vec(py, column).into_any()
}
