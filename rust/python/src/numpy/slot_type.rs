//! Types that are another one with some of its functions replaced by C functions: what Python calls through a
//! slot of the type pays for nothing in between.

use std::ffi::CStr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

/// Makes such a type, which can be subclassed in Python.
///
/// # Safety
/// Each slot has a static function of the type that it asks for, and the last one is zero.
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
