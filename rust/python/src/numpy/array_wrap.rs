//! `mmnpz.memmap.__array_wrap__`, which NumPy calls to give the result of a ufunc its final type.
//!
//! A ufunc on a few items takes half a microsecond. A Python method, which makes a view of the result, would
//! add half as much again.

use std::ffi::CStr;
use std::ptr;

use numpy::PyUntypedArray;
use numpy::npyffi::{PY_ARRAY_API, PyArrayObject, is_numpy_2};
use pyo3::exceptions::PyTypeError;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::PyTuple;
use pyo3::{ffi, intern, prelude::*};

/// The entry of the method in its type's table.
pub(crate) const METHOD: ffi::PyMethodDef = ffi::PyMethodDef {
    ml_name: c"__array_wrap__".as_ptr(),
    ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: array_wrap },
    ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
    ml_doc: DOC.as_ptr(),
};

/// `inspect.signature` reads the first two lines.
const DOC: &CStr = c"__array_wrap__($self, /, array, context=None, return_scalar=False)
--

Give the result of a function of this array its final type.

An output that is this array stays as it is. Another result becomes a plain array, or a scalar if NumPy wants one.";

const PARAMETERS: [&str; 3] = ["array", "context", "return_scalar"];

/// One for each of the parameters; `None` where the caller gives no value.
type Arguments<'a, 'py> = [Option<Borrowed<'a, 'py, PyAny>>; PARAMETERS.len()];

unsafe extern "C" fn array_wrap(
    view: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    positional: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: for METH_FASTCALL | METH_KEYWORDS Python calls this function with the interpreter attached, and
    // keeps what it passes alive: an instance of the type, `positional` values, and after them one value for
    // each string in the tuple `names`, or no more values if that is NULL. This function calls `value` with
    // no index beyond those.
    unsafe {
        let py = Python::assume_attached();
        let value = |index| Borrowed::from_ptr(py, *values.add(index));
        let positional = positional.unsigned_abs();
        let mut arguments = Arguments::default();
        for (index, argument) in arguments.iter_mut().enumerate().take(positional) {
            *argument = Some(value(index));
        }
        let mut complete = if positional > PARAMETERS.len() { Err(wrong_count(positional)) } else { Ok(()) };
        if let Some(names) = Borrowed::from_ptr_or_opt(py, names) {
            for (index, name) in names.cast_unchecked::<PyTuple>().iter_borrowed().enumerate() {
                complete = complete.and_then(|()| pass(&mut arguments, &name, value(positional + index)));
            }
        }
        let result = complete.and_then(|()| wrap(Borrowed::from_ptr(py, view), arguments));
        result.map_or_else(raise, Bound::into_ptr)
    }
}

/// Raises an error: sets it, and returns NULL.
#[cold]
fn raise(error: PyErr) -> *mut ffi::PyObject {
    // The error drops its message here. PyO3 counts how often it attached: attaching lets it drop the message
    // now instead of at some later call.
    Python::attach(|py| error.restore(py));
    ptr::null_mut()
}

/// Passes a value by the name of its parameter.
#[cold]
fn pass<'a, 'py>(
    arguments: &mut Arguments<'a, 'py>,
    name: &Bound<'py, PyAny>,
    value: Borrowed<'a, 'py, PyAny>,
) -> PyResult<()> {
    for (parameter, argument) in PARAMETERS.into_iter().zip(arguments) {
        if name.eq(parameter)? {
            return match argument.replace(value) {
                None => Ok(()),
                Some(_) => Err(PyTypeError::new_err(format!(
                    "__array_wrap__() got multiple values for argument '{parameter}'"
                ))),
            };
        }
    }
    Err(PyTypeError::new_err(format!("__array_wrap__() got an unexpected keyword argument '{name}'")))
}

#[cold]
fn wrong_count(positional: usize) -> PyErr {
    PyTypeError::new_err(format!("__array_wrap__() takes 1 to 3 arguments, not {positional}"))
}

/// NumPy 2 says whether a scalar is wanted. NumPy 1 makes every result without dimensions one.
#[inline]
fn wrap<'py>(
    view: Borrowed<'_, 'py, PyAny>,
    [array, _context, return_scalar]: Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = view.py();
    let Some(array) = array else {
        return Err(PyTypeError::new_err("__array_wrap__() missing required argument 'array'"));
    };
    if array.is(view) {
        // The output of a ufunc that the caller gave as `out`.
        return Ok(array.to_owned());
    }
    let wanted = return_scalar.map_or(Ok(false), |wanted| wanted.is_truthy())?;
    if array.get_type_ptr() != PyUntypedArray::type_object_raw(py) {
        return wrap_other(array, wanted);
    }
    // SAFETY: `array` has the type of ndarray, so its fields may be read, and Python keeps it alive through
    // this method. The call gets the item, the dtype and the array, as from NumPy's own indexing with `()`.
    unsafe {
        let PyArrayObject { nd, data, descr, .. } = *array.as_ptr().cast();
        if nd == 0 && (wanted || !is_numpy_2(py)) {
            let scalar = PY_ARRAY_API.PyArray_Scalar(py, data.cast(), descr, array.as_ptr());
            return Bound::from_owned_ptr_or_err(py, scalar);
        }
    }
    // NumPy made this array for the result. A view of it would cost time, and would not own its items.
    Ok(array.to_owned())
}

/// As [`wrap`], for a result that is no plain array: an instance of a subclass, or another object.
fn wrap_other<'py>(array: Borrowed<'_, 'py, PyAny>, wanted: bool) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let no_dimensions = PyTuple::empty(py);
    if wanted || (!is_numpy_2(py) && array.getattr(intern!(py, "shape"))?.eq(&no_dimensions)?) {
        return array.get_item(no_dimensions);
    }
    array.call_method1(intern!(py, "view"), (py.get_type::<PyUntypedArray>(),))
}
