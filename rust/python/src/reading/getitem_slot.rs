//! The C half of `data[name]`.
//!
//! With a global interpreter lock, a dict has all views that are kept. Then `data[name]` is a lookup in this
//! dict and nothing else, which takes some thirty nanoseconds. PyO3 checks types, counts how often it was
//! entered, and catches panics around each method. That takes another ten, and so happens only for a name
//! that is not in the dict.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::numpy::slot_type;
use crate::reading::reader::Reader;
use crate::views::view_cache::DICT_FIRST;

/// Makes the type `DirectReader`: a `Reader` with `subscript` in place of its `__getitem__`.
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
    // SAFETY: `subscript` is static and has the type of its slot. The last slot is zero.
    unsafe { slot_type::make(&reader, c"mmnpz._mmnpz.DirectReader", &mut slots) }
}

/// The `__getitem__` of `Reader`, which PyO3 made.
static SUBSCRIPT: OnceLock<ffi::binaryfunc> = OnceLock::new();

unsafe extern "C" fn subscript(reader: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: Python calls this attached, with an instance of the type above, whose base is `Reader`. This
    // function holds a reference to the dict: the lookup can run code of a key, which may close the reader.
    // `others` is the function of the same slot of the base, and gets the same arguments.
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
        // Set before the type is made.
        SUBSCRIPT.get().map_or(ptr::null_mut(), |others| others(reader, name))
    }
}
