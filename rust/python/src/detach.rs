//! Running without the interpreter, safe against its end.

use std::path::Path;

use mmnpz_file::Failure;
use pyo3::ffi;
use pyo3::marker::Ungil;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::exception;

/// Runs `work` detached from the interpreter.
///
/// When a program ends, Python before 3.14 ends a daemon thread that comes back to it by unwinding its stack
/// from C. Rust would take that for a bug in its handling of panics, and abort the process. Here the thread
/// stays where it is, as in Python 3.14.
pub(crate) fn detached<T: Ungil + Send>(py: Python<'_>, work: impl FnOnce() -> T + Ungil + Send) -> T {
    parked(|| run(py, work))
}

// SAFETY: the signature is that of the stable ABI of CPython.
unsafe extern "C-unwind" {
    /// That of CPython. As PyO3 declares it, it may not be unwound out of: where a thread ends in it, the
    /// stack then cannot be unwound any further, and the system aborts the process.
    #[link_name = "PyObject_CallObject"]
    fn call_object(callable: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// Calls a function of Python, in which a daemon thread may be when the program ends, as [`detached`] runs
/// work.
pub(crate) fn call_parked<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both are objects that this thread, which is attached, has references to.
    let result = parked(|| unsafe { call_object(function.as_ptr(), arguments.as_ptr()) });
    // SAFETY: a new reference; or null, and then there is an exception.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

fn parked<T>(work: impl FnOnce() -> T) -> T {
    let parked = ParkWhenUnwound;
    let result = call(work);
    std::mem::forget(parked);
    result
}

/// As [`detached`], for work on the file at `path`, which the exception for a failure names.
pub(crate) fn detached_on<T: Ungil + Send>(
    py: Python<'_>,
    path: &Path,
    work: impl FnOnce() -> Result<T, Failure> + Ungil + Send,
) -> PyResult<T> {
    detached(py, work).map_err(|failure| exception(py, path, failure))
}

fn run<T: Ungil + Send>(py: Python<'_>, work: impl FnOnce() -> T + Ungil + Send) -> T {
    py.detach(work)
}

/// A separate call, so that unwinding out of it passes through [`parked`].
#[inline(never)]
fn call<T>(work: impl FnOnce() -> T) -> T {
    work()
}

struct ParkWhenUnwound;

impl Drop for ParkWhenUnwound {
    fn drop(&mut self) {
        // A panic of Rust goes on unwinding.
        while !std::thread::panicking() {
            std::thread::park();
        }
    }
}
