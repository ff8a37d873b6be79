//! A value that any number of threads read while one replaces it.
//!
//! Where there is a global interpreter lock, that lock keeps them apart, at no cost. On free-threaded Python,
//! a lock in each reader or writer would make threads that share it wait for each other, and a fork could
//! leave it locked for ever. There, reading leaves a mark in memory of the reading thread, and the thread
//! that replaces the value takes over what is still being read (`arc_swap`).

use pyo3::prelude::*;

#[cfg(not(Py_GIL_DISABLED))]
pub(crate) struct SwapCell<T>(std::cell::UnsafeCell<T>);

#[cfg(Py_GIL_DISABLED)]
pub(crate) struct SwapCell<T>(arc_swap::ArcSwap<T>);

// SAFETY: the value is reached only through `visit` and `replace`, with the GIL held, and is then moved or
// copied from without letting go of the GIL: no two threads are in there at once.
#[cfg(not(Py_GIL_DISABLED))]
unsafe impl<T: Send> Sync for SwapCell<T> {}

impl<T: Send + Sync> SwapCell<T> {
    pub(crate) fn new(value: T) -> Self {
        #[cfg(not(Py_GIL_DISABLED))]
        let cell = std::cell::UnsafeCell::new(value);
        #[cfg(Py_GIL_DISABLED)]
        let cell = arc_swap::ArcSwap::from_pointee(value);
        SwapCell(cell)
    }

    /// Takes something out of the value. `read` may count references up; it may not run Python code, drop a
    /// Python object or detach, which would let another thread replace the value under it.
    #[inline]
    pub(crate) fn read<R>(&self, _py: Python<'_>, read: impl FnOnce(&T) -> R) -> R {
        self.visit(read)
    }

    /// Reads the value for the garbage collector, which gives no token.
    #[inline]
    pub(crate) fn visit<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: the GIL is held: by `read`, which has a token, and keeps it by its contract; and by the
        // collector, which never runs in the middle of `replace`.
        #[cfg(not(Py_GIL_DISABLED))]
        let value = unsafe { &*self.0.get() };
        #[cfg(Py_GIL_DISABLED)]
        let value = &self.0.load();
        read(value)
    }

    /// Puts another value in place and gives back the old one, for the caller to drop. On free-threaded
    /// Python the old value goes once no thread reads it any more.
    pub(crate) fn replace(&self, _py: Python<'_>, value: T) -> impl Sized + use<T> {
        // SAFETY: the GIL is held, and a move runs no Python code.
        #[cfg(not(Py_GIL_DISABLED))]
        return std::mem::replace(unsafe { &mut *self.0.get() }, value);
        #[cfg(Py_GIL_DISABLED)]
        self.0.swap(std::sync::Arc::new(value))
    }
}
