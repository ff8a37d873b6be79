//! Maps failures to Python exceptions (the table under *Errors* in docs/guide.md).

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use pyo3::exceptions::{
    PyBlockingIOError, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;

use mmnpz_file::Failure;
use mmnpz_format::error::{ErrorKind, Part};

/// A failure as the exception for users.
pub(crate) trait IntoErr {
    /// The exception, which names the file.
    fn into_err(self, py: Python<'_>, path: &Path) -> PyErr;
}

impl IntoErr for Failure {
    fn into_err(self, py: Python<'_>, path: &Path) -> PyErr {
        let (os_path, path) = (path.as_os_str(), path.to_string_lossy());
        match self {
            Failure::Interrupted => {
                RAISED.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err("interrupted"))
            }
            Failure::Writing => PyValueError::new_err(format!(
                "{path}: the writer cannot be closed by a signal handler that interrupts its own write"
            )),
            Failure::Changed => PyValueError::new_err(format!(
                "{path}: the file is not the one that the reader was pickled with, or it was changed since"
            )),
            Failure::Forked => PyRuntimeError::new_err(format!(
                "{path}: the writer belongs to the process that opened it, not to its fork"
            )),
            Failure::Locked => {
                let text = "another writer has the file open";
                PyBlockingIOError::new_err((libc::EAGAIN, text, os_path.to_owned()))
            }
            Failure::Irregular => bad_zip_file(py, format!("{path}: not a regular file")),
            Failure::Poisoned => {
                PyRuntimeError::new_err(format!("{path}: an earlier internal error left the writer unusable"))
            }
            Failure::Io(error) => os_error(py, &error, os_path),
            Failure::Format(error) => match error.kind.part() {
                Part::Interrupted => Failure::Interrupted.into_err(py, Path::new("")),
                Part::Archive if error.kind == ErrorKind::SingleNpy => {
                    bad_zip_file(py, format!("{path}: {error}; open it with np.load(…, mmap_mode=\"r\")"))
                }
                Part::Archive | Part::Missing => bad_zip_file(py, format!("{path}: {error}")),
                Part::Memory => PyMemoryError::new_err(format!("{path}: {error}")),
                Part::Member | Part::Request => PyValueError::new_err(format!("{path}: {error}")),
            },
        }
    }
}

/// `OSError` picks its subclass (`FileNotFoundError`, …) from the error number by itself.
fn os_error(py: Python<'_>, error: &io::Error, path: &OsStr) -> PyErr {
    let Some(code) = error.raw_os_error() else {
        if error.kind() == io::ErrorKind::InvalidInput {
            // The same as open() says of a path with a NUL in it.
            return PyValueError::new_err(format!("{}: {error}", path.to_string_lossy()));
        }
        return PyOSError::new_err(format!("{}: {error}", path.to_string_lossy()));
    };
    let strerror = || py.import("os")?.call_method1("strerror", (code,))?.extract::<String>();
    match strerror() {
        Ok(text) => PyOSError::new_err((code, text, path.to_owned())),
        Err(error) => error,
    }
}

fn bad_zip_file(py: Python<'_>, message: String) -> PyErr {
    // Imported when it is needed first: `import mmnpz` loads nothing but NumPy.
    match py.import("zipfile").and_then(|module| module.getattr("BadZipFile")) {
        Ok(class) => match class.call1((message,)) {
            Ok(instance) => PyErr::from_value(instance),
            Err(error) => error,
        },
        Err(error) => error,
    }
}

thread_local! {
    /// What a signal handler, or a callback, raised in the middle of work that was told to stop for that.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// For work outside the interpreter: lets pending signal handlers run, and says whether to go on. If one
/// raised, that is the exception that [`Failure::Interrupted`] becomes in this thread.
pub(crate) fn keep_going() -> bool {
    // A daemon thread may come here when the interpreter has ended; then there are no more handlers.
    Python::try_attach(|py| go_on_unless(py.check_signals())).unwrap_or(true)
}

/// Whether to go on after this: if it is an exception, that is what [`Failure::Interrupted`] becomes in this
/// thread.
pub(crate) fn go_on_unless(raised: PyResult<()>) -> bool {
    match raised {
        Ok(()) => true,
        Err(error) => {
            RAISED.set(Some(error));
            false
        }
    }
}

/// The exception with the file and the member in front of what it says, if it says what is wrong with a
/// member.
pub(crate) fn in_member(py: Python<'_>, path: &Path, name: &str, error: PyErr) -> PyErr {
    if !error.get_type(py).is(py.get_type::<PyValueError>()) {
        return error;
    }
    let described =
        PyValueError::new_err(format!("{}: member {name:?}: {}", path.display(), error.value(py)));
    described.set_cause(py, error.cause(py));
    described
}
