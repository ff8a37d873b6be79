//! The C half of `data[name]`.
//!
//! Where there is a dict of all views that are kept, such a lookup is one in that dict and nothing else, of
//! some thirty nanoseconds. What the binding does around each method (it looks at the types, counts how often
//! it was entered, and catches panics) takes another third of that, and so comes in only for what is not in
//! the dict.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::numpy::slot_type;
use crate::reading::reader::Reader;
use crate::views::view_cache::DICT_FIRST;

/// Makes the type `DirectReader`, which is `Reader` with this in place of its `__getitem__`.
pub(crate) fn make_type(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let reader = py.get_type::<Reader>();
    if !DICT_FIRST {
        return Ok(reader.into_any());
    }
    // SAFETY: the type of this slot is that of `SUBSCRIPT`, and the class lives as long as the process.
    let function = unsafe { slot_type::function(reader.as_type_ptr(), ffi::Py_mp_subscript) };
    let Some(function) = function else {
        return Err(PySystemError::new_err("Reader cannot be indexed"));
    };
    SUBSCRIPT.get_or_init(|| function);
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_mp_subscript, pfunc: subscript as *mut c_void },
        ffi::PyType_Slot { slot: 0, pfunc: ptr::null_mut() },
    ];
    // SAFETY: functions of this module that have the types of their slots, and zero.
    unsafe { slot_type::make(&reader, c"mmnpz._mmnpz.DirectReader", &mut slots) }
}

/// The `__getitem__` of the binding.
static SUBSCRIPT: OnceLock<ffi::binaryfunc> = OnceLock::new();

unsafe extern "C" fn subscript(reader: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: called by Python, and so attached, with an instance of the type above, which Python sees to.
    // That is an instance of `Reader`, as its base. The dict is kept while it is looked into, which can run
    // code of its keys that closes the reader. The function is that of the slot this one is in place of, with
    // the same arguments.
    unsafe {
        let py = Python::assume_attached();
        let dict = Borrowed::from_ptr(py, reader).cast_unchecked::<Reader>().get().first(py);
        if let Some(dict) = dict {
            let view = ffi::PyDict_GetItemWithError(dict.as_ptr(), name);
            if !view.is_null() {
                return ffi::Py_NewRef(view);
            }
            if !ffi::PyErr_Occurred().is_null() {
                return view;
            }
        }
        // The type is made after that is set.
        SUBSCRIPT.get().map_or(ptr::null_mut(), |others| others(reader, name))
    }
}
