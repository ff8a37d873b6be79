//! From the errors of the core and of the operating system to the exceptions that SPEC names, in one place.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use pyo3::exceptions::{
    PyBlockingIOError, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyRuntimeError, PyValueError,
};
use pyo3::prelude::*;

use mmnpz_format::Error;
use mmnpz_format::error::{ErrorKind, Part};

/// What can go wrong outside Python, with the file it happened to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The archive, a member, or what was asked of the writer.
    Format(Error),
    /// The operating system.
    Io(io::Error),
    /// Another writer has the file.
    Locked,
    /// The writer is that of a process that this one was forked off.
    Forked,
    /// Not a file with a content of its own.
    Irregular,
    /// `close` was called in the middle of a `write` of the same thread.
    Writing,
    /// Not the file, or not in the state, that a pickle was made of.
    Changed,
    /// A Python exception, raised by a signal handler.
    Raised(PyErr),
    /// A bug: code panicked where no Python exception can pass.
    Poisoned,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Format(error)
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        Failure::Format(kind.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

impl Failure {
    /// The exception for users.
    pub(crate) fn into_err(self, py: Python<'_>, path: &Path) -> PyErr {
        let (os_path, path) = (path.as_os_str(), path.to_string_lossy());
        match self {
            Failure::Raised(error) => error,
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
                Part::Interrupted => {
                    PyErr::take(py).unwrap_or_else(|| PyKeyboardInterrupt::new_err("interrupted"))
                }
                Part::Archive if error.kind == ErrorKind::SingleNpy => {
                    bad_zip_file(py, format!("{path}: {error}; open it with np.load(…, mmap_mode=\"r\")"))
                }
                Part::Archive => bad_zip_file(py, format!("{path}: {error}")),
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

/// For work outside the interpreter: lets pending signal handlers run, and says whether to go on.
pub(crate) fn check_signals() -> Result<(), Failure> {
    // A daemon thread may come here when the interpreter has ended; then there are no more handlers.
    Python::try_attach(|py| py.check_signals().map_err(Failure::Raised)).unwrap_or(Ok(()))
}

/// Runs work of the core that asks whether to go on, and lets pending signal handlers run whenever it asks.
pub(crate) fn polled<T>(
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> mmnpz_format::error::Result<T>,
) -> Result<T, Failure> {
    let mut raised = None;
    let result = work(&mut || {
        raised = check_signals().err();
        raised.is_none()
    });
    match raised {
        Some(failure) => Err(failure),
        None => Ok(result?),
    }
}
