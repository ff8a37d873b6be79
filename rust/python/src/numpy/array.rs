//! NumPy views and dtypes: from the header of a member to an array over the map.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::ptr;
use std::sync::{PoisonError, RwLock};

use foldhash::fast::FixedState;
use numpy::npyffi::{
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_CASTING, PY_ARRAY_API,
    PyArray_Descr, PyArrayObject, npy_intp,
};
use numpy::{
    PyArray1, PyArrayDescr, PyArrayDescrMethods, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::exceptions::{
    PyArithmeticError, PyAttributeError, PyLookupError, PyMemoryError, PyOverflowError, PyRecursionError,
    PySyntaxError, PyTypeError, PyValueError,
};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyList, PyString, PyTuple, PyType};

use crate::mapping::Mapping;
use mmnpz_file::columns::MAX_AXES;
use mmnpz_file::items::Extent;
use mmnpz_format::npy::header::Header;
use mmnpz_format::npy::literal::Literal;
use mmnpz_format::read::lookup::LocatedArray;

/// The most descriptions whose dtypes are kept. Real files have a handful; forged files get no more.
const MAX_DTYPES: usize = 1024;

/// A dtype of which arrays can be mapped.
#[derive(Debug)]
pub(crate) struct DType {
    dtype: Py<PyArrayDescr>,
    /// Bytes per item.
    pub(crate) itemsize: u64,
    /// Whether it is `S0` or `U0`: NumPy's C interface would make such items larger than zero bytes.
    empty_string: bool,
    /// For a sub-array dtype: how many base items one item is.
    subarray: Option<u64>,
}

impl DType {
    /// The object, and the size of an item in bytes; for a sub-array dtype, those of its base.
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> (Bound<'py, PyAny>, u64) {
        (self.dtype.bind(py).clone().into_any(), self.itemsize)
    }

    /// Whether arrays that are not empty can have this dtype.
    pub(crate) fn is_of_items(&self) -> bool {
        self.subarray.is_none_or(|items| items == 1)
    }
}

/// A dtype that is kept for as long as the process lives, with its description.
struct Kept {
    descr: Literal<'static>,
    dtype: DType,
}

/// Dtypes by their descriptions, process-wide: making one takes microseconds.
static DTYPES: RwLock<Option<HashMap<Literal<'static>, &'static Kept, FixedState>>> = RwLock::new(None);

thread_local! {
    /// The dtype that a thread asked for last. Most archives have one dtype: threads then wait for each other
    /// neither to count references to it, nor for the lock of the map.
    static LAST: Cell<Option<&'static Kept>> = const { Cell::new(None) };
}

/// Calls `with` with the dtype of a header, or raises why no array of this dtype can be mapped.
pub(crate) fn with_dtype<R>(
    py: Python<'_>,
    descr: &Literal<'_>,
    with: impl FnOnce(&DType) -> PyResult<R>,
) -> PyResult<R> {
    if let Some(last) = LAST.get().filter(|last| last.descr == *descr) {
        return with(&last.dtype);
    }
    let kept = {
        // No Python code runs while the lock is held: it only guards the map.
        let dtypes = DTYPES.read().unwrap_or_else(PoisonError::into_inner);
        dtypes.as_ref().and_then(|dtypes| dtypes.get(descr).copied())
    };
    if let Some(kept) = kept {
        LAST.set(Some(kept));
        return with(&kept.dtype);
    }
    let (dtype, has_fields) = make_dtype(py, descr)?;
    if has_fields {
        // Not kept: a program can rename the fields, for all arrays that share the dtype.
        return with(&dtype);
    }
    let mut dtypes = DTYPES.write().unwrap_or_else(PoisonError::into_inner);
    let known = dtypes.get_or_insert_default();
    // A dtype that another thread put there meanwhile stays.
    if known.len() < MAX_DTYPES && !known.contains_key(descr) {
        let descr = descr.clone().into_owned();
        let kept: &'static Kept = Box::leak(Box::new(Kept { descr: descr.clone(), dtype }));
        known.insert(descr, kept);
        drop(dtypes);
        return with(&kept.dtype);
    }
    drop(dtypes);
    with(&dtype)
}

static DESCR_TO_DTYPE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

pub(crate) fn descr_to_dtype(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    DESCR_TO_DTYPE.import(py, "numpy.lib.format", "descr_to_dtype")
}

/// Looks up what this module needs of NumPy, when the compiled module is imported: a fork in the middle of a
/// first use would leave the child waiting for a thread that it does not have.
pub(crate) fn look_up(py: Python<'_>) -> PyResult<()> {
    // Has rust-numpy look up the C interface and the version of NumPy, too.
    numpy::dtype::<u8>(py).itemsize();
    descr_to_dtype(py).map(|_| ())
}

/// A dtype, and whether it has fields.
fn make_dtype(py: Python<'_>, descr: &Literal<'_>) -> PyResult<(DType, bool)> {
    let convert = descr_to_dtype(py)?;
    let dtype = convert.call1((to_python(py, descr)?,)).map_err(|cause| {
        if !is_refusal(py, &cause) {
            return cause; // raised by a signal handler
        }
        // NumPy raises TypeError, SyntaxError, KeyError and others here, all for the same reason.
        let error = PyValueError::new_err(format!("bad .npy header: the descr is not a dtype ({cause})"));
        error.set_cause(py, Some(cause));
        error
    })?;
    let dtype = dtype.cast_into::<PyArrayDescr>()?;
    if !is_plain(&dtype) {
        return Err(PyValueError::new_err(format!("arrays of dtype {dtype} cannot be mapped")));
    }
    if dtype.has_object() {
        return Err(PyValueError::new_err(
            "object arrays cannot be mapped; numpy.load with allow_pickle=True reads them",
        ));
    }
    let subarray = dtype.has_subarray().then(|| dtype.shape().iter().map(|&n| n as u64).product());
    let dtype = if subarray.is_some() { dtype.base() } else { dtype };
    let itemsize = dtype.itemsize() as u64;
    let empty_string = itemsize == 0 && matches!(dtype.kind(), b'S' | b'U');
    let has_fields = dtype.has_fields();
    Ok((DType { itemsize, empty_string, subarray, dtype: dtype.unbind() }, has_fields))
}

/// Whether a dtype is of a kind from before NumPy 2: its items lie in the array itself, or are objects.
/// Strings of variable width, and dtypes that other packages make in the new way, are not.
pub(crate) fn is_plain(dtype: &Bound<'_, PyArrayDescr>) -> bool {
    /// `NPY_VSTRING` of NumPy 2.
    const FIRST_NEW: c_int = 2056;
    (0..FIRST_NEW).contains(&dtype.num())
}

/// Whether NumPy refuses the description of a dtype by this exception.
fn is_refusal(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyLookupError>(py)
        || error.is_instance_of::<PySyntaxError>(py)
        || error.is_instance_of::<PyAttributeError>(py)
        || error.is_instance_of::<PyArithmeticError>(py)
        || error.is_instance_of::<PyMemoryError>(py)
        || error.is_instance_of::<PyRecursionError>(py)
}

/// The Python object of a literal.
fn to_python<'py>(py: Python<'py>, literal: &Literal<'_>) -> PyResult<Bound<'py, PyAny>> {
    let all =
        |items: &[Literal<'_>]| items.iter().map(|item| to_python(py, item)).collect::<PyResult<Vec<_>>>();
    Ok(match literal {
        Literal::Str(text) => PyString::new(py, text).into_any(),
        Literal::Int(number) => PyInt::new(py, *number).into_any(),
        Literal::Tuple(items) => PyTuple::new(py, all(items)?)?.into_any(),
        Literal::List(items) => PyList::new(py, all(items)?)?.into_any(),
    })
}

/// A one-dimensional array of type `array_type` over all bytes of a map.
pub(crate) fn whole_map<'py>(
    mapping: &Bound<'py, Mapping>,
    array_type: &Bound<'py, PyType>,
) -> PyResult<Bound<'py, PyAny>> {
    let dtype = numpy::dtype::<u8>(mapping.py());
    let map = &mapping.get().map;
    let dimensions = &mut [dimension(map.bytes().len() as u64)?];
    let flags = if map.is_writable() { NPY_ARRAY_WRITEABLE } else { 0 };
    // SAFETY: the bytes are those of the map, and the mapping owns that memory.
    unsafe { new_view(array_type, dtype, dimensions, flags, map.start(), mapping.as_any()) }
}

/// Makes sure that the items of an array fit the `stored` bytes behind its header, and says how many bytes
/// they are.
pub(crate) fn data_len(header: &Header<'_>, stored: u64, dtype: &DType) -> PyResult<u64> {
    let length = header.data_len(dtype.itemsize, stored);
    let length = length.map_err(|error: mmnpz_format::Error| PyValueError::new_err(error.to_string()))?;
    let shape = &header.shape.0;
    if let Some(items) = dtype.subarray.filter(|&items| items != 1 && !shape.contains(&0)) {
        let message = format!("the shape and a dtype with {items} elements in each item do not fit");
        return Err(PyValueError::new_err(message));
    }
    if shape.len() > MAX_AXES {
        let message =
            format!("the array has {} dimensions, and NumPy's have at most {MAX_AXES}", shape.len());
        return Err(PyValueError::new_err(message));
    }
    Ok(length)
}

/// Memory that has arrays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory<'a> {
    pub(crate) bytes: &'a [u8],
    /// Whether programs may write to it.
    pub(crate) is_writable: bool,
}

/// An array over a part of `memory`, which the array `mmap` has for as long as it lives: the map, or the
/// bytes of a member that was decompressed.
pub(crate) fn map_array<'py>(
    memory: Memory<'_>,
    mmap: &Bound<'py, PyAny>,
    array_type: &Bound<'py, PyType>,
    LocatedArray { header, offset, stored }: &LocatedArray<'_>,
    dtype: &DType,
) -> PyResult<Bound<'py, PyAny>> {
    let py = mmap.py();
    // Less than the length of the map, which is a usize.
    let offset = *offset as usize;
    let length = data_len(header, *stored, dtype)?;
    if dtype.empty_string {
        return empty_strings(mmap, array_type, header, dtype, offset);
    }
    let is_inside = |bytes: usize| offset.checked_add(bytes).is_some_and(|end| end <= memory.bytes.len());
    if !usize::try_from(length).is_ok_and(is_inside) {
        return Err(PyValueError::new_err("the array reaches past the end of the file"));
    }
    let shape = &header.shape.0;
    let mut few = [0; 4];
    let mut many = Vec::new();
    let dimensions = if let Some(few) = few.get_mut(..shape.len()) {
        few
    } else {
        many.resize(shape.len(), 0);
        &mut many[..]
    };
    for (to, &from) in dimensions.iter_mut().zip(shape) {
        *to = dimension(from)?;
    }
    let start = memory.bytes.as_ptr().wrapping_add(offset);
    let order = if header.fortran_order { NPY_ARRAY_F_CONTIGUOUS } else { 0 };
    let flags = if memory.is_writable { order | NPY_ARRAY_WRITEABLE } else { order };
    // SAFETY: `length` is the product of the dimensions and the item size (zero if a dimension is zero), and
    // the check above says that this many bytes lie in the memory from `offset` on. The dtype holds no
    // references. `mmap` keeps the memory alive: its base, the mapping, or itself.
    unsafe { new_view(array_type, dtype.dtype.bind(py).clone(), dimensions, flags, start, mmap) }
}

fn dimension(number: u64) -> PyResult<npy_intp> {
    npy_intp::try_from(number).map_err(|_| PyValueError::new_err(format!("a dimension cannot be {number}")))
}

/// An array over memory that `base` owns, with these flags: of Fortran order, and writeable.
///
/// # Safety
/// The bytes of an array of this shape and dtype must lie at `data`, initialized, for as long as `base`
/// lives, and the dtype must not hold references to Python objects. With the WRITEABLE flag, programs may
/// write there. `array_type` must be ndarray or a subclass.
unsafe fn new_view<'py>(
    array_type: &Bound<'py, PyType>,
    dtype: Bound<'py, PyArrayDescr>,
    dimensions: &mut [npy_intp],
    flags: c_int,
    data: *const u8,
    base: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = base.py();
    // SAFETY: the pointers to dimensions and data are valid by this function's contract; without strides
    // NumPy computes those of the order in `flags`; without the WRITEABLE flag it never writes through
    // `data`. The call takes over the reference to the dtype, and SetBaseObject the reference to the base,
    // also when they fail.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            array_type.as_ptr().cast(),
            dtype.into_dtype_ptr(),
            dimensions.len() as c_int,
            dimensions.as_mut_ptr(),
            ptr::null_mut(),
            data.cast_mut().cast(),
            flags,
            ptr::null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        let base = base.clone().into_ptr();
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), base) < 0 {
            return Err(PyErr::fetch(py));
        }
        // A view refers to its dtype and its base, and neither refers back. So the garbage collector need not
        // track the view: with a million views, that saves a second in each collection, and a fifth of the
        // time to make them. `memmap::track` has the collector track a view whose attributes a program may
        // set.
        if ffi::PyType_GetFlags(array_type.as_type_ptr()) & ffi::Py_TPFLAGS_HAVE_GC != 0 {
            ffi::PyObject_GC_UnTrack(array.as_ptr().cast());
        }
        Ok(array)
    }
}

/// An array over memory that programs fill, and that `owner` has for as long as it lives.
///
/// # Safety
/// At `start` must be as many bytes as an array of this dtype and shape has, initialized, as long as `owner`
/// lives. Programs may write there.
pub(crate) unsafe fn filled_array<'py>(
    owner: &Bound<'py, PyAny>,
    dtype: &Bound<'py, PyArrayDescr>,
    shape: &[u64],
    fortran_order: bool,
    start: *mut u8,
) -> PyResult<Bound<'py, PyAny>> {
    let array_type = owner.py().get_type::<PyUntypedArray>();
    let mut dimensions = shape.iter().map(|&number| dimension(number)).collect::<PyResult<Vec<_>>>()?;
    let order = if fortran_order { NPY_ARRAY_F_CONTIGUOUS } else { 0 };
    let flags = order | NPY_ARRAY_WRITEABLE;
    // SAFETY: by contract. Whoever made the header of this dtype has seen that it has no references.
    unsafe { new_view(&array_type, dtype.clone(), &mut dimensions, flags, start, owner) }
}

/// Where the items of an array are, and in what order.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) start: *mut u8,
    pub(crate) shape: &'a [npy_intp],
    /// Whether the items lie one behind the other, the last axis fastest.
    pub(crate) in_order: bool,
    pub(crate) writeable: bool,
    dtype: *mut PyArray_Descr,
}

/// The size of an array without its items and its shape.
pub(crate) const HEADER: usize = size_of::<PyArrayObject>();

/// The layout of an array. None for another object. Valid only until Python code runs, which may resize or
/// reshape the array.
#[inline]
pub(crate) fn layout<'a>(array: &'a Bound<'_, PyAny>) -> Option<Layout<'a>> {
    let array = array.cast::<PyUntypedArray>().ok()?.as_array_ptr();
    // SAFETY: a live ndarray, whose fields may be read; it has `nd` dimensions, and no memory for them if
    // that is 0.
    unsafe {
        let PyArrayObject { nd, dimensions, data, flags, descr, .. } = *array;
        let shape = match usize::try_from(nd) {
            Ok(nd @ 1..) => std::slice::from_raw_parts(dimensions, nd),
            _ => &[],
        };
        Some(Layout {
            start: data.cast(),
            shape,
            in_order: flags & NPY_ARRAY_C_CONTIGUOUS != 0,
            writeable: flags & NPY_ARRAY_WRITEABLE != 0,
            dtype: descr,
        })
    }
}

/// Where the items of an array lie. None for another object, and for an array of no items.
pub(crate) fn extent(array: &Bound<'_, PyAny>) -> Option<Extent> {
    let start = layout(array)?.start.addr();
    let array = array.cast::<PyUntypedArray>().ok()?;
    Extent::new(start, array.dtype().itemsize(), array.shape(), array.strides())
}

impl Layout<'_> {
    /// The dtype of the items.
    pub(crate) fn dtype<'py>(&self, py: Python<'py>) -> Bound<'py, PyArrayDescr> {
        // SAFETY: the array, or the description, of this layout keeps its dtype alive.
        unsafe { Bound::from_borrowed_ptr(py, self.dtype.cast()).cast_into_unchecked() }
    }

    /// Whether the items are of a dtype, in the same byte order.
    #[inline]
    pub(crate) fn is_of(&self, dtype: &Bound<'_, PyArrayDescr>) -> bool {
        // Nearly always both are the same object, which all views share.
        self.dtype.cast() == dtype.as_ptr() || self.dtype(dtype.py()).is_equiv_to(dtype)
    }
}

/// An array that is in a file, and not in memory.
#[derive(Debug)]
pub(crate) struct Described {
    shape: Vec<npy_intp>,
    in_order: bool,
    dtype: Py<PyArrayDescr>,
    /// Where its items start in the file.
    pub(crate) offset: usize,
}

impl Described {
    /// What a header says.
    ///
    /// # Errors
    /// If the array does not fit into the member, or no array can have its dtype.
    pub(crate) fn new(
        py: Python<'_>,
        LocatedArray { header, offset, stored }: &LocatedArray<'_>,
    ) -> PyResult<Self> {
        let shape = &header.shape.0;
        let dtype = with_dtype(py, &header.descr, |dtype| {
            data_len(header, *stored, dtype)?;
            Ok(dtype.dtype.clone_ref(py))
        })?;
        // Less than the length of the file, which is a usize.
        let offset = *offset as usize;
        let long = shape.iter().filter(|&&count| count != 1).count();
        let in_order = !header.fortran_order || long < 2 || shape.contains(&0);
        let shape = shape.iter().map(|&count| dimension(count)).collect::<PyResult<_>>()?;
        Ok(Described { shape, in_order, dtype, offset })
    }

    /// Its layout, at no address.
    pub(crate) fn layout(&self) -> Layout<'_> {
        let Self { shape, in_order, dtype, .. } = self;
        let (start, dtype) = (std::ptr::null_mut(), dtype.as_ptr().cast());
        Layout { start, shape, in_order: *in_order, writeable: false, dtype }
    }
}

/// Whether items of one dtype can become items of another, by the default rule of `numpy.copyto`: numbers may
/// lose precision, but not become numbers of another kind.
pub(crate) fn can_become(from: &Bound<'_, PyArrayDescr>, to: &Bound<'_, PyArrayDescr>) -> bool {
    let casting = NPY_CASTING::NPY_SAME_KIND_CASTING;
    // SAFETY: the call reads two live dtypes, and keeps no reference.
    unsafe {
        PY_ARRAY_API.PyArray_CanCastTypeTo(from.py(), from.as_dtype_ptr(), to.as_dtype_ptr(), casting) != 0
    }
}

/// Bytes per item.
pub(crate) fn itemsize(dtype: &Bound<'_, PyArrayDescr>) -> usize {
    dtype.itemsize()
}

/// The dtype that a caller gives for a batch, if an array that is not made from its content can have it.
pub(crate) fn dtype_given<'py>(dtype: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArrayDescr>> {
    let dtype = PyArrayDescr::new(dtype.py(), dtype)?;
    if !is_plain(&dtype) || dtype.has_object() || dtype.has_subarray() {
        return Err(PyTypeError::new_err(format!("a batch cannot be of dtype {dtype}")));
    }
    if dtype.itemsize() == 0 && matches!(dtype.kind(), b'S' | b'U') {
        return Err(PyTypeError::new_err(format!("dtype {dtype} needs the number of characters")));
    }
    Ok(dtype)
}

/// The items of a one-dimensional array of `int64`. None for another object.
pub(crate) fn integers(array: &Bound<'_, PyAny>) -> Option<Vec<i64>> {
    let array = array.cast::<PyArray1<i64>>().ok()?.try_readonly().ok()?;
    Some(array.as_array().to_vec())
}

/// A new array, whose items are not initialized.
pub(crate) fn empty<'py>(dtype: &Bound<'py, PyArrayDescr>, shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    let py = dtype.py();
    let mut shape = shape.iter().map(|&number| dimension(number as u64)).collect::<PyResult<Vec<_>>>()?;
    // SAFETY: the number of dimensions is that of `shape`; the call takes over the reference to the dtype,
    // also when it fails.
    unsafe {
        let dtype = dtype.clone().into_dtype_ptr();
        let array = PY_ARRAY_API.PyArray_Empty(py, shape.len() as c_int, shape.as_mut_ptr(), dtype, 0);
        Bound::from_owned_ptr_or_err(py, array)
    }
}

/// A new array of so many zeros.
pub(crate) fn zeros(py: Python<'_>, count: usize) -> PyResult<Bound<'_, PyAny>> {
    let mut shape = [dimension(count as u64)?];
    // SAFETY: as in `empty`.
    unsafe {
        let dtype = numpy::dtype::<u8>(py).into_dtype_ptr();
        let array = PY_ARRAY_API.PyArray_Zeros(py, 1, shape.as_mut_ptr(), dtype, 0);
        Bound::from_owned_ptr_or_err(py, array)
    }
}

/// The items of an array that mmnpz reads start at a multiple of this.
const ALIGN: usize = 64;

/// A new array of zeros with `count` bytes behind those that are not used, and how many these are. The byte
/// at `data` of the others is aligned.
pub(crate) fn aligned(py: Python<'_>, count: usize, data: usize) -> PyResult<(Bound<'_, PyAny>, usize)> {
    let memory = zeros(py, with_room(count)?)?;
    let before = unused(&memory, data);
    Ok((memory, before))
}

/// As [`aligned`] with the first byte aligned, but the bytes are not initialized.
pub(crate) fn aligned_new(py: Python<'_>, count: usize) -> PyResult<(Bound<'_, PyAny>, usize)> {
    let memory = empty(&numpy::dtype::<u8>(py), &[with_room(count)?])?;
    let before = unused(&memory, 0);
    Ok((memory, before))
}

fn with_room(count: usize) -> PyResult<usize> {
    count.checked_add(ALIGN).ok_or_else(|| PyMemoryError::new_err("the array is too large"))
}

/// How many of the first bytes of an array are not used, if the byte at `data` behind them is to be aligned.
fn unused(memory: &Bound<'_, PyAny>, data: usize) -> usize {
    let start = layout(memory).map_or(0, |layout| layout.start.addr());
    (start + data).wrapping_neg() % ALIGN
}

/// Makes an array read-only that nobody else has.
pub(crate) fn make_read_only(array: &Bound<'_, PyAny>) {
    if layout(array).is_some() {
        // SAFETY: an array, as it has a layout, of which no other code reads the flags meanwhile.
        unsafe { (*array.as_ptr().cast::<PyArrayObject>()).flags &= !NPY_ARRAY_WRITEABLE };
    }
}

/// An array of `S0` or `U0`: only `ndarray.__new__` makes those.
fn empty_strings<'py>(
    mmap: &Bound<'py, PyAny>,
    array_type: &Bound<'py, PyType>,
    header: &Header<'_>,
    dtype: &DType,
    offset: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let py = mmap.py();
    let shape = PyTuple::new(py, &header.shape.0)?;
    let arguments = PyDict::new(py);
    arguments.set_item("dtype", &dtype.dtype)?;
    arguments.set_item("buffer", mmap)?;
    arguments.set_item("offset", offset)?;
    arguments.set_item("order", if header.fortran_order { "F" } else { "C" })?;
    let new = py.get_type::<PyUntypedArray>().getattr("__new__")?;
    new.call((array_type, shape), Some(&arguments)).map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(py) {
            PyValueError::new_err(error.value(py).to_string())
        } else {
            error
        }
    })
}
