//! The view cache: exactly one view of each member, whoever asks first.
//!
//! A map owns the views, see [`mmnpz_file::first_wins`]. No Python code runs and no Python object is dropped
//! while that map holds a lock, and no thread detaches from the interpreter or blocks meanwhile: no lock
//! leaves that module, whose calls back into this one count references up, or show them to the garbage
//! collector.
//!
//! **Forks.** Can a child be forked while another thread of the parent holds a lock of the map?
//!
//! - *With a global interpreter lock*, a thread that holds a lock holds the interpreter too. Whoever forks
//!   with the interpreter (`os.fork`, or C code that kept it) forks while no lock is held. If C code forks
//!   without the interpreter, the child can use Python only if no thread held the interpreter at that moment,
//!   and so no lock: else the child waits for the interpreter for ever, before it comes here.
//! - *On free-threaded Python*, `os.fork` and all else that calls `PyOS_BeforeFork` stops the world first:
//!   each thread has come to a point where it waits for the interpreter, and none does that while it holds a
//!   lock. But C code may call `fork` by itself, and then other threads may be anywhere.
//!
//! So on free-threaded Python a child does not trust the locks. It begins another [`Generation`], which takes
//! the parent's map over if all locks of it are free. If not, it copies the map as far as that goes without
//! waiting, and leaks the original. Either way it finds the views that were published before, except those of
//! a shard that was locked for writing. The core's module never parks a thread, so no lock of a table of
//! parked threads can be lost either.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mmnpz_file::first_wins::{FirstWins, NoMemory, Owner};
use mmnpz_format::read::walked_index::MemberId;
use once_cell::race::OnceBox;
use pyo3::Borrowed;
use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};

use mmnpz_file::fork;

/// Whether views are entered in the dict of views when they are published, and looked up there first.
///
/// With a global interpreter lock there is no faster way to look a string up, as Python keeps the hash in the
/// string. Without, threads that add to one dict wait for its lock, and a forked child needs another dict
/// (see [`may_be_locked`]): there the dict is filled from when somebody first asks for it, and lookups never
/// touch it.
pub(crate) const DICT_FIRST: bool = cfg!(not(Py_GIL_DISABLED));

/// How many locks a map has, of 128 bytes each. Threads that publish views without a global interpreter lock
/// wait for each other only within a shard; with one, no thread ever waits, and two is the least that
/// `DashMap` takes.
const SHARDS: usize = if DICT_FIRST { 2 } else { 8 };

/// A view that a map owns.
struct View(Py<PyAny>);

impl Owner for View {
    type Target = ffi::PyObject;

    fn pointer(&self) -> NonNull<ffi::PyObject> {
        // SAFETY: a `Py` is a reference to a live object, and never null.
        unsafe { NonNull::new_unchecked(self.0.as_ptr()) }
    }
}

type Map = FirstWins<View>;

/// Whether a Python object or a lock that threads share, made in this fork generation, may be locked for ever
/// here.
///
/// Lists and dicts of free-threaded Python have locks. All threads are stopped for a fork, but one that waits
/// for such a lock may be handed it just then, and there is no such thread in the child.
#[inline]
pub(crate) fn may_be_locked(generation: u64) -> bool {
    cfg!(Py_GIL_DISABLED) && generation != fork::generation()
}

/// What a process has of the views. A forked child begins another generation, where locks may have been lost.
struct Generation {
    /// The fork generation of the process that began it.
    forks: u64,
    /// The views by name: `NpzReader.arrays`.
    dict: Py<PyDict>,
    /// Whether the dict has all views that were published before somebody first asked for it.
    is_complete: AtomicBool,
    /// The views by member; made when the first one is published.
    map: OnceBox<Arc<Map>>,
    /// The generation after a fork.
    next: OnceBox<Generation>,
}

impl Generation {
    fn new(py: Python<'_>) -> Self {
        Generation {
            forks: fork::generation(),
            dict: PyDict::new(py).unbind(),
            is_complete: AtomicBool::new(DICT_FIRST),
            map: OnceBox::new(),
            next: OnceBox::new(),
        }
    }

    /// The generation that follows this one in a forked child. Several threads of the child may come here at
    /// once: each begins one, and the first counts.
    #[cold]
    fn successor(&self, py: Python<'_>) -> &Self {
        let Some(map) = self.map.get() else {
            return self.next.get_or_init(|| Box::new(Self::new(py)));
        };
        // Until the child goes on with this very map, nobody may free it: neither a table that a lost thread
        // was changing, nor a view that it was counting.
        let leaked = ManuallyDrop::new(Arc::clone(map));
        let successor = self.next.get_or_init(|| {
            let copied = || Arc::new(map.copy(|view| View(view.0.clone_ref(py))));
            let map = if map.is_free() { Arc::clone(map) } else { copied() };
            let successor = Self::new(py);
            // It is the first: nobody else has this generation yet.
            let _ = successor.map.set(Box::new(map));
            Box::new(successor)
        });
        if successor.map.get().is_some_and(|successor| Arc::ptr_eq(successor, map)) {
            drop(ManuallyDrop::into_inner(leaked));
        }
        successor
    }

    fn map_or_make(&self) -> &Map {
        self.map.get_or_init(|| Box::new(Arc::new(new_map())))
    }
}

fn new_map() -> Map {
    FirstWins::new(SHARDS, DICT_FIRST)
}

/// The views whose base is one array over the map of the file.
pub(crate) struct ViewCache {
    /// The array over the whole map of the file, base of every view.
    pub(crate) mmap: Py<PyAny>,
    first: Generation,
}

impl ViewCache {
    pub(crate) fn new(py: Python<'_>, mmap: Py<PyAny>) -> Self {
        ViewCache { mmap, first: Generation::new(py) }
    }

    /// The generation of this process.
    #[inline]
    fn generation(&self, py: Python<'_>) -> &Generation {
        let mut generation = &self.first;
        while may_be_locked(generation.forks) {
            generation = generation.next.get().unwrap_or_else(|| generation.successor(py));
        }
        generation
    }

    /// Returns the view that was published for a member.
    #[inline]
    pub(crate) fn get<'py>(&self, py: Python<'py>, member: MemberId) -> Option<Bound<'py, PyAny>> {
        self.peek(py, member).map(Borrowed::to_owned)
    }

    /// Returns the view without a reference of its own, which threads would wait for each other to count.
    #[inline]
    pub(crate) fn peek<'a, 'py>(
        &'a self,
        py: Python<'py>,
        member: MemberId,
    ) -> Option<Borrowed<'a, 'py, PyAny>> {
        let view = self.generation(py).map.get()?.get(member)?;
        // SAFETY: a map keeps its reference to the object until the map is dropped, and a generation its map
        // until `self` is dropped, which cannot be while it is borrowed.
        Some(unsafe { Borrowed::from_ptr(py, view.as_ptr()) })
    }

    /// Publishes a view of a member, and returns the one that counts, the first that was published. Lookups
    /// find it once it is in the dict of views, if there is one to keep up to date.
    ///
    /// An archive may claim more members than there is memory for: that is a `MemoryError`.
    pub(crate) fn publish<'py>(
        &self,
        member: MemberId,
        name: &Bound<'py, PyString>,
        view: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = view.py();
        let generation = self.generation(py);
        let map = generation.map_or_make();
        let published = map.publish(member, View(view.unbind())).map_err(no_memory)?;
        // SAFETY: as in `peek`.
        let view = unsafe { Bound::from_borrowed_ptr(py, published.pointer.as_ptr()) };
        if published.is_hidden {
            // Also if another thread was the first: it may be slow, or a thread that this forked process does
            // not have.
            generation.dict.bind(py).set_item(name, &view)?;
            map.reveal(member);
        }
        Ok(view)
    }

    /// The dict of the views as it is.
    pub(crate) fn dict<'py>(&self, py: Python<'py>) -> &Bound<'py, PyDict> {
        self.generation(py).dict.bind(py)
    }

    /// The dict of the views, with all that were published; `name` gives the name of a member.
    pub(crate) fn arrays<'py>(
        &self,
        py: Python<'py>,
        name: impl Fn(MemberId) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let generation = self.generation(py);
        let dict = generation.dict.bind(py);
        if !generation.is_complete.load(Ordering::Acquire) {
            // From here on, who publishes a view enters it.
            for (member, view) in generation.map_or_make().list().map_err(no_memory)? {
                // SAFETY: as in `peek`.
                let view = unsafe { Bound::from_borrowed_ptr(py, view.as_ptr()) };
                dict.set_item(name(member)?, view)?;
            }
            generation.is_complete.store(true, Ordering::Release);
        }
        Ok(dict.clone())
    }

    /// Shows the views to the garbage collector, which runs with the interpreter or while the world is
    /// stopped: no thread is in the middle of another call. It never waits for a lock. Views of a shard that
    /// a forked child finds locked look as if someone else had them, each time: they stay.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.mmap)?;
        let mut last = &self.first;
        visit.call(&last.dict)?;
        while let Some(next) = last.next.get() {
            last = next;
            visit.call(&last.dict)?;
        }
        // Earlier generations have the same map, or one that was leaked with its references.
        last.map.get().map_or(Ok(()), |map| map.try_for_each(|view| visit.call(&view.0)))
    }
}

/// All views of an archive, on their way into a cache that no other thread can reach yet.
pub(crate) struct Preload<'a> {
    cache: &'a ViewCache,
    map: Map,
}

impl<'a> Preload<'a> {
    /// Reserves memory for `count` views.
    pub(crate) fn new(cache: &'a ViewCache, count: usize) -> Self {
        let mut map = new_map();
        map.reserve(count);
        Preload { cache, map }
    }

    /// Adds the view of a member that has none.
    pub(crate) fn add(
        &mut self,
        member: MemberId,
        name: &Bound<'_, PyString>,
        view: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = view.py();
        let view = self.map.insert(member, View(view.unbind())).map_err(no_memory)?;
        if DICT_FIRST {
            // SAFETY: the map has a reference to the object, and is kept in `self`.
            let view = unsafe { Bound::from_borrowed_ptr(py, view.as_ptr()) };
            self.cache.dict(py).set_item(name, view)?;
        }
        Ok(())
    }

    /// Hands the views over to the cache.
    pub(crate) fn finish(self) {
        // The map of a cache that has one already stays.
        let _ = self.cache.first.map.set(Box::new(Arc::new(self.map)));
    }
}

#[cold]
fn no_memory(NoMemory: NoMemory) -> PyErr {
    PyMemoryError::new_err("no memory for the views of so many members")
}
