//! Failures of work on a file, and the question whether to go on.

use std::io;

use mmnpz_format::error::{self, ErrorKind};
use mmnpz_format::{Error, Missing};

/// Says whether to go on. Work that can take long calls this from time to time, in the thread of its caller
/// only.
pub type KeepGoing<'a> = &'a dyn Fn() -> bool;

/// As [`KeepGoing`], and is told how many bytes are done.
pub type Progress<'a> = &'a dyn Fn(u64) -> bool;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something is wrong with the archive, with a member, or with what the writer was asked to write.
    #[error(transparent)]
    Format(Error),
    /// The operating system refused something.
    #[error(transparent)]
    Io(io::Error),
    /// Another writer has the file.
    #[error("another writer has the file open")]
    Locked,
    /// A forked child used the writer of its parent.
    #[error("the writer belongs to the process that opened it, not to its fork")]
    Forked,
    /// Not a regular file, but a device or a pipe.
    #[error("not a regular file")]
    Irregular,
    /// The writer is closed in the middle of a write of the same thread: by a signal handler, or by what
    /// gives it arrays.
    #[error("the writer cannot be closed in the middle of a write of the same thread")]
    Writing,
    /// An array that grows was finished, or given up.
    #[error("the stream is closed")]
    Ended,
    /// An array that grows is used by a signal handler that runs in the middle of adding rows to it.
    #[error("the stream is in use by what this interrupts")]
    InUse,
    /// The writer was closed while a program filled an array.
    #[error("the writer was closed before the array was finished")]
    GivenUp,
    /// The file has another [`Identity`](crate::mapping::Identity) than the caller expects.
    #[error("the file is not the one that was pickled, or it was changed since")]
    Changed,
    /// The caller's [`KeepGoing`] said no.
    #[error("interrupted")]
    Interrupted,
    /// A bug: a thread panicked.
    #[error("an earlier internal error left the writer unusable")]
    Poisoned,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.kind == ErrorKind::Interrupted { Failure::Interrupted } else { Failure::Format(error) }
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        Error::from(kind).into()
    }
}

impl From<Missing> for Failure {
    #[cold]
    fn from(missing: Missing) -> Self {
        Error::from(missing).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// Asks whether to go on.
///
/// # Errors
/// [`Failure::Interrupted`] if the answer is no.
pub fn check(keep_going: KeepGoing<'_>) -> Result<(), Failure> {
    if keep_going() { Ok(()) } else { Err(Failure::Interrupted) }
}

/// Runs work of the format crate that asks whether to go on.
///
/// # Errors
/// Those of the work, and [`Failure::Interrupted`].
pub fn polled<T>(
    keep_going: KeepGoing<'_>,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> error::Result<T>,
) -> Result<T, Failure> {
    Ok(work(&mut || keep_going())?)
}
