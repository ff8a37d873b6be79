//! The views that were handed out: exactly one for each member, whoever asks first.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use once_cell::race::OnceBox;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{Borrowed, PyTraverseError, PyVisit, ffi};

use mmnpz_file::fork;
use mmnpz_format::read::walked_index::MemberId;
use mmnpz_format::slots::{NoMemory, Refused, Slots};

/// Whether views are entered in the dict of views when they are published, and looked up there first.
///
/// With a global interpreter lock there is no faster way to look a string up, as Python keeps the hash in the
/// string. Without, threads that add to one dict wait for its lock, and a forked child needs another dict
/// (see [`may_be_locked`]): there the dict is filled from when somebody first asks for it, and lookups never
/// touch it.
pub(crate) const DICT_FIRST: bool = cfg!(not(Py_GIL_DISABLED));

/// Whether a Python object that threads share, made in this fork generation, may be locked for ever here.
///
/// Lists and dicts of free-threaded Python have locks. All threads are stopped for a fork, but one that waits
/// for such a lock may be handed it just then, and there is no such thread in the child.
pub(crate) fn may_be_locked(generation: u64) -> bool {
    cfg!(Py_GIL_DISABLED) && generation != fork::generation()
}

/// The views by name: `NpzReader.arrays`.
pub(crate) struct Listing {
    pub(crate) dict: Py<PyDict>,
    /// All views that were published before it was first asked for have been entered.
    complete: AtomicBool,
    /// How often this process was forked off when the dict was made.
    forks: u64,
}

impl Listing {
    fn new(py: Python<'_>) -> Arc<Self> {
        let dict = PyDict::new(py).unbind();
        Arc::new(Listing { dict, complete: AtomicBool::new(DICT_FIRST), forks: fork::generation() })
    }
}

/// The views whose base is one array over the map.
pub(crate) struct Views {
    /// How many members there are.
    count: usize,
    /// The array over the whole map, base of every view.
    pub(crate) mmap: Py<PyAny>,
    /// Owned references to the views; made when the first is published.
    slots: OnceBox<Slots<ffi::PyObject>>,
    /// Locked for moments, by threads that stay attached meanwhile: no fork finds it locked.
    listing: Mutex<Arc<Listing>>,
    /// Its dict, where that is never replaced.
    first: Option<Py<PyDict>>,
}

impl Views {
    pub(crate) fn new(py: Python<'_>, count: usize, mmap: Py<PyAny>) -> Self {
        let listing = Listing::new(py);
        let first = DICT_FIRST.then(|| listing.dict.clone_ref(py));
        Views { count, mmap, slots: OnceBox::new(), listing: Mutex::new(listing), first }
    }

    fn slots(&self) -> PyResult<&Slots<ffi::PyObject>> {
        let made = self.slots.get_or_try_init(|| Slots::new(self.count).map(Box::new));
        made.map_err(|NoMemory| no_memory())
    }

    /// The view that was published for a member.
    #[inline]
    pub(crate) fn get<'py>(&self, py: Python<'py>, member: MemberId) -> Option<Bound<'py, PyAny>> {
        let view = self.slots.get()?.get(member)?;
        // SAFETY: what is in a slot is a reference to a live object, which the slot owns until `self` is
        // dropped.
        Some(unsafe { Bound::from_borrowed_ptr(py, view.as_ptr()) })
    }

    /// The same without a reference of its own, which threads would wait for each other to count.
    #[inline]
    pub(crate) fn peek<'a, 'py>(
        &'a self,
        py: Python<'py>,
        member: MemberId,
    ) -> Option<Borrowed<'a, 'py, PyAny>> {
        let view = self.slots.get()?.get(member)?;
        // SAFETY: as in `get`; the slot keeps its reference for as long as `self` is borrowed.
        Some(unsafe { Borrowed::from_ptr(py, view.as_ptr()) })
    }

    /// Offers a view for a member and gives back the one that counts, the first that was offered. Says also
    /// whether that must be entered in the dict. It is looked up by others after the call of
    /// [`Views::settle`] that follows. An archive may claim more members than there is memory for: that is a
    /// `MemoryError`.
    pub(crate) fn publish<'py>(
        &self,
        member: MemberId,
        view: Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, bool)> {
        let py = view.py();
        let slots = self.slots()?;
        // The slot gets a reference of its own.
        let offered = view.clone().into_ptr();
        let result = NonNull::new(offered).map_or(Ok(()), |offered| slots.put(member, offered));
        let counts = match result {
            Ok(()) => view,
            Err(refused) => {
                // SAFETY: the reference that was made above, and that the slot did not take.
                drop(unsafe { Bound::from_owned_ptr(py, offered) });
                let Refused::Taken(first) = refused else { return Err(no_memory()) };
                // SAFETY: as in `get`.
                unsafe { Bound::from_borrowed_ptr(py, first.as_ptr()) }
            }
        };
        Ok((counts, DICT_FIRST || slots.is_listed()))
    }

    /// Lets the view of a member be looked up: it is in the dict if it must be.
    pub(crate) fn settle(&self, member: MemberId) {
        if let Some(slots) = self.slots.get() {
            slots.settle(member);
        }
    }

    /// Enters a view in the dict of the views as it is.
    pub(crate) fn enter(&self, name: &Bound<'_, PyString>, view: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = view.py();
        match &self.first {
            Some(dict) => dict.bind(py).set_item(name, view),
            None => self.listing(py).dict.bind(py).set_item(name, view),
        }
    }

    /// The dict of the views as it is.
    pub(crate) fn listing(&self, py: Python<'_>) -> Arc<Listing> {
        let current = Arc::clone(&self.lock());
        if !may_be_locked(current.forks) {
            return current;
        }
        let made = Listing::new(py);
        let mut listing = self.lock();
        if listing.forks == made.forks {
            return Arc::clone(&listing);
        }
        let old = std::mem::replace(&mut *listing, Arc::clone(&made));
        drop(listing);
        drop(old);
        made
    }

    /// The dict of the views, with all that were published; `name` gives the name of a member.
    pub(crate) fn arrays<'py>(
        &self,
        py: Python<'py>,
        name: impl Fn(MemberId) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let listing = self.listing(py);
        let dict = listing.dict.bind(py);
        if !listing.complete.load(Ordering::Acquire) {
            let slots = self.slots()?;
            // From here on, who publishes a view enters it.
            slots.begin_list();
            for (member, view) in slots.iter() {
                // SAFETY: as in `get`.
                let view = unsafe { Bound::from_borrowed_ptr(py, view.as_ptr()) };
                dict.set_item(name(member)?, view)?;
            }
            listing.complete.store(true, Ordering::Release);
        }
        Ok(dict.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Listing>> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the views to the garbage collector. It runs when no thread is in the middle of another call.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.mmap)?;
        if let Ok(listing) = self.listing.try_lock() {
            visit.call(&listing.dict)?;
        }
        visit.call(&self.first)?;
        let slots = self.slots.get().into_iter().flat_map(Slots::iter);
        slots.map(|(_, view)| view).try_for_each(|view| {
            // SAFETY: as in `get`; the count is put right below, without a moment at which it could be seen.
            let view = std::mem::ManuallyDrop::new(unsafe { owned(view) });
            visit.call(&*view)
        })
    }
}

#[cold]
fn no_memory() -> PyErr {
    PyMemoryError::new_err("no memory for the views of so many members")
}

/// A reference that is owned by whoever calls this.
///
/// # Safety
/// The pointer is an owned reference to a live object, which is given up.
unsafe fn owned(object: NonNull<ffi::PyObject>) -> Py<PyAny> {
    // SAFETY: by contract. Py<PyAny> is a non-null pointer to an object, and nothing else.
    unsafe { std::mem::transmute::<NonNull<ffi::PyObject>, Py<PyAny>>(object) }
}

impl Drop for Views {
    fn drop(&mut self) {
        for (_, view) in self.slots.get().into_iter().flat_map(Slots::iter) {
            // SAFETY: the slots own these references, and nobody can see them any more. A `Py` may be dropped
            // with or without the interpreter.
            drop(unsafe { owned(view) });
        }
    }
}
