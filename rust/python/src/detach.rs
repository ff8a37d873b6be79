//! Running without the interpreter, safe against its end.

use std::path::Path;

use mmnpz_file::Failure;
use pyo3::marker::Ungil;
use pyo3::prelude::*;

use crate::error::exception;

/// Runs `work` detached from the interpreter.
///
/// When a program ends, Python before 3.14 ends a daemon thread that comes back to it by unwinding its stack
/// from C. Rust would take that for a bug in its handling of panics, and abort the process. Here the thread
/// stays where it is, as in Python 3.14.
pub(crate) fn detached<T: Ungil + Send>(py: Python<'_>, work: impl FnOnce() -> T + Ungil + Send) -> T {
    parked(|| run(py, work))
}

/// Calls Python code that a daemon thread may be in when the program ends, as [`detached`] does.
pub(crate) fn parked<T>(work: impl FnOnce() -> T) -> T {
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
