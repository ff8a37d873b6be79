//! Maps failures to Python exceptions (the table under *Errors* in docs/guide.md).

use std::cell::Cell;
use std::io;
use std::path::Path;

use pyo3::exceptions::{
    PyBlockingIOError, PyKeyboardInterrupt, PyMemoryError, PyNotImplementedError, PyOSError, PyRuntimeError,
    PyValueError,
};
use pyo3::prelude::*;

use mmnpz_file::Failure;
use mmnpz_format::error::{ErrorKind, Part};

/// The exception for a failure, which names the file at `path`.
pub(crate) fn exception(py: Python<'_>, path: &Path, failure: Failure) -> PyErr {
    exception_with(py, path, failure, "")
}

/// As [`exception`]; where something is wrong with the archive or a member, with `more` behind the message.
pub(crate) fn exception_with(py: Python<'_>, path: &Path, failure: Failure, more: &str) -> PyErr {
    let message = format!("{}: {failure}{more}", path.display());
    match failure {
        Failure::Interrupted => RAISED.take().unwrap_or_else(|| PyKeyboardInterrupt::new_err("interrupted")),
        Failure::Locked => {
            PyBlockingIOError::new_err((libc::EAGAIN, failure.to_string(), path.as_os_str().to_owned()))
        }
        Failure::Io(error) => os_error(py, &error, path),
        Failure::Irregular => bad_zip_file(py, message),
        Failure::Writing | Failure::GivenUp | Failure::Ended | Failure::InUse | Failure::Changed => {
            PyValueError::new_err(message)
        }
        Failure::Forked | Failure::Poisoned => PyRuntimeError::new_err(message),
        Failure::Format(error) => match error.kind.part() {
            Part::Interrupted => exception(py, path, Failure::Interrupted),
            Part::Archive if error.kind == ErrorKind::SingleNpy => {
                bad_zip_file(py, format!("{message}; open it with np.load(…, mmap_mode=\"r\")"))
            }
            Part::Archive | Part::Missing => bad_zip_file(py, message),
            Part::Unsupported => PyNotImplementedError::new_err(message),
            Part::Memory => PyMemoryError::new_err(message),
            Part::Member | Part::Request => PyValueError::new_err(message),
        },
    }
}

/// `OSError` picks its subclass (`FileNotFoundError`, …) from the error number by itself.
fn os_error(py: Python<'_>, error: &io::Error, path: &Path) -> PyErr {
    let Some(code) = error.raw_os_error() else {
        let message = format!("{}: {error}", path.display());
        return match error.kind() {
            // A NUL in the path: open() raises ValueError, too.
            io::ErrorKind::InvalidInput => PyValueError::new_err(message),
            io::ErrorKind::OutOfMemory => PyMemoryError::new_err(message),
            _ => PyOSError::new_err(message),
        };
    };
    let strerror = || py.import("os")?.call_method1("strerror", (code,))?.extract::<String>();
    strerror()
        .map_or_else(|error| error, |text| PyOSError::new_err((code, text, path.as_os_str().to_owned())))
}

fn bad_zip_file(py: Python<'_>, message: String) -> PyErr {
    // Imported at the first use: `import mmnpz` loads nothing but NumPy.
    let raised = || py.import("zipfile")?.getattr("BadZipFile")?.call1((message,));
    raised().map_or_else(|error| error, PyErr::from_value)
}

/// How many characters of a name a message shows.
const LONGEST: usize = 60;

/// A name for a line of text: without line breaks, and not too long.
pub(crate) fn shown(name: &str) -> String {
    let mut characters = name.chars();
    let start: String = characters.by_ref().take(LONGEST).flat_map(char::escape_debug).collect();
    let rest = if characters.next().is_some() { "…" } else { "" };
    format!("'{start}{rest}'")
}

/// Whether an error says that a member cannot be read as an array.
pub(crate) fn is_bad_member(py: Python<'_>, error: &PyErr) -> bool {
    let is_bad_zip_file =
        || Ok::<_, PyErr>(error.is_instance(py, &py.import("zipfile")?.getattr("BadZipFile")?));
    error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyNotImplementedError>(py)
        || is_bad_zip_file().unwrap_or(false)
}

thread_local! {
    /// The exception of a signal handler, or of a callback, in the middle of work that then stopped.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// For work outside the interpreter: runs pending signal handlers, and returns whether to go on. An exception
/// of a handler is what [`Failure::Interrupted`] becomes in this thread.
pub(crate) fn keep_going() -> bool {
    // A daemon thread may come here after the interpreter has ended. Then there are no handlers.
    Python::try_attach(|py| go_on_unless(py.check_signals())).unwrap_or(true)
}

/// Whether to go on: not after an exception, which is what [`Failure::Interrupted`] becomes in this thread.
pub(crate) fn go_on_unless(raised: PyResult<()>) -> bool {
    match raised {
        Ok(()) => true,
        Err(error) => {
            RAISED.set(Some(error));
            false
        }
    }
}

/// The exception with the file and the member in front of its message, if it is a ValueError, which says what
/// is wrong with a member.
pub(crate) fn in_member(py: Python<'_>, path: &Path, name: &str, error: PyErr) -> PyErr {
    if !error.get_type(py).is(py.get_type::<PyValueError>()) {
        return error;
    }
    let described =
        PyValueError::new_err(format!("{}: member {name:?}: {}", path.display(), error.value(py)));
    described.set_cause(py, error.cause(py));
    described
}
