//! What can go wrong with a file, and whether to go on.

use std::io;

use mmnpz_format::error::{self, ErrorKind};
use mmnpz_format::{Error, Missing};

/// Asked from time to time by whatever can take long: whether to go on. Only the thread that was called asks.
pub type KeepGoing<'a> = &'a dyn Fn() -> bool;

/// What can go wrong.
#[derive(Debug)]
pub enum Failure {
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
    /// The writer was to be closed in the middle of a write of the same thread.
    Writing,
    /// Not the file, or not in the state, that it was to be.
    Changed,
    /// Whoever called said not to go on.
    Interrupted,
    /// A bug: a thread panicked.
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
/// [`Failure::Interrupted`] if not.
pub fn check(keep_going: KeepGoing<'_>) -> Result<(), Failure> {
    if keep_going() { Ok(()) } else { Err(Failure::Interrupted) }
}

/// Runs work of the format crate that asks whether to go on.
///
/// # Errors
/// What that says, and [`Failure::Interrupted`].
pub fn polled<T>(
    keep_going: KeepGoing<'_>,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> error::Result<T>,
) -> Result<T, Failure> {
    Ok(work(&mut || keep_going())?)
}
