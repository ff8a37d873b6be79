//! Telling programs how far a long operation is.

use std::path::Path;

use pyo3::prelude::*;

use crate::detach::call_parked;
use crate::error::{go_on_unless, keep_going};

/// What is called with the number of bytes that are done, and of all bytes.
pub(crate) type Told<'a> = Option<&'a Py<PyAny>>;

/// Runs `work` with what the argument `progress` of an operation on the file at `path` has it call: see
/// `mmnpz._progress.told`.
pub(crate) fn telling<'py, T>(
    py: Python<'py>,
    progress: Option<&Bound<'py, PyAny>>,
    path: &Path,
    work: impl FnOnce(Told<'_>) -> PyResult<T>,
) -> PyResult<T> {
    let Some(progress) = progress else { return work(None) };
    let block = py.import("mmnpz._progress")?.call_method1("told", (progress, path.display().to_string()))?;
    let tell = block.call_method0("__enter__")?.extract::<Option<Py<PyAny>>>()?;
    let result = work(tell.as_ref());
    let left = block.call_method1("__exit__", (py.None(), py.None(), py.None()));
    let result = result?;
    left.map(|_| result)
}

/// Tells that all `total` bytes are done.
pub(crate) fn tell_of_all(py: Python<'_>, tell: Told<'_>, total: u64) -> PyResult<()> {
    tell.map_or(Ok(()), |tell| told(tell.bind(py), total, total))
}

/// For work outside the interpreter: tells that `done` bytes of `total` are done, or runs pending signal
/// handlers, and returns whether to go on.
pub(crate) fn tell_of_some(tell: Told<'_>, done: u64, total: impl Into<Option<u64>>) -> bool {
    let Some(tell) = tell else { return keep_going() };
    let total = total.into();
    let done = total.map_or(done, |total| done.min(total));
    // A daemon thread may come here after the interpreter has ended.
    Python::try_attach(|py| go_on_unless(told(tell.bind(py), done, total))).unwrap_or(true)
}

/// Tells how many bytes are done, and how many there are, if that is known.
pub(crate) fn told(tell: &Bound<'_, PyAny>, done: u64, total: impl Into<Option<u64>>) -> PyResult<()> {
    call_parked(tell, &(done, total.into()).into_pyobject(tell.py())?).map(drop)
}
