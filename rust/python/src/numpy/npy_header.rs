//! An array that a program writes: its `.npy` header, and where its items are.

use std::cell::Cell;
use std::ffi::CString;
use std::sync::{Arc, PoisonError, RwLock};

use numpy::npyffi::NPY_TYPES;
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyUserWarning, PyValueError};
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyType};

use crate::numpy::array::{descr_to_dtype, is_plain};
use mmnpz_file::items::Items;
use mmnpz_format::additions::array_field::{ArrayField, Described};
use mmnpz_format::npy::header;

/// The most dtypes whose descriptions are kept as text. Programs write a handful.
const MAX_DESCRIPTIONS: usize = 32;

static AS_ANY_ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static DTYPE_TO_DESCR: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn as_any_array(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    AS_ANY_ARRAY.import(py, "numpy", "asanyarray")
}

fn dtype_to_descr(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    DTYPE_TO_DESCR.import(py, "numpy.lib.format", "dtype_to_descr")
}

/// Looks up what this module needs of NumPy, when the compiled module is imported; see `array::look_up`.
pub(crate) fn look_up(py: Python<'_>) -> PyResult<()> {
    as_any_array(py)?;
    dtype_to_descr(py)?;
    numpy_leaves_room(py)?;
    Ok(())
}

/// An array of any object, as `numpy.asanyarray` makes it.
pub(crate) fn as_array<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if let Ok(array) = object.cast_exact::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    if let Ok(array) = object.cast::<PyUntypedArray>() {
        warn_of_mask(array)?;
        return Ok(array.clone());
    }
    Ok(as_any_array(object.py())?.call1((object,))?.cast_into::<PyUntypedArray>()?)
}

/// The items of `array`. The caller must keep the array as long as it uses them.
pub(crate) fn items<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<Items<'a>> {
    some_items(array, array.is_c_contiguous() || array.is_fortran_contiguous())
}

fn some_items<'a>(array: &'a Bound<'_, PyUntypedArray>, is_contiguous: bool) -> PyResult<Items<'a>> {
    // SAFETY: the pointer leads to a live array; this copies the address of its first item.
    let start = unsafe { (*array.as_array_ptr()).data }.cast_const().cast();
    // SAFETY: NumPy vouches for the shape and the strides. The caller keeps the array, and so its memory.
    let items =
        unsafe { Items::new(start, array.dtype().itemsize(), array.shape(), array.strides(), is_contiguous) };
    items.ok_or_else(|| PyTypeError::new_err("the array is larger than the address space"))
}

/// The items of `array` in C order, whatever order they lie in. The caller must keep the array as long as it
/// uses them.
pub(crate) fn items_in_order<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<Items<'a>> {
    some_items(array, array.is_c_contiguous())
}

/// The `.npy` header of all arrays of one dtype, order and shape.
#[derive(Default)]
pub(crate) struct NpyHeader {
    pub(crate) bytes: Vec<u8>,
    /// The array field for the directory, which repeats the header.
    pub(crate) array_field: Option<ArrayField>,
    descr: Option<Description>,
    fortran_order: bool,
    pub(crate) shape: Vec<u64>,
}

thread_local! {
    /// The header that a thread used last. Programs write many arrays with the same header, or of one dtype.
    /// To make a header anew takes as long as to copy some kilobytes.
    static LAST: Cell<Option<Box<NpyHeader>>> = const { Cell::new(None) };
}

/// The `.npy` header of an array, byte for byte as `numpy.save` of the NumPy in use writes it.
pub(crate) fn npy_header(array: &Bound<'_, PyUntypedArray>) -> PyResult<Box<NpyHeader>> {
    let mut header = LAST.try_with(Cell::take).ok().flatten().unwrap_or_default();
    header.describe(array)?;
    Ok(header)
}

impl NpyHeader {
    /// Makes this the header of an array.
    fn describe(&mut self, array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
        let py = array.py();
        // SAFETY: the pointer leads to a live array; this copies the address of its dtype, and reads nothing
        // of the dtype.
        let dtype = unsafe { (*array.as_array_ptr()).descr } as usize;
        let of_dtype = self.descr.take().filter(|descr| descr.kept == Some(dtype));
        if of_dtype.is_some() && self.has_layout_of(array) {
            self.descr = of_dtype;
            return Ok(());
        }
        // Python code runs in here, and can change the array: what else is read of it is read behind this.
        let described = array.dtype();
        let descr = of_dtype.map_or_else(|| description(&described), Ok)?;
        self.fortran_order = is_fortran(array);
        self.shape.clear();
        self.shape.extend(array.shape().iter().map(|&dimension| dimension as u64));
        if self.encode(py, &descr, numpy_leaves_room(py)?)? {
            self.descr = Some(descr);
        }
        if array.dtype().is(&described) && self.has_layout_of(array) {
            return Ok(());
        }
        self.descr = None;
        Err(PyValueError::new_err("the array was changed while it was written"))
    }

    /// The header of an array of this dtype, shape and order that does not exist yet.
    pub(crate) fn of(
        dtype: &Bound<'_, PyArrayDescr>,
        fortran_order: bool,
        shape: Vec<u64>,
    ) -> PyResult<Self> {
        // NumPy says C order where both orders hold.
        let is_line = shape.contains(&0) || shape.iter().filter(|&&dimension| dimension > 1).count() <= 1;
        let (py, descr) = (dtype.py(), description(dtype)?);
        let mut header = NpyHeader { shape, fortran_order: fortran_order && !is_line, ..Self::default() };
        header.encode(py, &descr, numpy_leaves_room(py)?)?;
        Ok(header)
    }

    /// Makes the bytes, and what the directory repeats of them, where `growth` with room for a longer
    /// dimension. Says whether NumPy of any version reads them; else warns.
    fn encode(&mut self, py: Python<'_>, descr: &Description, growth: bool) -> PyResult<bool> {
        header::encode_to(&mut self.bytes, &descr.text, self.fortran_order, &self.shape, growth)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let header = self.bytes.len();
        self.array_field = ArrayField::new(&Described {
            descr: &descr.text,
            fortran_order: self.fortran_order,
            shape: &self.shape,
            header,
        });
        let message = match self.bytes[6] {
            1 => return Ok(true),
            2 => c_str!("the header needs .npy format 2.0, which NumPy reads since 1.9"),
            _ => c_str!("the header needs .npy format 3.0, which NumPy reads since 1.17"),
        };
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), message, 1)?;
        Ok(false)
    }

    /// Whether an array has the shape and the order of the one that this is the header of.
    fn has_layout_of(&self, array: &Bound<'_, PyUntypedArray>) -> bool {
        let shape = array.shape().iter().map(|&dimension| dimension as u64);
        self.fortran_order == is_fortran(array) && shape.eq(self.shape.iter().copied())
    }

    /// Keeps the header for the next array of this thread.
    pub(crate) fn keep(self: Box<Self>) {
        let _ = LAST.try_with(|last| last.set(Some(self)));
    }
}

/// Whether an array is stored in Fortran order. NumPy says C order where both orders hold.
fn is_fortran(array: &Bound<'_, PyUntypedArray>) -> bool {
    array.is_fortran_contiguous() && !array.is_c_contiguous()
}

/// The description of a dtype, as it stands in a header.
struct Description {
    /// Python source.
    text: Arc<str>,
    /// The address of the dtype, if the dtype is kept as long as the process lives: no other dtype can then
    /// get this address.
    kept: Option<usize>,
}

/// The description of a dtype as Python source.
pub(crate) fn description_of(dtype: &Bound<'_, PyArrayDescr>) -> PyResult<Arc<str>> {
    Ok(description(dtype)?.text)
}

fn description(dtype: &Bound<'_, PyArrayDescr>) -> PyResult<Description> {
    type Known = RwLock<Vec<(Py<PyArrayDescr>, Arc<str>)>>;
    static KNOWN: Known = RwLock::new(Vec::new());
    {
        // Only pointers are compared while the lock is held.
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = known.iter().find(|(other, _)| other.is(dtype)) {
            return Ok(Description { text: Arc::clone(text), kept: Some(dtype.as_ptr() as usize) });
        }
    }
    let py = dtype.py();
    if !is_plain(dtype) {
        return Err(PyValueError::new_err(format!(
            "arrays of dtype {dtype} cannot be written without pickling"
        )));
    }
    if dtype.has_object() {
        return Err(PyValueError::new_err("object arrays cannot be written: that would need pickling"));
    }
    let descr = dtype_to_descr(py)?.call1((dtype,))?;
    let text: Arc<str> = descr.repr()?.to_str()?.into();
    if !is_numpys(dtype)? {
        warn_of_raw_bytes(dtype, &descr)?;
        // Not kept: the next array warns, too.
        return Ok(Description { text, kept: None });
    }
    // Most programs make dtypes with fields anew. Dtypes may carry metadata, about which NumPy warns each
    // time.
    let mut kept = None;
    if !dtype.has_fields() && dtype.getattr("metadata")?.is_none() {
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_DESCRIPTIONS {
            known.push((dtype.clone().unbind(), Arc::clone(&text)));
            kept = Some(dtype.as_ptr() as usize);
        }
    }
    Ok(Description { text, kept })
}

/// Whether all types in a dtype are those of NumPy itself: packages such as ml_dtypes register others, whose
/// names an `.npy` header cannot tell.
fn is_numpys(dtype: &Bound<'_, PyArrayDescr>) -> PyResult<bool> {
    if dtype.has_subarray() {
        return is_numpys(&dtype.base());
    }
    if dtype.has_fields() {
        for field in dtype.getattr("fields")?.call_method0("values")?.try_iter()? {
            if !is_numpys(&field?.get_item(0)?.cast_into()?)? {
                return Ok(false);
            }
        }
    }
    Ok(dtype.num() < NPY_TYPES::NPY_USERDEF as i32)
}

/// Warns that a dtype with types of another package comes back as raw bytes.
///
/// # Errors
/// If not even the bytes come back, because NumPy does not take the description for a dtype. An error of the
/// warning, if the program asks for one.
#[cold]
fn warn_of_raw_bytes(dtype: &Bound<'_, PyArrayDescr>, descr: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = dtype.py();
    let back = descr_to_dtype(py)?.call1((descr,)).map_err(|cause| {
        let error = PyValueError::new_err(format!(
            "arrays of dtype {dtype} cannot be written: the .npy header would say {descr}, which NumPy cannot read"
        ));
        error.set_cause(py, Some(cause));
        error
    })?;
    let message = format!(
        "dtype {dtype} is stored as raw bytes (dtype {back}), as numpy.save stores it; \
         after loading, .view({dtype}) gives the array back"
    );
    PyErr::warn(py, &py.get_type::<PyUserWarning>(), &CString::new(message)?, 1)
}

/// Whether a mask, which has the fields of its array, masks anything.
fn is_any_masked(mask: &Bound<'_, PyAny>) -> PyResult<bool> {
    let names = mask.getattr("dtype")?.getattr("names")?;
    if names.is_none() {
        return mask.call_method0("any")?.is_truthy();
    }
    for name in names.try_iter()? {
        if is_any_masked(&mask.get_item(name?)?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Warns of a masked array, of which only the data is stored.
fn warn_of_mask(array: &Bound<'_, PyUntypedArray>) -> PyResult<()> {
    static MASKED_ARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = array.py();
    let masked = MASKED_ARRAY.import(py, "numpy.ma", "MaskedArray")?;
    if array.is_instance(masked)? && is_any_masked(&array.getattr("mask")?)? {
        let message = c"the mask of a masked array is not stored; array.filled() chooses what is";
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), message, 1)?;
    }
    Ok(())
}

/// Whether the NumPy in use leaves room in a header for a longer dimension. NumPy 1.23 does not.
fn numpy_leaves_room(py: Python<'_>) -> PyResult<bool> {
    static ANSWER: PyOnceLock<bool> = PyOnceLock::new();
    ANSWER
        .get_or_try_init(py, || {
            // A header of 128 bytes without the room, and 192 bytes with it.
            let descr = "x".repeat(60);
            let header = PyDict::new(py);
            header.set_item("descr", &descr)?;
            header.set_item("fortran_order", false)?;
            header.set_item("shape", (1,))?;
            let file = py.import("io")?.call_method0("BytesIO")?;
            py.import("numpy.lib.format")?.call_method1("write_array_header_1_0", (&file, header))?;
            Ok(file.call_method0("tell")?.extract::<usize>()? > 128)
        })
        .copied()
}
