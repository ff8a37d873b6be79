//! Types that are a copy of another type, with C functions in some of its slots. Python calls such a function
//! without a layer in between.

use std::ffi::{CStr, c_int, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

/// Makes a subclass of `base` with these slots, which Python code can subclass.
///
/// # Safety
/// Each slot must have a static function of its type, and the last one must be zero.
pub(crate) unsafe fn make<'py>(
    base: &Bound<'py, PyType>,
    name: &'static CStr,
    slots: &mut [ffi::PyType_Slot],
) -> PyResult<Bound<'py, PyAny>> {
    let py = base.py();
    let bases = PyTuple::new(py, [base])?;
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: 0, // inherited
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: spec and slots live through the call, which copies what it needs; the name is static, and so
    // are the functions, by contract; `bases` is a tuple of one type. NULL comes with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpecWithBases(&raw mut spec, bases.as_ptr())) }
}

/// The function that a type, or a base of it, has in a slot.
///
/// # Safety
/// `F` must be the function pointer type of `slot`, and `owner` a live type.
pub(crate) unsafe fn function<F: Copy>(owner: *mut ffi::PyTypeObject, slot: c_int) -> Option<F> {
    // SAFETY: PyType_GetSlot takes any live type, static ones since Python 3.10, and gives a function of the
    // slot's type, or NULL. A function pointer `F` has the size of the pointer that is copied.
    unsafe {
        let function = ffi::PyType_GetSlot(owner, slot);
        (!function.is_null()).then(|| std::mem::transmute_copy::<*mut c_void, F>(&function))
    }
}
