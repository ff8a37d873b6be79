//! Running without the interpreter, safe against its end.

use std::path::Path;

use mmnpz_file::Failure;
use pyo3::marker::Ungil;
use pyo3::prelude::*;

use crate::error::exception;

/// Runs `work` detached from the interpreter.
///
/// When a program ends, Python before 3.14 ends daemon threads that come back to it by unwinding their stack
/// from C. Rust's own handling of panics would take that for a bug and abort the process; here the thread
/// stays where it is instead, as in Python 3.14.
pub(crate) fn detached<T: Ungil + Send>(py: Python<'_>, work: impl FnOnce() -> T + Ungil + Send) -> T {
    let parked = ParkWhenUnwound;
    let result = run(py, work);
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

/// A call of its own: what it unwinds with passes through [`detached`].
#[inline(never)]
fn run<T: Ungil + Send>(py: Python<'_>, work: impl FnOnce() -> T + Ungil + Send) -> T {
    py.detach(work)
}

struct ParkWhenUnwound;

impl Drop for ParkWhenUnwound {
    fn drop(&mut self) {
        // A panic of ours goes its way.
        while !std::thread::panicking() {
            std::thread::park();
        }
    }
}
