//! A value that any number of threads read while one replaces it.
//!
//! Where there is a global interpreter lock it is that lock which keeps them apart, at no cost. On
//! free-threaded Python a lock in each reader or writer would make threads that share it wait for each other,
//! and a fork could leave it locked for ever; there, reading leaves a mark that is the thread's own, and
//! whoever replaces the value takes over what is still being read (`arc_swap`).

use pyo3::prelude::*;

#[cfg(not(Py_GIL_DISABLED))]
pub(crate) struct SwapCell<T>(std::cell::UnsafeCell<T>);

// SAFETY: the value is reached only through `read`, `visit` and `replace`, which need the GIL, and is then
// moved or copied from without letting go of it: no two threads are in there at once.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<T: Send> Sync for SwapCell<T> {}

#[cfg(not(Py_GIL_DISABLED))]
impl<T: Send + Sync> SwapCell<T> {
    pub(crate) fn new(value: T) -> Self {
        SwapCell(std::cell::UnsafeCell::new(value))
    }

    /// Takes something out of the value. `read` may count references up; it may not run Python code, drop a
    /// Python object or detach, which would let another thread replace the value under it.
    #[inline]
    pub(crate) fn read<R>(&self, _py: Python<'_>, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the GIL is held (`_py`) and, by this function's contract, kept.
        read(unsafe { &*self.0.get() })
    }

    /// Reads the value for the garbage collector, which gives no token.
    pub(crate) fn visit<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the collector runs with the GIL held and never in the middle of `replace`.
        read(unsafe { &*self.0.get() })
    }

    /// Puts another value in place and gives back the old one, for the caller to drop.
    pub(crate) fn replace(&self, _py: Python<'_>, value: T) -> impl Sized + use<T> {
        // SAFETY: the GIL is held, and a move runs no Python code.
        std::mem::replace(unsafe { &mut *self.0.get() }, value)
    }
}

#[cfg(Py_GIL_DISABLED)]
pub(crate) struct SwapCell<T>(arc_swap::ArcSwap<T>);

#[cfg(Py_GIL_DISABLED)]
impl<T: Send + Sync> SwapCell<T> {
    pub(crate) fn new(value: T) -> Self {
        SwapCell(arc_swap::ArcSwap::from_pointee(value))
    }

    /// Takes something out of the value, which stays as it is meanwhile.
    #[inline]
    pub(crate) fn read<R>(&self, _py: Python<'_>, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.load())
    }

    /// Reads the value for the garbage collector, which gives no token.
    pub(crate) fn visit<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.0.load())
    }

    /// Puts another value in place and gives back the old one, for the caller to drop: it goes once nobody
    /// reads it any more.
    pub(crate) fn replace(&self, _py: Python<'_>, value: T) -> impl Sized + use<T> {
        self.0.swap(std::sync::Arc::new(value))
    }
}
